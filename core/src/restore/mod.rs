//! Restore and verify: a backup becomes a server again, and the proof that it does.
//!
//! # The story
//! [`target`] says how far to recover and which backup suits. [`host`] looks at the places that will be written. [`plan`]
//! decides everything, or refuses in one line, before anything is done. [`mod@provision`] carries the plan out with the
//! provider of the snapshots, and undoes what it did when something fails; [`devices`] does so where snapshots become disks
//! of a cloud and not directories; [`pgdata`] has its effects on the disk.
//! [`mod@verify`] restores to a throw-away place, starts what was restored ([`server`]), and records what that proved.
//!
//! # The invariant
//! The original is only ever read: no step writes to its directories, its tablespaces or its archive.

mod archive_facts;
pub(crate) mod claims;
pub mod config;
pub mod devices;
pub mod host;
mod left_out;
pub mod pgdata;
pub mod pieces;
pub mod plan;
pub mod proof;
pub mod provision;
mod refusals;
pub mod server;
pub mod settings;
mod show;
pub(crate) mod space;
pub mod tablespaces;
pub mod target;
mod timelines;
pub mod unwanted;
pub mod verify;
mod waldir;
mod workplace;

pub use archive_facts::{ancestry, archive_facts, store_proof};
pub use devices::{DeviceFacts, DevicePlan, MountedFileSystem};
pub use host::HostFacts;
pub use pieces::Piece;
pub use plan::{ArchiveFacts, DeviceWishes, Owner, PlanInput, RestorePlan, RestoreRequest};
pub use proof::{Proof, SqlCheck};
pub use provision::{RestoreEvent, Restored, Tools, provision};
pub use settings::{Purpose, WalSource};
pub use tablespaces::TablespaceMapping;
pub use target::{RecoveryTarget, TargetAction, TargetOptions, TargetPoint, TargetTimeline, choose_backup};
pub use verify::{VerifyDepth, VerifyInput, VerifyOptions, WalReader, verify};
pub use waldir::PlannedWal;
