use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::CacheError;
use crate::error::At;
use crate::store::Inner;

/// The bytes in the file `secret-v1`, made when they are missing.
pub(crate) fn of_store(inner: &Inner) -> Result<[u8; 32], CacheError> {
    let path = inner.layout.secret();
    loop {
        match fs::read(&path) {
            Ok(bytes) => {
                if let Ok(secret) = bytes.try_into() {
                    return Ok(secret);
                }
                // Cut off with the power. What was hashed with it compares as changed, once.
                fs::remove_file(&path).at("remove", &path)?;
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at("read", &path),
            Err(_) => {}
        }
        let mut secret = [0; 32];
        let random = Path::new("/dev/urandom");
        File::open(random).and_then(|mut file| file.read_exact(&mut secret)).at("read", random)?;
        let fresh = inner.scratch.fresh()?;
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| file.write_all(&secret));
        written.at("write", &fresh)?;
        // Complete when it is visible; of several processes the first one's counts.
        let linked = fs::hard_link(&fresh, &path);
        fs::remove_file(&fresh).at("remove", &fresh)?;
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).at("create", &path);
            }
            _ => {}
        }
    }
}
