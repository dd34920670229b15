//! The four btrfs calls that snapshots need, straight to the kernel.
//!
//! This is the one file of the engine with `unsafe` in it. It knows the layout of the kernel's structures
//! (`linux/btrfs.h`) and nothing else: which subvolume, which name and when is decided by the callers.
#![allow(unsafe_code, reason = "these ioctls have no safe wrapper in a crate that is kept up")]

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

const MAGIC: u8 = 0x94;
const SUBVOL_RDONLY: u64 = 1 << 1;

/// `struct btrfs_ioctl_vol_args`: 4096 bytes.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`: 4096 bytes.
#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

const _: () = assert!(size_of::<VolArgs>() == 4096 && size_of::<VolArgsV2>() == 4096);

const SNAP_CREATE_V2: Opcode = opcode::write::<VolArgsV2>(MAGIC, 23);
const SNAP_DESTROY: Opcode = opcode::write::<VolArgs>(MAGIC, 15);
const SUBVOL_GETFLAGS: Opcode = opcode::read::<u64>(MAGIC, 25);
const SUBVOL_SETFLAGS: Opcode = opcode::write::<u64>(MAGIC, 26);

/// The longest name that btrfs takes (`BTRFS_VOL_NAME_MAX`).
const NAME_MAX: usize = 255;

fn name_bytes<const N: usize>(name: &OsStr) -> std::io::Result<[u8; N]> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > NAME_MAX || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput));
    }
    let mut out = [0; N];
    out[..bytes.len()].copy_from_slice(bytes);
    Ok(out)
}

/// Makes a read-only snapshot of `subvolume` as `name` in `directory`. Returns after the transaction is on disk.
pub(super) fn create_snapshot(directory: impl AsFd, name: &OsStr, subvolume: impl AsFd) -> std::io::Result<()> {
    let name = name_bytes(name)?;
    let fd = i64::from(subvolume.as_fd().as_raw_fd());
    let args = VolArgsV2 { fd, transid: 0, flags: SUBVOL_RDONLY, unused: [0; 4], name };
    // SAFETY: the opcode belongs to this structure, which has the kernel's layout and size and a name that ends in NUL;
    // the kernel only reads it, and only while `args` lives. `subvolume` stays open during the call.
    unsafe { ioctl(directory, Setter::<SNAP_CREATE_V2, _>::new(args)) }?;
    Ok(())
}

/// Deletes the subvolume `name` in `directory`.
pub(super) fn destroy_subvolume(directory: impl AsFd, name: &OsStr) -> std::io::Result<()> {
    let args = VolArgs { fd: 0, name: name_bytes(name)? };
    // SAFETY: as above; the kernel only reads the structure.
    unsafe { ioctl(directory, Setter::<SNAP_DESTROY, _>::new(args)) }?;
    Ok(())
}

/// True if the subvolume is read-only.
#[cfg(test)]
pub(super) fn is_read_only(subvolume: impl AsFd) -> std::io::Result<bool> {
    Ok(flags(subvolume)? & SUBVOL_RDONLY != 0)
}

/// Makes a subvolume writable, so that it can be emptied by its owner.
pub(super) fn clear_read_only(subvolume: impl AsFd) -> std::io::Result<()> {
    let flags = flags(subvolume.as_fd())? & !SUBVOL_RDONLY;
    // SAFETY: the kernel reads one u64, which lives on this stack.
    unsafe { ioctl(subvolume, Setter::<SUBVOL_SETFLAGS, u64>::new(flags)) }?;
    Ok(())
}

fn flags(subvolume: impl AsFd) -> std::io::Result<u64> {
    // SAFETY: the kernel writes one u64 into the value that `Getter` owns.
    Ok(unsafe { ioctl(subvolume, Getter::<SUBVOL_GETFLAGS, u64>::new()) }?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_opcodes_are_those_of_the_kernel_headers() {
        assert_eq!(
            [SNAP_CREATE_V2, SNAP_DESTROY, SUBVOL_GETFLAGS, SUBVOL_SETFLAGS].map(u64::from),
            [0x5000_9417, 0x5000_940f, 0x8008_9419, 0x4008_941a]
        );
    }

    #[test]
    fn a_name_that_is_a_path_is_refused() {
        for name in ["", "a/b", &"x".repeat(256)] {
            assert!(name_bytes::<4040>(OsStr::new(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn a_directory_of_another_file_system_is_an_error() {
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let directory = std::fs::File::open(temp.path()).unwrap();
        assert!(create_snapshot(&directory, OsStr::new("x"), &directory).is_err());
        assert!(is_read_only(&directory).is_err());
    }
}
