//! Which host is looked at: this one, or another by its description.
//!
//! Stock Barman runs on a server of its own and looks at the database host over ssh, and at the devices of the wrong one. Here
//! everything that is asked of the host of the cluster goes through one [`HostView`], so that no answer can come from another.

use super::devices::HostDescription;
use super::{MountTable, PgPaths};
use crate::error::Result;
use crate::model::{ExcludedTablespace, Tablespace};
use crate::postgres::ServerFacts;

/// The host of a cluster.
#[derive(Clone, Copy, Debug)]
pub enum HostView<'a> {
    /// This one.
    Here,
    /// Another one, as it was described.
    Described(&'a HostDescription),
}

impl<'a> HostView<'a> {
    /// The described host, if there is a description; else this one.
    pub fn of(description: Option<&'a HostDescription>) -> Self {
        description.map_or(Self::Here, Self::Described)
    }

    /// Whether files of that host can be read by this process.
    pub fn is_here(&self) -> bool {
        matches!(self, Self::Here)
    }

    /// Its mounts.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn mounts(&self) -> Result<MountTable> {
        match self {
            Self::Here => MountTable::current(),
            Self::Described(description) => description.mounts(),
        }
    }

    /// Where the cluster of these facts really lies on it.
    ///
    /// # Errors
    /// As [`PgPaths::resolve`]; [`Precondition`](crate::ErrorKind::Precondition) if the description does not say.
    pub fn paths(&self, facts: &ServerFacts) -> Result<PgPaths> {
        match self {
            Self::Here => PgPaths::resolve(facts),
            Self::Described(description) => PgPaths::described(facts, description),
        }
    }

    /// The same without some tablespaces, which may be anywhere or nowhere.
    ///
    /// # Errors
    /// As [`paths`](Self::paths).
    pub fn paths_without(&self, facts: &ServerFacts, excluded: &[ExcludedTablespace]) -> Result<PgPaths> {
        let is_out = |one: &Tablespace| excluded.iter().any(|out| out.oid == one.oid);
        let (out, kept): (Vec<_>, Vec<_>) = facts.tablespaces.iter().cloned().partition(is_out);
        let paths = self.paths(&ServerFacts { tablespaces: kept, ..facts.clone() })?;
        Ok(paths.and_left_out(&out, |named| match self {
            Self::Here => named.canonicalize().ok(),
            Self::Described(description) => description.real_path(named).ok(),
        }))
    }
}
