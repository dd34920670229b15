//! Several disks by one call: not offered, see `docs/adr/0007-no-group-snapshots-on-azure.md`.
//!
//! Azure can cut the disks of a virtual machine at one instant, by a restore point. But nothing makes a snapshot of a restore
//! point (the API offers a *disk* only), and neither stock tools nor a restore elsewhere can do with less than a snapshot.

use crate::error::{Error, ErrorKind};

/// The error of a request for several disks.
pub(super) fn refused() -> Error {
    Error::new(ErrorKind::Unsupported, "Azure makes one snapshot per call")
        .with_hint("use --consistency auto or independent; backup mode makes independent snapshots consistent")
}
