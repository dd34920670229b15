//! What the engine has to know of the host of a cluster: mounts, block devices, the real paths of the cluster, and which of them
//! lie on which volume, and whose files they are. It is the host that the engine runs on, or another one by its description ([`HostView`]).
//!
//! Parsing and deciding ([`MountTable::parse`], [`coverage`]) is pure; looking ([`MountTable::current`],
//! [`PgPaths::resolve`], [`survey()`]) is kept apart from it. Nothing here changes anything, but for [`nameless`], which makes
//! files, and for what works in a directory that others may write to: [`beneath`], [`below`], [`remove`].

pub(crate) mod below;
pub(crate) mod beneath;
pub mod clusters;
pub mod coverage;
pub mod devices;
pub(crate) mod flush;
pub(crate) mod links;
pub mod mounts;
pub(crate) mod nameless;
pub mod nested;
pub mod paths;
pub mod postmaster;
pub(crate) mod remove;
pub mod sighting;
pub mod survey;
pub mod view;
pub(crate) mod volatile;
pub mod whereabouts;
pub mod whose;

pub use coverage::{Coverage, Placed, Uncovered, check_nested, cover};
pub use mounts::{Mount, MountTable};
pub use nested::Nested;
pub use paths::{PgPath, PgPaths, PgRole};
pub use postmaster::PostmasterFile;
pub use sighting::{Sighting, sight};
pub(crate) use survey::is_zfs_control;
pub use survey::{Survey, survey};
pub use view::HostView;
pub use whereabouts::Whereabouts;
pub use whose::ServerFiles;

/// The name of this host.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// `/etc/machine-id` (machine-id(5)): host names repeat. Empty where there is none.
pub(crate) fn machine_id() -> String {
    std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned()
}
