//! PostgreSQL servers: which versions are here ([`Installation`]), and clusters of them ([`Cluster`]).
//!
//! A cluster listens on a socket of its own and, unless asked to, on no network. It keeps PostgreSQL's own defaults for
//! everything that matters to a backup (fsync among them), because tests with kinder settings prove less.

mod builder;
mod cluster;
mod installation;

pub use builder::Builder;
pub use cluster::{CALM, Cluster, Stop};
pub use installation::Installation;
