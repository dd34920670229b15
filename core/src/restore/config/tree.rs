//! The files of a data directory on this host, as a [`ConfigSource`]: read without following any link, and not without end.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

use super::walk::{ConfigSource, Found};
use crate::error::{Error, Result};
use crate::host::beneath::Beneath;

/// The longest file that is read. PostgreSQL's own sample has 30 kB.
const LONGEST: u64 = 16 << 20;

/// A data directory, or a snapshot of one.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
    /// The directory itself, if it is open: then the path is for messages only.
    open: Option<Beneath>,
}

impl Tree {
    /// The one at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), open: None }
    }

    /// The one that is open.
    pub(in crate::restore) fn within(directory: Beneath) -> Self {
        Self { root: directory.path().to_owned(), open: Some(directory) }
    }

    /// Opens what is at `name`, one directory after the other. `None`: a link is on the way, or it is one.
    fn open(&self, name: &Path) -> std::result::Result<Option<File>, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let top = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = match &self.open {
            Some(directory) => openat(directory.as_fd(), c".", top, Mode::empty())?,
            None => openat(CWD, &self.root, top, Mode::empty())?,
        };
        for part in name.components() {
            let part: &OsStr = match part {
                Component::Normal(part) => part,
                _ => return Err(Errno::INVAL),
            };
            at = match openat(&at, part, flags, Mode::empty()) {
                // ELOOP is a link that was not followed.
                Err(Errno::LOOP) => return Ok(None),
                other => other?,
            };
        }
        Ok(Some(at.into()))
    }

    fn failed(&self, what: &str, name: &Path, error: Errno) -> Error {
        Error::io(what, self.root.join(name), error.into())
    }
}

impl ConfigSource for Tree {
    fn read(&self, name: &Path) -> Result<Found> {
        let file = match self.open(name) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(Found::Link),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL) => return Ok(Found::Nothing),
            Err(error) => return Err(self.failed("open", name, error)),
        };
        let fail = |error| Error::io("read", self.root.join(name), error);
        let meta = file.metadata().map_err(fail)?;
        // A directory of that name, a pipe: PostgreSQL will say what it thinks of it.
        if !meta.is_file() {
            return Ok(Found::Nothing);
        }
        let mut content = Vec::new();
        file.take(LONGEST + 1).read_to_end(&mut content).map_err(fail)?;
        if content.len() as u64 > LONGEST {
            let path = self.root.join(name);
            return Err(Error::precondition(format!("{} is larger than any configuration file", path.display())));
        }
        Ok(Found::File(content))
    }

    fn list(&self, directory: &Path) -> Result<Vec<PathBuf>> {
        use std::os::unix::ffi::OsStrExt;
        let file = match self.open(directory) {
            Ok(Some(file)) => file,
            Ok(None) | Err(Errno::NOENT | Errno::NOTDIR | Errno::INVAL) => return Ok(Vec::new()),
            Err(error) => return Err(self.failed("open", directory, error)),
        };
        let fail = |error| self.failed("read the directory", directory, error);
        let entries = match rustix::fs::Dir::read_from(&file) {
            Err(Errno::NOTDIR) => return Ok(Vec::new()),
            other => other.map_err(fail)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(PathBuf::from(OsStr::from_bytes(name)));
            }
        }
        Ok(names)
    }

    fn is_there(&self, path: &Path) -> bool {
        path.exists()
    }
}
