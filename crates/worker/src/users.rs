//! Users and groups, looked up in the `/etc/passwd` and `/etc/group` of the tree that a step works on: never in the host's.
//!
//! `USER` of a process follows runc (moby/sys `user.GetExecUser`); `--chown` differs in that a number alone is its own group.

use std::io::Read;
use std::path::Path;

use executor::User as ProcessUser;
use files::{FileTree, Kind};
use graph::{Owner, OwnerId};

use crate::WorkerError;

/// Files larger than this are not user databases (BuildKit's limit).
const LIMIT: u64 = 10 << 20;

/// An id, or nothing: `chown` and `setresuid` take the largest number for "leave it as it is".
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

/// The user and group files of a tree; a missing file has no entries.
#[derive(Debug, Default)]
pub(crate) struct UserDatabase {
    users: Vec<User>,
    groups: Vec<Group>,
}

#[derive(Debug, PartialEq)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

#[derive(Debug, PartialEq)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl UserDatabase {
    /// Reads the two files of a tree.
    pub(crate) fn read(tree: &dyn FileTree) -> Result<UserDatabase, WorkerError> {
        Ok(UserDatabase::parse(&read(tree, "etc/passwd")?, &read(tree, "etc/group")?))
    }

    fn parse(passwd: &str, group: &str) -> UserDatabase {
        let lines = |text: &str| -> Vec<Vec<String>> {
            let fields = |line: &str| line.split(':').map(|field| field.trim().to_owned()).collect();
            text.lines().filter(|line| !line.trim().is_empty()).map(fields).collect()
        };
        let number = |fields: &[String], index: usize| id(fields.get(index)?);
        let user = |fields: Vec<String>| {
            Some(User {
                uid: number(&fields, 2)?,
                gid: number(&fields, 3)?,
                name: fields.into_iter().next()?,
            })
        };
        let group_of = |fields: Vec<String>| {
            let gid = number(&fields, 2)?;
            let members =
                fields.get(3).map(|list| list.split(',').map(|name| name.trim().to_owned()).collect());
            Some(Group { gid, members: members.unwrap_or_default(), name: fields.into_iter().next()? })
        };
        UserDatabase {
            users: lines(passwd).into_iter().filter_map(user).collect(),
            groups: lines(group).into_iter().filter_map(group_of).collect(),
        }
    }

    /// Who `USER spec` is: `user[:group]`, each a name or a number, empty for root. A user without group has the
    /// primary group of its entry (0 without one) and the groups that list it.
    pub(crate) fn process_user(&self, spec: &str) -> Result<ProcessUser, WorkerError> {
        let (user, group) = match spec.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (spec, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let number = id(user);
        let entry = self.users.iter().find(|entry| match number {
            Some(uid) => entry.uid == uid,
            None => entry.name == user,
        });
        let Some(uid) = entry.map(|entry| entry.uid).or(number) else {
            return Err(WorkerError::UnknownUser {
                kind: "user",
                name: user.to_owned(),
                file: "/etc/passwd",
            });
        };
        if let Some(group) = group {
            return Ok(ProcessUser { uid, gid: self.group(group)?, additional_gids: Vec::new() });
        }
        let mut additional_gids = Vec::new();
        if let Some(entry) = entry {
            let listed = self.groups.iter().filter(|group| group.members.contains(&entry.name));
            additional_gids.extend(listed.map(|group| group.gid));
        }
        Ok(ProcessUser { uid, gid: entry.map_or(0, |entry| entry.gid), additional_gids })
    }

    /// The numbers of `--chown`: a name without group has its primary group, a number without group is its own group.
    pub(crate) fn owner(&self, owner: &Owner) -> Result<(u32, u32), WorkerError> {
        let (uid, primary) = self.user_of(owner)?;
        Ok((uid, self.group_of(owner, primary)?))
    }

    /// As [`Self::owner`], with root and the user's group where a name is not there; `unknown` hears of it. The owner of a
    /// WORKDIR, whose USER may come to exist in a later step.
    pub(crate) fn owner_or_root(&self, owner: &Owner, unknown: &mut dyn FnMut(WorkerError)) -> (u32, u32) {
        let (uid, primary) = self.user_of(owner).unwrap_or_else(|error| {
            unknown(error);
            (0, 0)
        });
        let gid = self.group_of(owner, primary).unwrap_or_else(|error| {
            unknown(error);
            primary
        });
        (uid, gid)
    }

    /// The id and the primary group.
    fn user_of(&self, owner: &Owner) -> Result<(u32, u32), WorkerError> {
        let name = match &owner.user {
            OwnerId::Number(uid) => return Ok((*uid, *uid)),
            OwnerId::Name(name) => name,
        };
        match self.users.iter().find(|user| user.name == *name) {
            Some(user) => Ok((user.uid, user.gid)),
            // Every image has it, also one without /etc/passwd.
            None if name == "root" => Ok((0, 0)),
            None => Err(WorkerError::UnknownUser { kind: "user", name: name.clone(), file: "/etc/passwd" }),
        }
    }

    fn group_of(&self, owner: &Owner, primary: u32) -> Result<u32, WorkerError> {
        match &owner.group {
            None => Ok(primary),
            Some(OwnerId::Number(gid)) => Ok(*gid),
            Some(OwnerId::Name(name)) => self.group(name),
        }
    }

    fn group(&self, group: &str) -> Result<u32, WorkerError> {
        if let Some(gid) = id(group) {
            return Ok(gid);
        }
        match self.groups.iter().find(|entry| entry.name == group) {
            Some(entry) => Ok(entry.gid),
            None if group == "root" => Ok(0),
            None => {
                Err(WorkerError::UnknownUser { kind: "group", name: group.to_owned(), file: "/etc/group" })
            }
        }
    }
}

