//! From the mount options that a backup has recorded to options that can be given to a mount.
//!
//! Pure. The record has what the kernel printed (`findmnt -o OPTIONS`): the user's choices, defaults, and state that cannot
//! be given, or not everywhere. What is dropped stands in [`STATE`]; all else is kept, in its order.

use std::path::Path;

use rustix::mount::MountFlags;

/// What the kernel prints but nobody chose, or what follows from the disk; an entry that ends in `=` is dropped with any
/// value. Sources: `show_options` of ext4, XFS and btrfs; mount(8); selinux(8).
///
/// * `rw`, `ro`: a restored file system is written to.
/// * `seclabel`: the kernel has SELinux. `inode64`, `inode32`, `attr2`, `noquota`, `logbufs=`, `logbsize=`, `stripe=`,
///   `sunit=`, `swidth=`: defaults and geometry of the old disk. `space_cache`, `ssd`, `discard=async`: detected by btrfs.
/// * `subvol=`, `subvolid=`: given again from the recorded directory of the file system.
/// * `nouuid`: given again for every XFS.
pub const STATE: [&str; 20] = [
    "rw",
    "ro",
    "defaults",
    "seclabel",
    "inode64",
    "inode32",
    "attr2",
    "noquota",
    "logbufs=",
    "logbsize=",
    "stripe=",
    "sunit=",
    "swidth=",
    "space_cache",
    "space_cache=",
    "ssd",
    "discard=async",
    "subvol=",
    "subvolid=",
    "nouuid",
];

/// What would lead the kernel to another device or file, or mean nothing to it; an entry that ends in `=` is dropped with any value.
/// The record is only as good as who may write to the catalog, and a restore mounts as root.
const LEADS_ELSEWHERE: [&str; 22] = [
    "suid",
    "dev",
    "exec",
    "user",
    "users",
    "owner",
    "group",
    "bind",
    "rbind",
    "move",
    "remount",
    "loop",
    "loop=",
    // ext4: a journal on another device; quota files by name.
    "journal_dev=",
    "journal_path=",
    "usrjquota=",
    "grpjquota=",
    // XFS: log and real-time section on other devices; btrfs: its other devices.
    "logdev=",
    "rtdev=",
    "device=",
    "upperdir=",
    "lowerdir=",
];

/// What nobody needs in a data directory, and every mount of a restore has: a program of root's on a disk that somebody else may
/// have written runs as root, and a device node gives away the disks of this host.
const ALWAYS: [&str; 2] = ["nosuid", "nodev"];

/// Options that are bits of mount(2), not words for the file system.
const FLAGS: [(&str, MountFlags); 10] = [
    ("nosuid", MountFlags::NOSUID),
    ("nodev", MountFlags::NODEV),
    ("noexec", MountFlags::NOEXEC),
    ("sync", MountFlags::SYNCHRONOUS),
    ("dirsync", MountFlags::DIRSYNC),
    ("noatime", MountFlags::NOATIME),
    ("nodiratime", MountFlags::NODIRATIME),
    ("relatime", MountFlags::RELATIME),
    ("strictatime", MountFlags::STRICTATIME),
    ("lazytime", MountFlags::LAZYTIME),
];

/// The options of a record without what cannot be given.
pub fn kept(recorded: &str) -> String {
    let is_state = |option: &str| {
        STATE.iter().chain(&LEADS_ELSEWHERE).chain(&ALWAYS).any(|state| match state.strip_suffix('=') {
            Some(name) => option.split_once('=').is_some_and(|(found, _)| found == name),
            None => option == *state,
        })
    };
    let kept: Vec<_> = split(recorded).into_iter().filter(|option| !is_state(option)).collect();
    kept.join(",")
}

/// What a file system needs beside its recorded options, whatever they are. XFS refuses to mount the UUID of a file system
/// that is mounted already, which on the host of the original it is.
pub(super) fn needed(fs_type: &str, subvolume: Option<&Path>) -> Vec<String> {
    let mut needed = ALWAYS.map(str::to_owned).to_vec();
    if fs_type == "xfs" {
        needed.push("nouuid".to_owned());
    }
    if let Some(subvolume) = subvolume.filter(|path| fs_type == "btrfs" && *path != Path::new("/")) {
        needed.push(format!("subvol={}", subvolume.display()));
    }
    needed
}

