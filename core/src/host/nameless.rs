//! Files without a name (`O_TMPFILE`), which get one when they are complete.
//!
//! A process that is killed while it writes such a file leaves nothing behind, neither half a file nor a temporary one that
//! somebody would have to find. Not every file system has them; callers fall back to a temporary name.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// A new file, 0600, on the file system of `directory`; `None` where the file system has no such files.
///
/// # Errors
/// Of the operating system, as if a file were created in `directory`.
pub(crate) fn create(directory: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(descriptor) => Ok(Some(File::from(descriptor))),
        // A kernel that does not know the flag says that a directory cannot be written.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives a file of [`create`] its name, in the same file system, if no other file has that name
/// ([`io::ErrorKind::AlreadyExists`]).
///
/// # Errors
/// Of the operating system.
pub(crate) fn give_name(file: &File, name: &Path) -> io::Result<()> {
    // The one way that needs no privilege (open(2), O_TMPFILE).
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, source, CWD, name, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_nameless_file_is_seen_when_it_is_named_and_takes_no_name_away() {
        let directory = tempfile::tempdir().unwrap();
        let Some(mut file) = create(directory.path()).unwrap() else { return };
        file.write_all(b"x").unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let name = directory.path().join("a");
        give_name(&file, &name).unwrap();
        assert_eq!(std::fs::read(&name).unwrap(), b"x");
        let other = create(directory.path()).unwrap().unwrap();
        assert_eq!(give_name(&other, &name).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(create(&directory.path().join("absent")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
