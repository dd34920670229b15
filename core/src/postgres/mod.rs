//! PostgreSQL: what the engine asks of a server, and the one connection that does it.

pub mod control;

pub use control::{BackupControl, ServerFacts, StartRequest, StartedBackup, StoppedBackup};
