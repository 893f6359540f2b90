//! A root file system in memory, written as a tar whose bytes depend on its content only.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use tar::{Archive, Builder, EntryType, Header};

use super::EPOCH;
use crate::shell::Result;

/// Paths without a leading slash, to what is there.
#[derive(Default)]
pub(super) struct Rootfs {
    nodes: BTreeMap<String, Node>,
}

struct Node {
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: u64,
    kind: Kind,
}

enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(String),
    /// Another name of the file at this path.
    Link(String),
}

impl Rootfs {
    pub(super) fn directory(&mut self, path: &str, mode: u32) -> &mut Self {
        self.insert(path, mode, Kind::Directory)
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> &mut Self {
        self.insert(path, mode, Kind::File(bytes.into()))
    }

    pub(super) fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.insert(path, 0o777, Kind::Symlink(target.to_owned()))
    }

    /// Takes away whatever is at a path or below it.
    pub(super) fn remove(&mut self, path: &str) -> &mut Self {
        let below = format!("{path}/");
        self.nodes.retain(|known, _| known != path && !known.starts_with(&below));
        self
    }

    fn insert(&mut self, path: &str, mode: u32, kind: Kind) -> &mut Self {
        self.nodes.insert(path.to_owned(), Node { mode, uid: 0, gid: 0, mtime: EPOCH, kind });
        self
    }

    /// Reads a tar. Device nodes are left out: `/dev` is made anew in every container.
    pub(super) fn from_tar(tar: impl Read) -> Result<Self> {
        let mut rootfs = Self::default();
        for entry in Archive::new(tar).entries()? {
            let mut entry = entry?;
            let path = String::from_utf8(entry.path_bytes().into_owned())?;
            let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
            let link = match entry.link_name_bytes() {
                Some(link) => String::from_utf8(link.into_owned())?,
                None => String::new(),
            };
            let kind = match entry.header().entry_type() {
                EntryType::Directory => Kind::Directory,
                EntryType::Symlink => Kind::Symlink(link),
                EntryType::Link => Kind::Link(link.trim_start_matches("./").to_owned()),
                EntryType::Regular => {
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes)?;
                    Kind::File(bytes)
                }
                _ => continue,
            };
            let header = entry.header();
            let mtime = header.mtime()?.min(EPOCH);
            let node =
                Node { mode: header.mode()? & 0o7777, uid: header.uid()?, gid: header.gid()?, mtime, kind };
            if !path.is_empty() {
                rootfs.nodes.insert(path, node);
            }
        }
        Ok(rootfs)
    }

    /// Writes the tar: sorted by path, hard links last, so that what they name is already there.
    pub(super) fn write_tar<W: Write>(&self, sink: W) -> Result<W> {
        let mut tar = Builder::new(sink);
        let is_link = |node: &Node| matches!(node.kind, Kind::Link(_));
        let files = self.nodes.iter().filter(|(_, node)| !is_link(node));
        let links = self.nodes.iter().filter(|(_, node)| is_link(node));
        for (path, node) in files.chain(links) {
            let mut header = Header::new_gnu();
            header.set_mode(node.mode);
            header.set_uid(node.uid);
            header.set_gid(node.gid);
            header.set_mtime(node.mtime);
            header.set_size(0);
            match &node.kind {
                Kind::Directory => {
                    header.set_entry_type(EntryType::Directory);
                    tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
                }
                Kind::File(bytes) => {
                    header.set_entry_type(EntryType::Regular);
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, path, bytes.as_slice())?;
                }
                Kind::Symlink(target) => {
                    header.set_entry_type(EntryType::Symlink);
                    tar.append_link(&mut header, path, target)?;
                }
                Kind::Link(target) => {
                    header.set_entry_type(EntryType::Link);
                    tar.append_link(&mut header, path, target)?;
                }
            }
        }
        Ok(tar.into_inner()?)
    }
}
