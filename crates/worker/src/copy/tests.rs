//! A layer that is written as what is different from an earlier version is the layer that is written in full.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use cache::{RootForm, SnapshotId, Store, StoreOptions, TreeView};
use files::{DirectoryTree, NoCache, Owners, PathSelection, Selection};
use image::Compression;
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::*;
use crate::cancel::Cancel;
use crate::pack::{LayerForm, pack};

/// Numbers that look random, the same in every run.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// A path of one to three short names, some of which sort around a slash.
    fn path(&mut self) -> PathBuf {
        (0..=self.below(3)).map(|_| *self.pick(&["a", "b", "a-b", "a.b", "c"])).collect()
    }
}

/// Does one random thing to a directory.
fn disturb(root: &Path, random: &mut Random) {
    let path = root.join(random.path());
    let other = root.join(random.path());
    let found = fs::symlink_metadata(&path).ok();
    match random.below(14) {
        0 | 1 => {
            let _ = fs::remove_file(&path);
        }
        2 => {
            let _ = fs::remove_dir_all(&path);
        }
        3 | 4 => {
            let _ = fs::rename(&path, &other);
        }
        5 if found.as_ref().is_some_and(fs::Metadata::is_file) => {
            let _ = fs::hard_link(&path, &other);
        }
        6 if found.as_ref().is_some_and(|found| !found.is_symlink()) => {
            let mode = *random.pick(&[0o755, 0o644, 0o4755, 0o1777, 0o600]);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        7 if found.as_ref().is_some_and(|found| found.is_file() || found.is_dir()) => {
            let value = random.below(3).to_string();
            rustix::fs::lsetxattr(&path, "user.note", value.as_bytes(), XattrFlags::empty()).unwrap();
        }
        8 if found.as_ref().is_some_and(|found| found.is_file() || found.is_dir()) => {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(random.below(5));
            fs::File::open(&path).unwrap().set_modified(time).unwrap();
        }
        9 if found.as_ref().is_some_and(fs::Metadata::is_file) => {
            // With another name of the file, if it has one.
            fs::File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap();
        }
        kind => {
            if found.is_some() || fs::create_dir_all(path.parent().unwrap()).is_err() {
                return;
            }
            match kind % 5 {
                0 => symlink(random.pick(&["a", "../b", "/etc/passwd"]), &path).unwrap(),
                1 => fs::create_dir(&path).unwrap(),
                2 => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap(),
                _ => fs::write(&path, random.below(1000).to_string()).unwrap(),
            }
        }
    }
}

/// Does something to a file that has several names.
fn disturb_links(context: &Path, random: &mut Random) {
    let file = context.join("a").join(random.pick(&["many1/f1", "many1/hard", "many2/f2", "many3/hard"]));
    let _ = match random.below(4) {
        0 => fs::remove_file(&file),
        1 => fs::hard_link(&file, file.with_extension("more")),
        2 => fs::remove_file(&file).and_then(|()| fs::write(&file, "alone")),
        _ => fs::File::options().append(true).open(&file).and_then(|mut file| file.write_all(b"more")),
    };
}

/// Everything that a tree says, the number of names of files included. Without times of the root and of the directories in `made`, which
/// are those of writing.
fn describe(tree: &dyn FileTree, made: &[&str]) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let metadata = tree.metadata(&path).unwrap().unwrap();
        let content = match metadata.kind {
            Kind::File => {
                let mut text = String::new();
                tree.open(&path).unwrap().read_to_string(&mut text).unwrap();
                text
            }
            Kind::Symlink => tree.read_link(&path).unwrap().display().to_string(),
            Kind::Directory => {
                left.extend(tree.list(&path).unwrap().into_iter().map(|(name, _)| path.join(name)));
                String::new()
            }
            _ => String::new(),
        };
        let is_directory = metadata.kind == Kind::Directory;
        let (size, links) = if is_directory { (0, 0) } else { (metadata.size, metadata.links) };
        let is_made = path.as_os_str().is_empty() || made.iter().any(|made| Path::new(made) == path);
        let mtime = if is_made { (0, 0) } else { metadata.mtime };
        let Metadata { kind, mode, uid, gid, device, .. } = metadata;
        let xattrs = tree.xattrs(&path).unwrap();
        let line = format!(
            "{kind:?} {mode:o} {uid}:{gid} {size} {links} {mtime:?} {device:?} {content:?} {xattrs:?}"
        );
        all.insert(path, line);
    }
    all
}