/// Reads a file of a tree as text, following links inside the tree. Absent, or anything but a regular file, reads as empty.
fn read(tree: &dyn FileTree, path: &str) -> Result<String, WorkerError> {
    let path = files::resolve(tree, Path::new(path), true)?;
    match tree.metadata(&path)? {
        Some(metadata) if metadata.kind == Kind::File => {}
        _ => return Ok(String::new()),
    }
    let mut bytes = Vec::new();
    let read = tree.open(&path)?.take(LIMIT + 1).read_to_end(&mut bytes);
    read.map_err(|source| WorkerError::io("read", &path, source))?;
    if bytes.len() as u64 > LIMIT {
        let source = std::io::Error::other(format!("larger than {LIMIT} bytes"));
        return Err(WorkerError::io("read", &path, source));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> UserDatabase {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nwww:x:33:330::/:/bin/false\n\nbroken:x:y:z\n7:x:700:701::/:\n";
        let group = "root:x:0:\nstaff:x:50:www, root\nweb:x:330:\naudio:x:29:www\nseven:x:7:\n";
        UserDatabase::parse(passwd, group)
    }

    fn user(spec: &str) -> Option<(u32, u32, Vec<u32>)> {
        database().process_user(spec).ok().map(|user| (user.uid, user.gid, user.additional_gids))
    }

    #[test]
    fn users_of_processes() {
        assert_eq!(user(""), Some((0, 0, vec![50])));
        assert_eq!(user("www"), Some((33, 330, vec![50, 29])));
        assert_eq!(user("33"), Some((33, 330, vec![50, 29])), "a number with an entry is that user");
        assert_eq!(user("1234"), Some((1234, 0, vec![])), "without one, the group is root's");
        assert_eq!(user("1234:5"), Some((1234, 5, vec![])));
        assert_eq!(user("www:audio"), Some((33, 29, vec![])), "a group given leaves out the others");
        assert_eq!(user(":audio"), Some((0, 29, vec![])));
        assert_eq!(user("nobody"), None);
        assert_eq!(user("www:nogroup"), None);
        assert_eq!(user("4294967294"), Some((u32::MAX - 1, 0, vec![])));
        assert_eq!(user("4294967295"), None, "the kernel takes it for no change: it would be root");
        assert_eq!(user("5:4294967295"), None);
    }

    #[test]
    fn owners_of_directories_that_nobody_knows_yet() {
        let named = |user: OwnerId, group| {
            let mut unknown = Vec::new();
            let ids = database().owner_or_root(&Owner { user, group }, &mut |error| {
                unknown.push(error.to_string());
            });
            (ids, unknown.len())
        };
        let name = |name: &str| OwnerId::Name(name.into());
        assert_eq!(named(name("www"), None), ((33, 330), 0));
        assert_eq!(named(name("app"), None), ((0, 0), 1));
        assert_eq!(named(OwnerId::Number(5), Some(name("app"))), ((5, 5), 1), "the user is known");
        assert_eq!(named(name("app"), Some(name("web"))), ((0, 330), 1), "the group is known");
    }

    #[test]
    fn owners_of_copies() {
        let owner = |user: &str, group: Option<&str>| {
            let id = |text: &str| text.parse().map_or_else(|_| OwnerId::Name(text.into()), OwnerId::Number);
            database().owner(&Owner { user: id(user), group: group.map(id) }).ok()
        };
        assert_eq!(owner("5", None), Some((5, 5)));
        assert_eq!(owner("www", None), Some((33, 330)));
        assert_eq!(owner("www", Some("audio")), Some((33, 29)));
        assert_eq!(owner("5", Some("6")), Some((5, 6)));
        assert_eq!(owner("nobody", None), None);
        assert_eq!(owner("5", Some("nogroup")), None);
    }

    #[test]
    fn an_image_without_files_has_root_alone() {
        let empty = UserDatabase::default();
        assert_eq!(empty.process_user("").unwrap().uid, 0);
        assert!(empty.process_user("root").is_err(), "as runc: a name needs an entry");
        let root = Owner { user: OwnerId::Name("root".into()), group: Some(OwnerId::Name("root".into())) };
        assert_eq!(empty.owner(&root).unwrap(), (0, 0));
    }
}
