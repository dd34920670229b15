//! What the engine has to know of the host it runs on: mounts, the real paths of a cluster, and which of them lie on
//! which volume.
//!
//! Parsing and deciding ([`MountTable::parse`], [`coverage`]) is pure; looking ([`MountTable::current`],
//! [`PgPaths::resolve`], [`survey()`]) is kept apart from it. Nothing here changes anything, but for [`nameless`], which makes
//! files.

pub mod coverage;
pub mod devices;
pub mod mounts;
pub(crate) mod nameless;
pub mod paths;
pub mod survey;

pub use coverage::{Coverage, Placed, check_nested, cover};
pub use mounts::{Mount, MountTable};
pub use paths::{PgPath, PgPaths, PgRole};
pub use survey::{Survey, survey};
