//! The bytes of one file: shared with the original (`FICLONE`) or copied.
//!
//! Files of a running server may grow, shrink or vanish meanwhile. That is fine: what changed after the backup started is
//! in the WAL, and recovery puts it right. What must not happen is that something else than the file's own bytes is read.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{IFlags, SeekFrom};
use rustix::io::Errno;

/// How many bytes one call may copy, so that progress and cancelling are seen in between.
const STEP: u64 = 64 << 20;
/// Small enough for the processor's cache: with 1 MiB the copy takes three times as long.
const BUFFER: usize = 128 << 10;

/// What is shared by all threads of a copy.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Bytes copied (not shared) so far.
    pub(super) copied: AtomicU64,
    /// Bytes handled so far, copied or shared.
    pub(super) handled: AtomicU64,
    /// Set to stop the copy.
    pub(super) cancelled: AtomicBool,
}

impl Counters {
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    fn add_copied(&self, bytes: u64) {
        self.copied.fetch_add(bytes, Ordering::Relaxed);
        self.handled.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Shares all blocks of `source` with `target`, which is empty. False if the file system cannot do it for these two.
pub(super) fn share(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    match rustix::fs::ioctl_ficlone(target, source) {
        Ok(()) => return Ok(true),
        // btrfs: a file without checksums (chattr +C, usual for databases) shares only with another one.
        Err(Errno::INVAL) => {}
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::NOTTY | Errno::NOSYS) => return Ok(false),
        Err(error) => return Err(error),
    }
    let no_cow = |fd| rustix::fs::ioctl_getflags(fd).is_ok_and(|flags| flags.contains(IFlags::NOCOW));
    if !no_cow(source) || no_cow(target) {
        return Ok(false);
    }
    let flags = rustix::fs::ioctl_getflags(target)? | IFlags::NOCOW;
    Ok(rustix::fs::ioctl_setflags(target, flags).is_ok() && rustix::fs::ioctl_ficlone(target, source).is_ok())
}

/// Copies the first `size` bytes of `source` to `target`, which is empty; holes stay holes.
pub(super) fn copy(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    size: u64,
    counters: &Counters,
) -> std::io::Result<()> {
    let mut at = 0;
    while at < size {
        let (start, end) = match next_data(source, at, size)? {
            Some(range) => range,
            None => break,
        };
        copy_range(source, target, start, end, counters)?;
        at = end;
    }
    // Sets the length where the file ends in a hole.
    if rustix::fs::fstat(target)?.st_size.unsigned_abs() < size {
        let now = rustix::fs::fstat(source)?.st_size.unsigned_abs();
        rustix::fs::ftruncate(target, size.min(now))?;
    }
    Ok(())
}

/// The next range with data in `at..size`.
fn next_data(source: BorrowedFd<'_>, at: u64, size: u64) -> rustix::io::Result<Option<(u64, u64)>> {
    let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
        Ok(start) if start >= size => return Ok(None),
        Ok(start) => start,
        // Nothing but a hole up to the end (or the file has shrunk).
        Err(Errno::NXIO) => return Ok(None),
        // The file system does not tell holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, size))),
        Err(error) => return Err(error),
    };
    let end = match rustix::fs::seek(source, SeekFrom::Hole(start)) {
        Ok(end) => end.min(size),
        Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => size,
        Err(error) => return Err(error),
    };
    // A file that shrinks between the two calls may give an empty range; never stand still.
    Ok(Some((start, end.max(start + 1).min(size))))
}

fn copy_range(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    start: u64,
    end: u64,
    counters: &Counters,
) -> std::io::Result<()> {
    let mut at = start;
    while at < end {
        if counters.is_cancelled() {
            return Err(std::io::Error::from(std::io::ErrorKind::Interrupted));
        }
        let (mut from, mut to) = (at, at);
        let step = usize::try_from((end - at).min(STEP)).unwrap_or(BUFFER);
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), step) {
            // The file has shrunk.
            Ok(0) => return Ok(()),
            Ok(count) => {
                counters.add_copied(count as u64);
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
                return copy_by_hand(source, target, at, end, counters);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    start: u64,
    end: u64,
    counters: &Counters,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut at = start;
    while at < end {
        if counters.is_cancelled() {
            return Err(std::io::Error::from(std::io::ErrorKind::Interrupted));
        }
        let want = usize::try_from((end - at).min(BUFFER as u64)).unwrap_or(BUFFER);
        let got = match rustix::io::pread(source, &mut buffer[..want], at) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let mut written = 0;
        while written < got {
            match rustix::io::pwrite(target, &buffer[written..got], at + written as u64) {
                Ok(0) => return Err(std::io::Error::from(std::io::ErrorKind::WriteZero)),
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        counters.add_copied(got as u64);
        at += got as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Seek, Write};
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn holes_stay_holes_and_bytes_stay_bytes() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        let mut file = File::create(&from).unwrap();
        file.write_all(b"begin").unwrap();
        file.seek(std::io::SeekFrom::Start(8 << 20)).unwrap();
        file.write_all(b"middle").unwrap();
        file.set_len(16 << 20).unwrap();
        let (source, target) = (File::open(&from).unwrap(), File::create(&to).unwrap());
        let counters = Counters::default();
        copy(source.as_fd(), target.as_fd(), 16 << 20, &counters).unwrap();
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
        assert!(target.metadata().unwrap().blocks() * 512 < 1 << 20);
        assert!(counters.copied.load(Ordering::Relaxed) < 1 << 20);
    }

    #[test]
    fn a_file_that_has_shrunk_is_copied_as_far_as_it_goes() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        std::fs::write(&from, b"short").unwrap();
        let (source, target) = (File::open(&from).unwrap(), File::create(&to).unwrap());
        copy(source.as_fd(), target.as_fd(), 1 << 20, &Counters::default()).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"short");
    }

    #[test]
    fn the_slow_way_gives_the_same_bytes() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        let bytes: Vec<u8> = (0..3_000_001_u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&from, &bytes).unwrap();
        let (source, target) = (File::open(&from).unwrap(), File::create(&to).unwrap());
        copy_by_hand(source.as_fd(), target.as_fd(), 0, bytes.len() as u64, &Counters::default()).unwrap();
        assert!(std::fs::read(&to).unwrap() == bytes);
    }
}
