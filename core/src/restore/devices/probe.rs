//! What file system is on a device, from its superblock: ext2 to ext4, XFS, btrfs.
//!
//! Not blkid: only what a disk with a cluster may have. The host may know by udev, but of a disk that was attached a moment
//! ago not yet.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Result};

/// A file system on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// As the kernel names it.
    pub(super) fs_type: &'static str,
    /// Its UUID, in lower case.
    pub(super) uuid: String,
}

/// Type, magic and its offset, offset of the UUID. Sources: `ext4_super_block`, `xfs_dsb`, `btrfs_super_block`.
const KNOWN: [(&str, &[u8], u64, u64); 3] = [
    ("xfs", b"XFSB", 0, 32),
    ("btrfs", b"_BHRfS_M", 0x1_0040, 0x1_0020),
    // ext4 mounts ext2 and ext3 as well.
    ("ext4", &[0x53, 0xEF], 1024 + 0x38, 1024 + 0x68),
];

/// The file system on `device`, if it is one that is known.
///
/// # Errors
/// If the device cannot be read.
pub(super) fn probe(device: &Path) -> Result<Option<Found>> {
    let file = File::open(device).map_err(|error| Error::io("open", device, error))?;
    let read = |offset, bytes: &mut [u8]| match file.read_exact_at(bytes, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(Error::io("read", device, error)),
    };
    for (fs_type, magic, at, uuid_at) in KNOWN {
        let mut found = vec![0; magic.len()];
        let mut uuid = [0; 16];
        if read(at, &mut found)? && found == magic && read(uuid_at, &mut uuid)? {
            return Ok(Some(Found { fs_type, uuid: text(uuid) }));
        }
    }
    Ok(None)
}

fn text(uuid: [u8; 16]) -> String {
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_are_known_by_their_magic() {
        let dir = tempfile::tempdir().unwrap();
        let image = |name: &str, magic: &[u8], at: u64, uuid_at: u64| {
            let path = dir.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_len(1 << 20).unwrap();
            file.write_all_at(magic, at).unwrap();
            file.write_all_at(&[0xAB; 16], uuid_at).unwrap();
            path
        };
        for (fs_type, magic, at, uuid_at) in KNOWN {
            let found = probe(&image(fs_type, magic, at, uuid_at)).unwrap().unwrap();
            assert_eq!((found.fs_type, found.uuid.as_str()), (fs_type, "abababab-abab-abab-abab-abababababab"));
        }
        assert_eq!(probe(&image("none", b"none", 0, 0)).unwrap(), None);
        std::fs::write(dir.path().join("tiny"), "XFSB").unwrap();
        assert_eq!(probe(&dir.path().join("tiny")).unwrap(), None);
    }
}