/// What an overlay mount of the layers shows.
fn mounted(store: &Store, layers: &[SnapshotId], made: &[&str]) -> BTreeMap<PathBuf, String> {
    let root = store.begin_root(layers).unwrap();
    let RootForm::Overlay { lower, .. } = root.form() else { panic!("no overlay") };
    let target = tempfile::tempdir().unwrap();
    let lower: Vec<String> = lower.iter().map(|dir| dir.display().to_string()).collect();
    let options = format!("lowerdir={},redirect_dir=off,metacopy=off,index=off", lower.join(":"));
    let options = std::ffi::CString::new(options).unwrap();
    let flags = rustix::mount::MountFlags::RDONLY;
    rustix::mount::mount("overlay", target.path(), "overlay", flags, Some(options.as_c_str())).unwrap();
    let all = describe(&DirectoryTree::open(target.path(), &Owners::Real).unwrap(), made);
    rustix::mount::unmount(target.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    all
}

/// Copies a path of the context over `below`; an error as text.
fn build(
    store: &Store,
    below: &[SnapshotId],
    op: &Copy,
    tree: &Arc<dyn FileTree>,
    path: &str,
) -> Result<SnapshotId, String> {
    let selection = Selection::Path(PathSelection::exact(path));
    let selected = files::select(&**tree, &selection, &|| false).unwrap();
    let digest = files::digest(&selected, &**tree, &NoCache, &|| false).unwrap().digest;
    let sources = [Source { tree: tree.clone(), selected: Arc::new(selected), digest }];
    let identity = StableHasher::new("test").with(&selection).with(&op.destination).with(&op.mode);
    let versions = Versions { identity, anew: false };
    let mut layer = store.begin(below).unwrap();
    let changes = copy(op, &sources, &versions, &mut layer, &|| false).map_err(|error| error.to_string())?;
    Ok(layer.commit(&changes).unwrap().id())
}

/// A step of the test: a copy over a base, of whatever the context is at that time.
struct Case {
    op: Copy,
    path: &'static str,
    /// Directories that the copy makes.
    made: &'static [&'static str],
    /// Whether the layer knows nothing of what is below.
    link: bool,
}

fn cases() -> Vec<Case> {
    let op = |destination: &str| Copy {
        destination: destination.to_owned(),
        owner: None,
        mode: None,
        unpack: false,
        packed: Vec::new(),
    };
    let owner = graph::Owner { user: graph::OwnerId::Number(3), group: Some(graph::OwnerId::Number(4)) };
    vec![
        Case { op: op("/app"), path: "", made: &[], link: false },
        Case { op: op("/new/place"), path: "", made: &["new", "new/place"], link: false },
        Case { op: op("/"), path: "", made: &[], link: false },
        Case { op: op("/link/"), path: "a", made: &[], link: false },
        Case { op: Copy { owner: Some(owner), ..op("/app/") }, path: "", made: &[], link: false },
        Case { op: Copy { mode: "u+x,g-r".parse().ok(), ..op("/app") }, path: "", made: &[], link: false },
        Case { op: op("/app"), path: "", made: &["app"], link: true },
    ]
}

const FORM: LayerForm = LayerForm { compression: Compression::None, level: None, epoch: None };

/// What is compared of one layer.
#[derive(Debug, PartialEq)]
struct Shown {
    view: BTreeMap<PathBuf, String>,
    mounted: BTreeMap<PathBuf, String>,
    entries: Vec<image::layer::Entry>,
    /// Of the packed layer; where times are those of writing, nothing.
    diff_id: Option<hash::Digest>,
}

fn show(store: &Store, below: &[SnapshotId], layer: SnapshotId, made: &[&str]) -> Shown {
    let layers = [below, &[layer]].concat();
    let snapshot = store.snapshot(layer).unwrap().unwrap();
    let mut entries = snapshot.entries().unwrap().entries().to_vec();
    for entry in &mut entries {
        if made.iter().any(|made| made.as_bytes() == entry.path) {
            (entry.mtime, entry.mtime_nanos) = (0, 0);
        }
    }
    let packed = pack(store, &snapshot, FORM, &Cancel::default(), &trace::Scope::none()).unwrap();
    Shown {
        view: describe(&TreeView::new(store, &layers).unwrap(), made),
        mounted: mounted(store, &layers, made),
        entries,
        diff_id: made.is_empty().then_some(packed.diff_id),
    }
}

