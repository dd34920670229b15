//! Work in a directory that somebody else may write to.
//!
//! A data directory belongs to the user of the server, and root works in it: makes files, gives them away, removes. Between any
//! look and any act the owner can put a link to `/etc` in the place of a directory. So nothing here goes by a path: the directory
//! is opened once, and everything in it is reached from there, name by name, through no link. What is a link, or something
//! else than it should be, counts as not there, or is an error; it is never followed.
//!
//! Not here: whether the way *to* that directory can be trusted. Who calls has been given it by the user.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::below::{DIRECTORY, open_below};
use super::remove;
use crate::error::{Error, Result};

/// How a plain file is opened: a pipe does not make us wait, a link is an error.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
/// How a file is made: where nothing is, not even a link.
const MAKE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// How often a name is freed that somebody takes again and again.
const ROUNDS: u32 = 16;

/// An open directory, and the path that it was opened by, for messages.
#[derive(Debug)]
pub(crate) struct Beneath {
    directory: OwnedFd,
    path: PathBuf,
}

impl AsFd for Beneath {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// What [`Beneath::walk`] comes by.
pub(crate) struct Entry<'a> {
    directory: BorrowedFd<'a>,
    name: &'a OsStr,
    path: PathBuf,
    stat: Stat,
}

impl Beneath {
    /// Opens a directory, which is not a link itself.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let directory = rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(|error| match error {
            Errno::LOOP | Errno::NOTDIR => Error::precondition(format!("{} is not a directory", path.display())),
            error => Error::io("open", path, error.into()),
        })?;
        Ok(Self { directory, path: path.to_owned() })
    }

    /// The directory above `path`, and its last name.
    pub(crate) fn above(path: &Path) -> Result<(Self, &OsStr)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::invalid(format!("not a path to anything: {}", path.display())));
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        // The way to it is the user's: the last part may be a link, as `pg_wal` may be.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(parent, flags, Mode::empty()).map_err(|error| Error::io("open", parent, error.into()))?;
        Ok((Self { directory, path: parent.to_owned() }, name))
    }

    /// The path it was opened by.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Another handle of the same directory.
    pub(crate) fn try_clone(&self) -> Result<Self> {
        let directory =
            open_below(self.directory.as_fd(), []).map_err(|error| self.fail("open", Path::new(""), error))?;
        Ok(Self { directory, path: self.path.clone() })
    }

    /// What it is.
    pub(crate) fn stat(&self) -> Result<Stat> {
        rustix::fs::fstat(&self.directory).map_err(|error| self.fail("look at", Path::new(""), error))
    }

    /// The directory `name`, of one part or more; `None` if that is none.
    pub(crate) fn enter(&self, name: &Path) -> Result<Option<Self>> {
        let names = names(name)?;
        match open_below(self.directory.as_fd(), names.iter().map(CString::as_c_str)) {
            Ok(directory) => Ok(Some(Self { directory, path: self.path.join(name) })),
            Err(error) if is_absent(error) => Ok(None),
            Err(error) => Err(self.fail("open", name, error)),
        }
    }

    /// The directory that `name` is in, and its last part; `None` if there is no such directory.
    fn holder<'n>(&self, name: &'n Path) -> Result<Option<(Self, &'n OsStr)>> {
        let last = name.file_name().ok_or_else(|| bad_name(name))?;
        Ok(self.enter(name.parent().unwrap_or(Path::new("")))?.map(|directory| (directory, last)))
    }

    /// What is at `name`, a link as such.
    pub(crate) fn look(&self, name: &Path) -> Result<Option<Stat>> {
        let Some((directory, last)) = self.holder(name)? else { return Ok(None) };
        match rustix::fs::statat(&directory.directory, last, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if is_absent(error) => Ok(None),
            Err(error) => Err(self.fail("look at", name, error)),
        }
    }

    /// The names in it.
    pub(crate) fn names(&self) -> Result<Vec<OsString>> {
        let fail = |error| self.fail("read the directory", Path::new(""), error);
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.directory).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// The content of a plain file of at most `limit` bytes; `None` if there is none.
    pub(crate) fn read(&self, name: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some((directory, last)) = self.holder(name)? else { return Ok(None) };
        let file = match rustix::fs::openat(&directory.directory, last, READ, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(error) if is_absent(error) => return Ok(None),
            Err(error) => return Err(self.fail("open", name, error)),
        };
        read_plain(file, &self.path.join(name), limit)
    }

    /// Removes what is at `name`, with all below it; false if there was nothing.
    pub(crate) fn remove(&self, name: &Path) -> Result<bool> {
        let Some((directory, last)) = self.holder(name)? else { return Ok(false) };
        match rustix::fs::unlinkat(&directory.directory, last, AtFlags::empty()) {
            Ok(()) => return Ok(true),
            Err(Errno::NOENT) => return Ok(false),
            Err(Errno::ISDIR) => {}
            Err(error) => return Err(self.fail("remove", name, error)),
        }
        remove::remove_at(directory.directory.as_fd(), last)
            .map(|()| true)
            .map_err(|error| Error::io("remove", self.path.join(name), error))
    }

    /// Makes a directory; false if there is one.
    ///
    /// # Errors
    /// `precondition` if something else is there.
    pub(crate) fn make_directory(&self, name: &Path, mode: u32) -> Result<bool> {
        let in_the_way =
            || Error::precondition(format!("{} is in the way: not a directory", self.path.join(name).display()));
        let Some((directory, last)) = self.holder(name)? else { return Err(in_the_way()) };
        match rustix::fs::mkdirat(&directory.directory, last, Mode::from_raw_mode(mode)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => match self.look(name)? {
                Some(stat) if is_directory(&stat) => Ok(false),
                _ => Err(in_the_way()),
            },
            Err(error) => Err(self.fail("make the directory", name, error)),
        }
    }

    /// Makes the link `name`, where nothing is.
    pub(crate) fn link(&self, name: &Path, to: &Path) -> Result<()> {
        let (directory, last) = self.holder(name)?.ok_or_else(|| self.fail("make the link", name, Errno::NOENT))?;
        rustix::fs::symlinkat(to, &directory.directory, last).map_err(|error| self.fail("make the link", name, error))
    }

    /// Gives what is at `name` to somebody, a link as such.
    pub(crate) fn give(&self, name: &Path, (uid, gid): (u32, u32)) -> Result<()> {
        let (directory, last) =
            self.holder(name)?.ok_or_else(|| self.fail("change the owner of", name, Errno::NOENT))?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(&directory.directory, last, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.fail("change the owner of", name, error))
    }

    /// Gives the directory itself to somebody.
    pub(crate) fn give_itself(&self, (uid, gid): (u32, u32)) -> Result<()> {
        rustix::fs::fchown(&self.directory, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(|error| self.fail("change the owner of", Path::new(""), error))
    }

    /// Gives the directory itself a mode.
    pub(crate) fn set_mode(&self, mode: u32) -> Result<()> {
        rustix::fs::fchmod(&self.directory, Mode::from_raw_mode(mode))
            .map_err(|error| self.fail("change the mode of", Path::new(""), error))
    }

    /// Writes a file under a temporary name, durably, with its mode and owner, and renames it to `name`.
    pub(crate) fn write(&self, name: &Path, content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Result<()> {
        let fail = |error: std::io::Error| Error::io("write", self.path.join(name), error);
        let (directory, last) = self.holder(name)?.ok_or_else(|| fail(Errno::NOENT.into()))?;
        let mut temporary = last.to_owned();
        temporary.push(".barman-snap.tmp");
        let mut file = directory.make_file(Path::new(&temporary))?;
        let written = file.write_all(content).and_then(|()| file.sync_all());
        written.map_err(fail)?;
        // The mode of `open` is cut by the umask; and whoever owns the directory does not reach the file before it is whole.
        if let Some((uid, gid)) = owner {
            rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|error| fail(error.into()))?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(|error| fail(error.into()))?;
        directory.rename(&temporary, last).and_then(|()| directory.sync())
    }

    /// A new file, 0600, in the place of whatever has that name.
    pub(crate) fn make_file(&self, name: &Path) -> Result<File> {
        for _ in 0..ROUNDS {
            match rustix::fs::openat(&self.directory, name, MAKE, Mode::RUSR | Mode::WUSR) {
                Ok(file) => return Ok(file.into()),
                Err(Errno::EXIST) => self.remove(name).map(|_| ())?,
                Err(error) => return Err(self.fail("write", name, error)),
            }
        }
        let path = self.path.join(name);
        Err(Error::precondition(format!(
            "cannot write {}: somebody puts something there again and again",
            path.display()
        )))
    }

    /// A new file, 0600, that is only ever added to, and read through the same handle.
    pub(crate) fn make_log(&self, name: &Path) -> Result<File> {
        let flags = MAKE.difference(OFlags::WRONLY).union(OFlags::RDWR).union(OFlags::APPEND);
        rustix::fs::openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(|error| self.fail("write", name, error))
    }

    /// Gives another name to what is in it, in the place of whatever has that.
    pub(crate) fn rename(&self, from: &OsStr, to: &OsStr) -> Result<()> {
        rustix::fs::renameat(&self.directory, from, &self.directory, to)
            .map_err(|error| self.fail("write", Path::new(to), error))
    }

    /// Makes its names durable.
    pub(crate) fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.directory).map_err(|error| self.fail("sync", Path::new(""), error))
    }

    /// Makes everything on its file system durable, in one call instead of one per file.
    pub(crate) fn sync_file_system(&self) -> Result<()> {
        rustix::fs::syncfs(&self.directory).map_err(|error| self.fail("sync", Path::new(""), error))
    }

    /// Comes by everything below, each directory before what is in it, and goes into those for which `visit` says so. Few
    /// directories are open meanwhile, however deep it goes. What vanishes is left out.
    pub(crate) fn walk(&self, visit: &mut dyn FnMut(&Entry<'_>) -> Result<bool>) -> Result<()> {
        let mut todo: Vec<PathBuf> = vec![PathBuf::new()];
        while let Some(way) = todo.pop() {
            let Some(directory) = self.enter(&way)? else { continue };
            for name in directory.names()? {
                let fail = |error| directory.fail("look at", Path::new(&name), error);
                let stat = match rustix::fs::statat(&directory.directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(error) if is_absent(error) => continue,
                    Err(error) => return Err(fail(error)),
                };
                let path = directory.path.join(&name);
                let entry = Entry { directory: directory.directory.as_fd(), name: &name, path, stat };
                if visit(&entry)? && is_directory(&stat) {
                    todo.push(way.join(&name));
                }
            }
        }
        Ok(())
    }

    fn fail(&self, action: &str, name: &Path, error: Errno) -> Error {
        let path = if name.as_os_str().is_empty() { self.path.clone() } else { self.path.join(name) };
        Error::io(action, path, error.into())
    }
}

