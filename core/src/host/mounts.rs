//! The mount table of this process, as `/proc/self/mountinfo` tells it.
//!
//! It knows which mount a path is on, also with bind mounts, stacked mounts and mounts that hide others, because it walks
//! the tree of mounts as the kernel does and not a list of prefixes. It does not resolve symbolic links: ask with a path
//! that has none.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number.
    pub id: u64,
    /// The number of the mount it is mounted on.
    pub parent: u64,
    /// Major and minor number of the device, `7:1`. Anonymous (`0:…`) for btrfs, ZFS and FUSE.
    pub device_number: String,
    /// The directory of the file system that is mounted: `/`, or more for bind mounts and btrfs subvolumes.
    pub fs_root: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Options of this mount and of its file system together, exactly as `findmnt -o OPTIONS` prints them.
    pub options: String,
    /// `ext4`, `xfs`, `btrfs`, `fuse.zfs`, …
    pub fs_type: String,
    /// The block device or whatever the file system calls its source.
    pub source: String,
}

/// All mounts that this process sees, in the order of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct MountTable {
    mounts: Vec<Mount>,
}

impl MountTable {
    /// The table of this process, now.
    pub fn current() -> Result<Self> {
        let text = std::fs::read(MOUNTINFO).map_err(|source| Error::io("read", MOUNTINFO, source))?;
        Self::parse(&text)
    }

