//! PostgreSQL: what the engine asks of a server, and the one connection that does it.
//!
//! [`control`] is the contract, [`client`] keeps it with a real connection, [`conninfo`] finds out where to connect the
//! way libpq does, and [`tls`] decides whom to trust. Nothing outside this folder sees a type of the `postgres` crate.

mod certificate;
pub mod client;
mod connect;
pub mod conninfo;
pub mod control;
mod errors;
mod statements;
pub mod tls;
mod which;

pub use client::PostgresControl;
pub use conninfo::{ConnectOptions, ConnectParams, Environment};
pub use control::{
    ArchiverState, BackupControl, ServerFacts, ServerIdentity, Sign, StartRequest, StartedBackup, StoppedBackup,
    TablespaceUse,
};