/// Of the options of a record those that every kernel knows: bits of mount(2).
pub(super) fn only_bits(options: &str) -> String {
    let known = |option: &&str| FLAGS.iter().any(|(name, _)| name == option);
    split(options).into_iter().filter(known).collect::<Vec<_>>().join(",")
}

/// Whether a file system of that type is on a device, and not on a network, in memory, or in a program of somebody's.
pub(super) fn is_on_device(fs_type: &str, filesystems: &str) -> bool {
    let known = |line: &str| line.split('\t').collect::<Vec<_>>() == ["nodev", fs_type];
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !fs_type.is_empty() && fs_type.bytes().all(plain) && !fs_type.starts_with("fuse") && !filesystems.lines().any(known)
}

/// For mount(2): bits, and words for the file system.
pub(super) fn bits(options: &str) -> (MountFlags, Vec<String>) {
    let mut flags = MountFlags::empty();
    let mut words = Vec::new();
    for option in split(options) {
        match FLAGS.iter().find(|(name, _)| *name == option) {
            Some((_, flag)) => flags |= *flag,
            None => words.push(option.to_owned()),
        }
    }
    (flags, words)
}

/// At commas that are not in quotes: `context="system_u:object_r:postgresql_db_t:s0:c1,c2"`.
fn split(options: &str) -> Vec<&str> {
    let mut quoted = false;
    let at_comma = |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    options.split(at_comma).map(str::trim).filter(|option| !option.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_only_reports_is_dropped_and_the_rest_stays() {
        for (recorded, expected) in [
            ("rw,noatime,seclabel,attr2,inode64,logbufs=8,logbsize=32k,noquota", "noatime"),
            ("ro,relatime,errors=remount-ro,stripe=32", "relatime,errors=remount-ro"),
            ("rw,noatime,compress=zstd:3,ssd,space_cache=v2,subvolid=256,subvol=/@pg", "noatime,compress=zstd:3"),
            ("rw,context=\"a:b:s0:c1,c2\",usrquota", "context=\"a:b:s0:c1,c2\",usrquota"),
            ("rw,data=journal,stripe", "data=journal,stripe"),
            ("", ""),
        ] {
            assert_eq!(kept(recorded), expected, "{recorded}");
        }
    }

    #[test]
    fn bits_and_words_are_told_apart() {
        let (flags, words) = bits("noatime,nodev,errors=remount-ro,discard");
        assert_eq!(flags, MountFlags::NOATIME | MountFlags::NODEV);
        assert_eq!(words, ["errors=remount-ro", "discard"]);
    }

    #[test]
    fn a_second_xfs_and_a_subvolume_are_mounted_as_such() {
        assert_eq!(needed("xfs", Some(Path::new("/"))), ["nosuid", "nodev", "nouuid"]);
        assert_eq!(needed("btrfs", Some(Path::new("/@pg"))), ["nosuid", "nodev", "subvol=/@pg"]);
        assert_eq!(needed("btrfs", Some(Path::new("/"))), ["nosuid", "nodev"]);
        assert_eq!(needed("ext4", Some(Path::new("/export"))), ["nosuid", "nodev"]);
    }

    #[test]
    fn a_record_leads_to_no_other_device_and_cannot_ask_for_programs_of_root() {
        for (recorded, expected) in [
            ("suid,dev,exec,noatime", "noatime"),
            ("journal_path=/dev/sda1,errors=remount-ro", "errors=remount-ro"),
            ("logdev=/dev/sdb,rtdev=/dev/sdc,noexec", "noexec"),
            ("device=/dev/sdb,compress=zstd", "compress=zstd"),
            ("remount,bind,loop=/dev/loop0,usrjquota=/etc/shadow", ""),
            ("nosuid,nodev,relatime", "relatime"),
        ] {
            assert_eq!(kept(recorded), expected, "{recorded}");
        }
        assert_eq!(only_bits("noexec,errors=remount-ro,noatime"), "noexec,noatime");
    }

    #[test]
    fn what_is_mounted_lies_on_a_device() {
        let known = "nodev\toverlay\nnodev\tnfs\n\text4\n\tf2fs\nnodev\ttmpfs\n";
        for (fs_type, is) in [
            ("ext4", true),
            ("f2fs", true),
            ("jfs", true),
            ("overlay", false),
            ("nfs", false),
            ("fuseblk", false),
            ("a/b", false),
        ] {
            assert_eq!(is_on_device(fs_type, known), is, "{fs_type}");
        }
    }
}
