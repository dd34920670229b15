//! Damage that is done to a backup, and mended again when it is dropped, so that one backup serves for many.

use std::fs;
use std::path::{Path, PathBuf};

use crate::user;

/// Size of a page of PostgreSQL.
pub const PAGE: usize = 8192;

/// A file or directory that is not what it was.
#[derive(Debug)]
#[must_use = "it is mended when this is dropped"]
pub struct Damage {
    path: PathBuf,
    was: Was,
}

#[derive(Debug)]
enum Was {
    File(Vec<u8>),
    Elsewhere(PathBuf),
}

impl Damage {
    /// Changes the content of a file.
    #[track_caller]
    pub fn change(path: &Path, how: impl FnOnce(&mut Vec<u8>)) -> Self {
        let was = fs::read(path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        let mut now = was.clone();
        how(&mut now);
        assert_ne!(was, now, "nothing was done to {}", path.display());
        write(path, &now);
        Self { path: path.to_owned(), was: Was::File(was) }
    }

    /// Changes text in a file, which has to be there.
    #[track_caller]
    pub fn replace(path: &Path, from: &str, to: &str) -> Self {
        Self::change(path, |bytes| {
            let text = String::from_utf8(bytes.clone()).expect("it is text");
            assert!(text.contains(from), "{} has no {from:?}: {text}", path.display());
            *bytes = text.replace(from, to).into_bytes();
        })
    }

    /// Flips a bit of a byte.
    #[track_caller]
    pub fn flip(path: &Path, at: usize) -> Self {
        Self::change(path, |bytes| bytes[at] ^= 0x10)
    }

    /// Takes a file or a directory away.
    #[track_caller]
    pub fn remove(path: &Path) -> Self {
        let mut name = path.file_name().expect("it has a name").to_owned();
        name.push(".away");
        let to = path.with_file_name(name);
        fs::rename(path, &to).unwrap_or_else(|error| panic!("rename {}: {error}", path.display()));
        Self { path: path.to_owned(), was: Was::Elsewhere(to) }
    }

    /// Puts another directory in its place, a copy of which is taken.
    #[track_caller]
    pub fn exchange(path: &Path, other: &Path) -> Self {
        let damage = Self::remove(path);
        crate::command::run(std::process::Command::new("cp").args(["-a", "--reflink=auto"]).arg(other).arg(path));
        damage
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    user::give(path);
}

impl Drop for Damage {
    fn drop(&mut self) {
        match &self.was {
            Was::File(bytes) => write(&self.path, bytes),
            Was::Elsewhere(place) => {
                // What was put there instead, if anything was.
                let _ = fs::remove_dir_all(&self.path);
                fs::rename(place, &self.path).unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
            }
        }
    }
}
