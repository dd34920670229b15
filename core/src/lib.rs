//! barman_snap: snapshot backups for PostgreSQL. Takes them, keeps their metadata and WAL in an object store in Barman's
//! formats, restores them in one call, and proves that the restore works.
//!
//! # What it is
//! A library. It prints nothing, installs no logger (it logs through `tracing`), never exits the process, and keeps no
//! global state: time, ids and faults come in through the [`EngineBuilder`].
//!
//! # The paved path
//! An [`Engine`] is one server in one catalog. Everything else is a method of it:
//! [`check`](Engine::check), [`backup`](Engine::backup), [`plan_restore`](Engine::plan_restore) and
//! [`restore`](Engine::restore), [`verify`](Engine::verify), [`plan_delete`](Engine::plan_delete) and
//! [`delete`](Engine::delete), [`recover`](Engine::recover), [`plan_gc`](Engine::plan_gc).
//!
//! ```no_run
//! use barman_snap::postgres::{ConnectOptions, PostgresControl};
//! use barman_snap::session::BackupRequest;
//! use barman_snap::{Engine, RecoverRequest, Result};
//!
//! # async fn example() -> Result<()> {
//! let engine = Engine::builder("s3://my-bucket/pg", &Default::default(), "main").await?.build();
//!
//! // What a process that died has left is completed or undone.
//! engine.recover(&RecoverRequest::default()).await?;
//!
//! let control = PostgresControl::connect(&ConnectOptions::new("host=/run/postgresql")).await?;
//! let mut session = engine.backup(Box::new(control), &BackupRequest::default()).await?;
//! let cancel = session.cancel_token(); // for whoever may want to stop it
//! let backup = session.run().await?;
//! println!("{}: {:?} in backup mode", backup.backup_id, backup.backup_mode);
//! # drop(cancel);
//! # Ok(())
//! # }
//! ```
//!
//! Without a server, the catalog alone can be tried:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> barman_snap::Result<()> {
//! # let directory = tempfile::tempdir().unwrap();
//! # let url = directory.path().to_str().unwrap();
//! let engine = barman_snap::Engine::builder(url, &Default::default(), "main").await?.build();
//! assert!(engine.catalog().list().await?.is_empty());
//!
//! let error = engine.catalog().resolve("last").await.unwrap_err();
//! assert_eq!(error.kind(), barman_snap::ErrorKind::NotFound);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to read on
//! * [`session`]: how a backup is made, and the one rule of recovery. [`session::step::TABLE`] is all of it on one screen.
//! * [`provider`]: the contract of what takes snapshots, for authors of one; [`provider::local`] is the one that is here.
//! * [`restore`]: how a backup becomes a server again, and what a proof is.
//! * [`error`]: the kinds of errors, and what [`Retry`] promises.
//!
//! # Features
//! * `testing`: a provider in memory, a scripted PostgreSQL, fault plans, a manual clock; for tests of programs that embed
//!   the engine.
//! * `conformance`: the suites that every provider has to pass. Includes `testing`.

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
pub mod redact;
pub mod restore;
pub mod session;
pub mod wal;

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "testing")]
pub mod testing;

pub use engine::{Engine, EngineBuilder, RecoverRequest};
pub use error::{Error, ErrorKind, Result, Retry};

/// The examples of the README, so that they are compiled.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
