//! Restore to devices: new volumes are made of the snapshots, attached, found, mounted, and hold a data directory.
//!
//! For providers without [`directory_restore`](crate::provider::Capabilities::directory_restore): the clouds. [`layout`]
//! decides which snapshots are needed and where each file system is mounted (pure); [`carry_out`] does it; with
//! [`DeviceFacts::attached`] the user has done it, and only the data directory is prepared. [`options`] turns recorded mount
//! options into such as can be given; [`probe`] reads what is on a device; [`find`] waits for one; [`mount`] mounts.
//!
//! # The invariants
//! * Nothing is made before it is known that this process may mount, and that every mount point is free.
//! * A file system is mounted only if its UUID is the recorded one.
//! * What was made is unmounted, detached and deleted when something fails, in this order, and a volume that cannot be
//!   unmounted is not detached. Directories are removed only while they are empty: never through a mount.

pub(super) mod carry_out;
mod facts;
mod find;
pub mod layout;
mod mount;
mod mounted;
pub mod options;
mod probe;

pub use facts::DeviceFacts;
pub use layout::{DevicePlan, PlannedMount, PlannedVolume, look_at, throw_away};
pub use mount::MountedFileSystem;