    /// Parses the content of a `mountinfo` file (proc_pid_mountinfo(5)).
    pub fn parse(text: &[u8]) -> Result<Self> {
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let mounts = lines
            .map(|line| {
                parse_line(line).ok_or_else(|| {
                    Error::corrupt(format!("cannot understand a line of mountinfo: {}", String::from_utf8_lossy(line)))
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { mounts })
    }

    /// The mount that `path` (absolute, without symbolic links) is on.
    pub fn of_path(&self, path: &Path) -> Option<&Mount> {
        let mut at = self.top(path)?;
        // As the kernel walks down a path: the first mount point on the way is crossed, and whatever is mounted on the
        // same directory later is a child of what was there before.
        let mut seen = HashSet::from([at.id]);
        while let Some(next) = self
            .mounts
            .iter()
            .filter(|mount| mount.parent == at.id && !seen.contains(&mount.id) && path.starts_with(&mount.mount_point))
            .min_by_key(|mount| mount.mount_point.as_os_str().len())
        {
            seen.insert(next.id);
            at = next;
        }
        Some(at)
    }

    /// The mount points strictly below `path` that can be reached, sorted.
    pub fn below(&self, path: &Path) -> Vec<&Mount> {
        let mut found: Vec<&Mount> = self
            .mounts
            .iter()
            .filter(|mount| mount.mount_point != path && mount.mount_point.starts_with(path))
            .filter(|mount| self.of_path(&mount.mount_point) == Some(mount))
            .collect();
        found.sort_by(|a, b| a.mount_point.cmp(&b.mount_point));
        found
    }

    /// All mounts, in the order of the kernel.
    pub fn iter(&self) -> impl Iterator<Item = &Mount> {
        self.mounts.iter()
    }

    /// The mount on `/`: the first one, for later ones are its children. In a `chroot` that is no mount point there is
    /// none, then the first of those that can be seen on the way to `path`.
    fn top(&self, path: &Path) -> Option<&Mount> {
        let root = Path::new("/");
        let is_outermost = |mount: &&Mount| !self.mounts.iter().any(|m| m.id == mount.parent && m.id != mount.id);
        self.mounts
            .iter()
            .filter(is_outermost)
            .find(|mount| mount.mount_point == root)
            .or_else(|| self.mounts.iter().find(|mount| mount.mount_point == root))
            .or_else(|| {
                let on_the_way = self.mounts.iter().filter(is_outermost).filter(|m| path.starts_with(&m.mount_point));
                on_the_way.min_by_key(|m| m.mount_point.as_os_str().len())
            })
    }
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = || fields.next().map(unescape);
    let id = text(next()?).parse().ok()?;
    let parent = text(next()?).parse().ok()?;
    let device_number = text(next()?);
    let fs_root = PathBuf::from(OsString::from_vec(next()?));
    let mount_point = PathBuf::from(OsString::from_vec(next()?));
    let per_mount = text(next()?);
    // Any number of optional fields, then a single dash.
    while next()? != b"-" {}
    let fs_type = text(next()?);
    let source = text(next()?);
    let per_super = next().map(text).unwrap_or_default();
    let options = merge_options(&per_mount, &per_super);
    Some(Mount { id, parent, device_number, fs_root, mount_point, options, fs_type, source })
}

fn text(bytes: impl AsRef<[u8]>) -> String {
    String::from_utf8_lossy(bytes.as_ref()).into_owned()
}

/// Undoes the kernel's `\ooo` for space, tab, newline, backslash and `#`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) if byte == b'\\' => {
                let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                // Three octal digits can say more than a byte holds; the kernel never writes that.
                out.push(u8::try_from(value).unwrap_or(b'?'));
                rest = &tail[3..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

/// Merges the options of a mount and of its file system as libmount does: `rw` only if both say so, first in the list;
/// all others follow, those of the mount first.
fn merge_options(per_mount: &str, per_super: &str) -> String {
    if per_super.is_empty() || per_mount == per_super {
        return per_mount.to_owned();
    }
    if per_mount.is_empty() {
        return per_super.to_owned();
    }
    let all = || per_mount.split(',').chain(per_super.split(','));
    let mode = if all().any(|option| option == "ro") { "ro" } else { "rw" };
    let others = all().filter(|option| !matches!(*option, "rw" | "ro" | ""));
    std::iter::once(mode).chain(others).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro
23 22 0:21 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
30 22 0:39 /pg /srv/my\\040pg rw,relatime - btrfs /dev/loop0[/pg] rw,discard=async,subvolid=258,subvol=/pg
31 22 7:1 / /srv/x ro,relatime master:1 propagate_from:2 - xfs /dev/loop1 rw,noquota
32 31 7:2 / /srv/x/deep rw - xfs /dev/loop2 rw
33 22 254:0 /export/a /bind rw,relatime - ext4 /dev/vda rw,errors=remount-ro
34 31 7:3 / /srv/x rw,relatime - ext4 /dev/loop3 rw
";

    fn table() -> MountTable {
        MountTable::parse(TABLE.as_bytes()).unwrap()
    }

    fn source_of(path: &str) -> String {
        table().of_path(Path::new(path)).unwrap().source.clone()
    }

    #[test]
    fn in_a_chroot_without_a_mount_each_outermost_mount_is_reached() {
        // As seen by `chroot`: the mount that all of these lie on is not in the list.
        let table = MountTable::parse(
            b"111 27 0:21 / /proc rw - proc proc rw\n113 27 0:6 / /dev rw - devtmpfs devtmpfs rw\n\
              42 113 0:27 / /dev/shm rw - tmpfs tmpfs rw\n45 27 254:0 /play /playground rw - ext4 /dev/vda rw\n",
        )
        .unwrap();
        let of = |path: &str| table.of_path(Path::new(path)).map(|mount| mount.id);
        assert_eq!([of("/playground/data"), of("/dev/shm/x"), of("/dev/x")], [Some(45), Some(42), Some(113)]);
        assert_eq!(of("/etc"), None);
    }

    #[test]
    fn a_path_is_on_the_mount_that_the_kernel_would_reach() {
        assert_eq!(source_of("/"), "/dev/vda");
        assert_eq!(source_of("/srv/my pg/base"), "/dev/loop0[/pg]");
        assert_eq!(source_of("/srv/my pgx"), "/dev/vda");
        assert_eq!(source_of("/proc/1"), "proc");
    }

    #[test]
    fn a_mount_over_another_one_hides_it_and_what_was_below() {
        assert_eq!(source_of("/srv/x"), "/dev/loop3");
        assert_eq!(source_of("/srv/x/deep/y"), "/dev/loop3");
        let below: Vec<_> = table().below(Path::new("/srv")).iter().map(|m| m.source.clone()).collect();
        assert_eq!(below, ["/dev/loop0[/pg]", "/dev/loop3"]);
    }

    #[test]
    fn a_bind_mount_tells_its_root() {
        let table = table();
        let mount = table.of_path(Path::new("/bind/file")).unwrap();
        assert_eq!(mount.fs_root, Path::new("/export/a"));
    }

    #[test]
    fn options_are_merged_as_findmnt_does() {
        assert_eq!(table().of_path(Path::new("/")).unwrap().options, "rw,relatime,errors=remount-ro");
        assert_eq!(merge_options("ro,relatime", "rw,noquota"), "ro,relatime,noquota");
        assert_eq!(merge_options("rw", "rw"), "rw");
        assert_eq!(merge_options("rw,nosuid", "rw"), "rw,nosuid");
    }

    #[test]
    fn octal_escapes_are_undone() {
        assert_eq!(unescape(b"a\\040b\\134c\\011"), b"a b\\c\t");
        assert_eq!(unescape(b"a\\04"), b"a\\04");
    }

    #[test]
    fn garbage_is_an_error_that_shows_the_line() {
        let error = MountTable::parse(b"nonsense here\n").unwrap_err();
        assert!(error.message().contains("nonsense here"), "{error}");
    }

    #[test]
    fn a_table_without_a_root_still_answers() {
        let table = MountTable::parse(b"40 39 7:1 / /data rw - xfs /dev/loop1 rw\n").unwrap();
        assert!(table.of_path(Path::new("/data/x")).is_some());
        assert!(table.of_path(Path::new("/other")).is_none());
    }
}