/// Runs the test in a process of its own with a private mount namespace.
fn in_mount_namespace(test: &str, body: impl FnOnce()) {
    const INSIDE: &str = "WORKER_TEST_IN_NAMESPACE";
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .expect("unshare (util-linux) and permission to use it are needed");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn open(dir: &Path, separate_versions: bool) -> Store {
    Store::open(dir, StoreOptions { separate_versions, ..StoreOptions::default() }).unwrap()
}

/// The image below: some things that are in the way, and a link to where things go.
fn base(store: &Store, from: &Path) -> SnapshotId {
    let layer = store.begin(&[]).unwrap();
    let tree: Arc<dyn FileTree> = Arc::new(DirectoryTree::context(from).unwrap());
    let selected = files::select(&*tree, &Selection::Whole, &|| false).unwrap();
    let writer = writer_of(&layer).unwrap();
    let options = CopyOptions { keep_top: true, ..CopyOptions::default() };
    files::write_selected(&*tree, &selected.matches[0], &writer, &options, &|| false).unwrap();
    writer.finish().unwrap();
    let changes = layer.changes().unwrap();
    layer.commit(&changes).unwrap().id()
}

#[test]
fn a_version_is_what_it_would_be_in_full() {
    const NAME: &str = "copy::tests::a_version_is_what_it_would_be_in_full";
    in_mount_namespace(NAME, || {
        let mut counts = Counts::default();
        let rounds = std::env::var("WORKER_TEST_ROUNDS").ok().and_then(|text| text.parse().ok());
        for seed in 1..=rounds.unwrap_or(14) {
            let case = &cases()[seed as usize % cases().len()];
            follow(seed, case, &mut counts);
        }
        assert!(counts.over > 30 && counts.with_removals > 5 && counts.full > 5, "{counts:?}");
        assert!(counts.grouped > 3 && counts.refused < counts.over, "{counts:?}");
    });
}

#[derive(Debug, Default)]
struct Counts {
    /// Layers that are versions of others, and of those: with marks of removal, with files of several names in both directories.
    over: u32,
    with_removals: u32,
    grouped: u32,
    full: u32,
    /// Copies that are errors.
    refused: u32,
}

fn follow(seed: u64, case: &Case, counts: &mut Counts) {
    let mut random = Random::new(seed);
    let dir = tempfile::tempdir().unwrap();
    let (context, image) = (dir.path().join("context"), dir.path().join("image"));
    for directory in ["image/app", "image/where", "context/a"] {
        fs::create_dir_all(dir.path().join(directory)).unwrap();
    }
    symlink("/where", image.join("link")).unwrap();
    for _ in 0..random.below(6) {
        disturb(&image.join(random.pick(&["app", "where", ""])), &mut random);
    }
    // So many files that one more or less is a small change.
    for file in 0..60 {
        let path = context.join(format!("a/many{}/f{file}", file % 4));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("{}", file / 2)).unwrap();
    }
    fs::hard_link(context.join("a/many1/f1"), context.join("a/many1/hard")).unwrap();
    fs::hard_link(context.join("a/many2/f2"), context.join("a/many3/hard")).unwrap();
    for _ in 0..10 {
        disturb(&context, &mut random);
    }
    let (versions, full) = (open(&dir.path().join("versions"), false), open(&dir.path().join("full"), true));
    let (base_versions, base_full) = (base(&versions, &image), base(&full, &image));
    for round in 0..8 {
        if round > 0 {
            for _ in 0..=random.below(3) {
                disturb(&context, &mut random);
            }
            if random.below(3) == 0 {
                disturb_links(&context, &mut random);
            }
        }
        if !context.join(case.path).exists() {
            break;
        }
        let tree: Arc<dyn FileTree> = Arc::new(DirectoryTree::context(&context).unwrap());
        let place = format!("seed {seed}, round {round}, {}", case.op.destination);
        let below = (vec![base_versions], vec![base_full]);
        let known = |below: &Vec<SnapshotId>| if case.link { Vec::new() } else { below.clone() };
        let built = build(&versions, &known(&below.0), &case.op, &tree, case.path);
        let expected = build(&full, &known(&below.1), &case.op, &tree, case.path);
        let (built, expected) = match (built, expected) {
            (Ok(built), Ok(expected)) => (built, expected),
            (built, expected) => {
                assert_eq!(built.err(), expected.err(), "{place}");
                counts.refused += 1;
                continue;
            }
        };
        count(&versions, built, counts);
        let actual = show(&versions, &below.0, built, case.made);
        let expected_shown = show(&full, &below.1, expected, case.made);
        same(actual.entries.iter(), expected_shown.entries.iter(), &place);
        same(actual.view.iter(), expected_shown.view.iter(), &place);
        same(actual.mounted.iter(), expected_shown.mounted.iter(), &place);
        assert_eq!(actual.diff_id, expected_shown.diff_id, "{place}");
        let changes = |store: &Store, id| *store.snapshot(id).unwrap().unwrap().changes();
        assert_eq!(changes(&versions, built), changes(&full, expected), "{place}");
    }
}

/// Says what is different first: the whole would fill a screen.
fn same<T: PartialEq + std::fmt::Debug>(
    actual: impl Iterator<Item = T>,
    expected: impl Iterator<Item = T>,
    place: &str,
) {
    let (mut actual, mut expected) = (actual.fuse(), expected.fuse());
    loop {
        match (actual.next(), expected.next()) {
            (None, None) => return,
            (actual, expected) => assert_eq!(actual, expected, "{place}"),
        }
    }
}

fn count(store: &Store, layer: SnapshotId, counts: &mut Counts) {
    let snapshot = store.snapshot(layer).unwrap().unwrap();
    let dirs: Vec<&Path> = snapshot.dirs().collect();
    let [own, _] = dirs.as_slice() else {
        counts.full += 1;
        return;
    };
    counts.over += 1;
    let (mut removals, mut groups) = (0, 0);
    let mut left = vec![own.to_path_buf()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            removals += u32::from(metadata.mode() & 0o170_000 == 0o020_000);
            groups += u32::from(metadata.is_file() && metadata.nlink() > 1);
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    counts.with_removals += u32::from(removals > 0);
    counts.grouped += u32::from(groups > 0);
}