impl Entry<'_> {
    /// Its path, for messages and to judge it by.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it, with all below.
    pub(crate) fn remove(&self) -> Result<()> {
        let fail = |error: std::io::Error| Error::io("remove", &self.path, error);
        match rustix::fs::unlinkat(self.directory, self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => remove::remove_at(self.directory, self.name).map_err(fail),
            Err(error) => Err(fail(error.into())),
        }
    }

    /// Gives it to somebody, a link as such.
    ///
    /// # Errors
    /// `precondition` for a file of root that has other names as well: it may be one of the system, and this name of it may have
    /// been made by whoever owns the directory.
    pub(crate) fn give(&self, (uid, gid): (u32, u32)) -> Result<()> {
        if (self.stat.st_uid, self.stat.st_gid) == (uid, gid) {
            return Ok(());
        }
        if self.stat.st_uid == 0 && self.stat.st_nlink > 1 && !is_directory(&self.stat) {
            return Err(Error::precondition(format!(
                "{} belongs to root and has other names (hard links), so it is not given to another user",
                self.path.display()
            ))
            .with_hint("no server makes such a file: see who did, and remove it"));
        }
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match rustix::fs::chownat(self.directory, self.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::io("change the owner of", &self.path, error.into())),
        }
    }
}

/// The content of a plain file at a path that somebody else may have made, of at most `limit` bytes; `None` if there is none, or it
/// is something else.
///
/// # Errors
/// Those of the file system, and `precondition` for a larger one.
pub(crate) fn read_file(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match rustix::fs::open(path, READ, Mode::empty()) {
        Ok(file) => read_plain(file.into(), path, limit),
        Err(error) if is_absent(error) => Ok(None),
        Err(error) => Err(Error::io("read", path, error.into())),
    }
}

