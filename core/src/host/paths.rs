//! The real places of a PostgreSQL cluster on this host.
//!
//! A server tells its data directory and its tablespaces; where `pg_wal` really lies only the file system knows. Every
//! path here is absolute and free of symbolic links, so that it can be compared with mount points and volume roots.

use std::fmt;
use std::path::{Path, PathBuf};

use super::devices::HostDescription;
use super::links;
use crate::error::{Error, Result};
use crate::model::Tablespace;
use crate::postgres::ServerFacts;

/// What a path is to PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PgRole {
    /// The data directory.
    Data,
    /// `pg_wal`, in the data directory or elsewhere through a link or a mount.
    Wal,
    /// A tablespace.
    Tablespace {
        /// Its name.
        name: String,
        /// Its oid, the name of its link in `pg_tblspc`.
        oid: u32,
    },
}

impl fmt::Display for PgRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data => f.write_str("data directory"),
            Self::Wal => f.write_str("WAL directory"),
            Self::Tablespace { name, .. } => write!(f, "tablespace {name:?}"),
        }
    }
}

/// One place of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgPath {
    /// What it is.
    pub role: PgRole,
    /// As the server names it.
    pub named: PathBuf,
    /// Where it really is: absolute, without symbolic links.
    pub real: PathBuf,
}

impl fmt::Display for PgPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.real.display())?;
        if self.real != self.named { write!(f, " (named {})", self.named.display()) } else { Ok(()) }
    }
}

/// All places of a cluster: the data directory first, then `pg_wal`, then the tablespaces in the order of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgPaths {
    paths: Vec<PgPath>,
    left_out: Vec<PgPath>,
}

impl PgPaths {
    /// Looks up where the cluster of these facts really lies. Needs to run on the host of the server.
    pub fn resolve(facts: &ServerFacts) -> Result<Self> {
        Self::look_up(&facts.data_directory, &facts.tablespaces)
    }

    /// The same from a data directory and its tablespaces.
    ///
    /// # Errors
    /// What cannot be found; [`Precondition`](crate::ErrorKind::Precondition) for links where PostgreSQL keeps data.
    pub fn look_up(data_directory: &Path, tablespaces: &[Tablespace]) -> Result<Self> {
        let found = Self::look_up_by(data_directory, tablespaces, &|role, named| {
            named.canonicalize().map_err(|source| {
                Error::io(&format!("find the {role}"), named, source).with_hint(
                    "the engine has to run on the host of the server, as its user or as root; for clouds, a description of \
                     that host will do (--host-description)",
                )
            })
        })?;
        let of = |role: fn(&PgRole) -> bool| {
            found.iter().filter(move |path| role(&path.role)).map(|path| path.real.as_path())
        };
        if let Some(data) = of(|role| *role == PgRole::Data).next() {
            links::refuse(data, of(|role| matches!(role, PgRole::Tablespace { .. })))?;
        }
        Ok(found)
    }

    /// The same for another host, from its description.
    ///
    /// # Errors
    /// [`Precondition`](crate::ErrorKind::Precondition) for a path that the description knows nothing of.
    pub fn described(facts: &ServerFacts, host: &HostDescription) -> Result<Self> {
        Self::look_up_by(&facts.data_directory, &facts.tablespaces, &|_, named| host.real_path(named))
    }

    fn look_up_by(
        data_directory: &Path,
        tablespaces: &[Tablespace],
        real: &dyn Fn(&PgRole, &Path) -> Result<PathBuf>,
    ) -> Result<Self> {
        let place = |role: PgRole, named: PathBuf| {
            let real = real(&role, &named)?;
            Ok::<_, Error>(PgPath { role, named, real })
        };
        let data = place(PgRole::Data, data_directory.to_owned())?;
        let wal = place(PgRole::Wal, data.real.join("pg_wal"))?;
        let mut paths = vec![data, wal];
        for tablespace in tablespaces {
            let role = PgRole::Tablespace { name: tablespace.name.clone(), oid: tablespace.oid };
            let location = PathBuf::from(&tablespace.location);
            // A tablespace made with allow_in_place_tablespaces has a location relative to the data directory.
            let location = if location.is_absolute() { location } else { paths[0].real.join(location) };
            paths.push(place(role, location)?);
        }
        Ok(Self { paths, left_out: Vec::new() })
    }

    /// Paths that are known already; for tests and for planning without the host.
    pub fn from_known(paths: Vec<PgPath>) -> Self {
        Self { paths, left_out: Vec::new() }
    }

    /// These, and besides them the places of tablespaces that a backup leaves out. `real` says where one really is, if it can be
    /// found: nothing is asked of such a place, not even that it is there.
    #[must_use]
    pub fn and_left_out(mut self, tablespaces: &[Tablespace], real: impl Fn(&Path) -> Option<PathBuf>) -> Self {
        let place = |one: &Tablespace| {
            let named = PathBuf::from(&one.location);
            let role = PgRole::Tablespace { name: one.name.clone(), oid: one.oid };
            PgPath { role, real: real(&named).unwrap_or_else(|| named.clone()), named }
        };
        self.left_out = tablespaces.iter().map(place).collect();
        self
    }

    /// The places of tablespaces that are left out.
    pub fn left_out(&self) -> impl Iterator<Item = &PgPath> {
        self.left_out.iter()
    }

    /// All of them but those that are left out.
    pub fn iter(&self) -> impl Iterator<Item = &PgPath> {
        self.paths.iter()
    }

    /// The data directory.
    pub fn data(&self) -> Option<&PgPath> {
        self.paths.iter().find(|path| path.role == PgRole::Data)
    }

    /// The WAL directory.
    pub fn wal(&self) -> Option<&PgPath> {
        self.paths.iter().find(|path| path.role == PgRole::Wal)
    }

    /// The real paths, for [`VolumeSelection::Holding`](crate::provider::VolumeSelection::Holding).
    pub fn real(&self) -> Vec<PathBuf> {
        self.paths.iter().map(|path| path.real.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linked_wal_directory_and_tablespace_are_found_where_they_really_are() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        for dir in ["data", "wal", "ts"] {
            std::fs::create_dir(base.join(dir)).unwrap();
        }
        std::os::unix::fs::symlink("../wal", base.join("data/pg_wal")).unwrap();
        std::os::unix::fs::symlink(base.join("ts"), base.join("ts_link")).unwrap();
        let location = base.join("ts_link").to_str().unwrap().to_owned();
        let tablespaces = [Tablespace { name: "fast".into(), oid: 16400, location }];
        let paths = PgPaths::look_up(&base.join("data"), &tablespaces).unwrap();
        assert_eq!(paths.real(), [base.join("data"), base.join("wal"), base.join("ts")]);
        let last = paths.iter().last().unwrap().to_string();
        assert!(last.starts_with("tablespace \"fast\" ") && last.contains("(named "), "{last}");
    }

    #[test]
    fn a_path_that_is_not_here_says_what_it_was() {
        let error = PgPaths::look_up(Path::new("/does/not/exist"), &[]).unwrap_err();
        assert_eq!(error.message(), "cannot find the data directory /does/not/exist");
    }
}
