//! Who has a lock, for people who have to wait for it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// So many are named.
const NAMED: usize = 3;

/// The processes that have a file locked, in words: `` `builder run` (process 4711)``. Those of other users and other namespaces are not to
/// be seen; where none is, what it may be.
pub(crate) fn in_words(path: &Path) -> String {
    let holders: Vec<String> = processes(path).into_iter().filter_map(command).collect();
    match holders.len() {
        0 => "another command: a build, `builder run`, `builder push` or the like".to_owned(),
        number if number > NAMED => {
            format!("{} and {} more", holders[..NAMED].join(", "), number - NAMED)
        }
        _ => holders.join(", "),
    }
}

/// As the kernel lists them (`proc_locks(5)`), where they have that very file open: its number alone may be that of a file elsewhere.
fn processes(path: &Path) -> Vec<u32> {
    let (Ok(file), Ok(locks)) = (fs::metadata(path), fs::read_to_string("/proc/locks")) else {
        return Vec::new();
    };
    let mut found: Vec<u32> = locks.lines().filter_map(|line| holder(line, file.ino())).collect();
    found.sort_unstable();
    found.dedup();
    let is_open = |process: &u32| {
        let Ok(open) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
        open.filter_map(Result::ok).any(|entry| {
            fs::metadata(entry.path()).is_ok_and(|open| (open.dev(), open.ino()) == (file.dev(), file.ino()))
        })
    };
    found.retain(is_open);
    found
}

/// The process of a line such as `1: FLOCK  ADVISORY  READ 4711 08:01:1234 0 EOF`; those that wait have an arrow in it.
fn holder(line: &str, inode: u64) -> Option<u32> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, "FLOCK", _, _, process, file, ..] = fields[..] else { return None };
    let is_this = file.rsplit(':').next()?.parse() == Ok(inode);
    is_this.then(|| process.parse().ok()).flatten()
}

/// The program and its first argument that is no option: more is nobody's business.
fn command(process: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{process}/cmdline")).ok()?;
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let program = Path::new(&*words[0]).file_name()?.to_string_lossy().into_owned();
    let first = words[1..].iter().find(|word| !word.is_empty() && !word.starts_with('-'));
    let name = first.map_or_else(|| program.clone(), |first| format!("{program} {first}"));
    Some(format!("`{}` (process {process})", name.escape_debug()))
}

#[cfg(test)]
mod tests {
    use rustix::fs::FlockOperation;

    use super::*;
    use crate::lock::Lock;

    #[test]
    fn lines_of_locks() {
        assert_eq!(holder("1: FLOCK  ADVISORY  READ 4711 08:01:1234 0 EOF", 1234), Some(4711));
        assert_eq!(holder("1: FLOCK  ADVISORY  READ 4711 08:01:1235 0 EOF", 1234), None);
        assert_eq!(holder("1: -> FLOCK  ADVISORY  WRITE 4712 08:01:1234 0 EOF", 1234), None);
        assert_eq!(holder("2: POSIX  ADVISORY  WRITE 4711 08:01:1234 0 EOF", 1234), None);
        assert_eq!(holder("", 1234), None);
    }

    #[test]
    fn who_has_a_lock_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = |how| {
            let file = crate::layout::open_lock_file(&path).unwrap();
            Lock::wait(file, how, &path).unwrap()
        };
        drop(lock(FlockOperation::LockShared));
        assert!(in_words(&path).starts_with("another command"));
        let held = [lock(FlockOperation::LockShared), lock(FlockOperation::LockShared)];
        let words = in_words(&path);
        assert!(words.ends_with(&format!("(process {})", std::process::id())), "{words}");
        drop(held);
    }
}
