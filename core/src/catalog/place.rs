//! Where a catalog in a directory may not lie, and whether it is there at all.
//!
//! A catalog inside a cluster is in every backup of that cluster, and goes with it when the cluster is lost or restored in
//! place. A cluster inside a catalog has files in it that neither PostgreSQL nor Barman knows.

use std::path::{Path, PathBuf};

use super::Catalog;
use crate::error::{Error, Result};
use crate::host::clusters::{holding, real_path};

impl Catalog {
    /// Where the objects of this server lie, if the catalog is in a directory.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        Some(self.space().directory()?.join(self.server().as_str()))
    }

    /// Refuses a catalog in a directory that lies inside a cluster, or around one of `files`: real paths of the cluster that is
    /// backed up. It is on this host.
    ///
    /// # Errors
    /// [`Precondition`](crate::ErrorKind::Precondition), naming both.
    pub(crate) fn check_apart(&self, files: &[PathBuf]) -> Result<()> {
        let Some(home) = self.home() else { return Ok(()) };
        let home = real_path(&home)?;
        let known = files.iter().find(|path| home.starts_with(path)).map(|path| path.display().to_string());
        let holder = match known {
            Some(path) => Some(path),
            None => holding(&home)?.map(|dir| dir.to_string()),
        };
        let directory = self.space().name();
        if let Some(holder) = holder {
            return Err(Error::precondition(format!("the catalog {directory} lies inside {holder}")).with_hint(
                "it would be part of every backup, and be lost with the cluster: choose a directory elsewhere",
            ));
        }
        match files.iter().find(|path| path.starts_with(&home)) {
            Some(path) => Err(Error::precondition(format!(
                "{} of the cluster lies inside the catalog {directory}",
                path.display()
            ))
            .with_hint("choose a directory for the catalog that holds nothing else")),
            None => Ok(()),
        }
    }

    /// Refuses to speak for a catalog whose directory is not there: nothing is not the same as no backups. A bucket that is not
    /// there says so itself.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    pub fn check_there(&self) -> Result<()> {
        match self.space().directory() {
            Some(directory) if !directory.is_dir() => Err(not_there(directory)),
            _ => Ok(()),
        }
    }
}

fn not_there(directory: &Path) -> Error {
    Error::not_found(format!("there is no directory {}", directory.display()))
        .with_hint("is its file system mounted? the first backup and the first archived WAL make a new one")
}
