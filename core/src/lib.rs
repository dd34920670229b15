//! barman_snap: snapshot backups for PostgreSQL.
pub mod catalog;
pub mod check;
pub mod clock;
pub mod engine;
pub mod error;
pub mod host;
pub mod id;
pub mod model;
pub mod options;
pub mod postgres;
pub mod provider;
pub mod restore;
pub mod session;
pub mod wal;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "testing")]
pub mod testing;

pub use engine::{Engine, EngineBuilder};
pub use error::{Error, ErrorKind, Result, Retry};