fn read_plain(file: File, path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let fail = |error| Error::io("read", path, error);
    if !file.metadata().map_err(fail)?.is_file() {
        return Ok(None);
    }
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content).map_err(fail)?;
    if content.len() as u64 > limit {
        return Err(Error::precondition(format!("{} is larger than such a file can be", path.display())));
    }
    Ok(Some(content))
}

/// True for a directory, not for a link to one.
pub(crate) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// True for a symbolic link.
pub(crate) fn is_link(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
}

/// Nothing there, or something else on the way: a file, a link, a socket.
fn is_absent(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::STALE)
}

fn names(path: &Path) -> Result<Vec<CString>> {
    let part = |part: Component<'_>| match part {
        Component::Normal(name) => CString::new(name.as_bytes()).map_err(|_| bad_name(path)),
        _ => Err(bad_name(path)),
    };
    path.components().map(part).collect()
}

fn bad_name(path: &Path) -> Error {
    Error::invalid(format!("not a path inside of a directory: {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    /// A tree with links to an `outside` in the place of a directory and of a file.
    fn trap() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        fs::create_dir_all(temp.path().join("tree/a")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "x").unwrap();
        symlink(&outside, temp.path().join("tree/link")).unwrap();
        symlink(outside.join("precious"), temp.path().join("tree/a/file")).unwrap();
        symlink(outside.join("precious"), temp.path().join("tree/new.barman-snap.tmp")).unwrap();
        (temp, outside)
    }

    #[test]
    fn nothing_is_done_through_a_link() {
        let (temp, outside) = trap();
        let tree = Beneath::open(&temp.path().join("tree")).unwrap();
        let inside = Path::new("link/precious");
        assert!(tree.enter(Path::new("link")).unwrap().is_none());
        assert!(tree.read(inside, 10).unwrap().is_none() && tree.read(Path::new("a/file"), 10).unwrap().is_none());
        assert!(tree.look(inside).unwrap().is_none() && !tree.remove(inside).unwrap());
        tree.make_directory(Path::new("link/x"), 0o700).unwrap_err();
        tree.make_directory(Path::new("link"), 0o700).unwrap_err();
        tree.write(Path::new("link/precious"), b"y", 0o600, None).unwrap_err();
        tree.write(Path::new("new"), b"y", 0o600, None).unwrap();
        tree.write(Path::new("a/file"), b"y", 0o600, None).unwrap();
        assert_eq!(fs::read(temp.path().join("tree/new")).unwrap(), b"y");
        for name in ["../outside/precious", "/etc/passwd", ".."] {
            assert!(tree.read(Path::new(name), 10).is_err(), "{name}");
        }
        assert!(tree.remove(Path::new("link")).unwrap());
        assert_eq!(fs::read(outside.join("precious")).unwrap(), b"x");
        Beneath::open(&temp.path().join("tree/link")).unwrap_err();
    }

    #[test]
    fn a_walk_sees_links_and_does_not_follow_them_also_when_one_takes_the_place_of_a_directory() {
        let (temp, outside) = trap();
        let root = temp.path().join("tree");
        let tree = Beneath::open(&root).unwrap();
        let mut seen = Vec::new();
        tree.walk(&mut |entry| {
            seen.push(entry.path().strip_prefix(&root).unwrap().to_owned());
            // Seen as a directory, and a link when it is entered.
            if entry.path().ends_with("a") {
                fs::rename(root.join("a"), root.join("moved")).unwrap();
                symlink(&outside, root.join("a")).unwrap();
            }
            Ok(true)
        })
        .unwrap();
        assert!(seen.iter().all(|path| !path.ends_with("precious")), "{seen:?}");
    }

    #[test]
    fn files_that_are_none_are_not_read_and_nobody_waits_for_them() {
        let temp = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, temp.path().join("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        symlink("/dev/zero", temp.path().join("zero")).unwrap();
        fs::write(temp.path().join("large"), [0; 11]).unwrap();
        let read = |name: &str| read_file(&temp.path().join(name), 10);
        for name in ["pipe", "zero", "absent", ""] {
            assert!(read(name).unwrap().is_none(), "{name}");
        }
        assert!(read("large").is_err());
    }

    #[test]
    fn a_file_of_root_with_a_second_name_is_not_given_away() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("tree")).unwrap();
        fs::write(temp.path().join("shadow"), "x").unwrap();
        fs::hard_link(temp.path().join("shadow"), temp.path().join("tree/mine")).unwrap();
        let tree = Beneath::open(&temp.path().join("tree")).unwrap();
        let given = tree.walk(&mut |entry| entry.give((4711, 4711)).map(|()| true));
        assert!(given.unwrap_err().message().contains("hard links"));
        assert_eq!(fs::metadata(temp.path().join("shadow")).unwrap().uid(), 0);
    }
}
