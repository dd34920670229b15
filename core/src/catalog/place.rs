//! Where a catalog in a directory may not lie, and whether it is there at all.
//!
//! A catalog inside a cluster is in every backup of that cluster, and goes with it when the cluster is lost or restored in
//! place. A cluster inside a catalog has files in it that neither PostgreSQL nor Barman knows.

use std::path::{Path, PathBuf};

use super::Catalog;
use crate::error::{Error, Result};
use crate::host::MountTable;
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
    pub(crate) async fn check_apart(&self, files: Vec<PathBuf>) -> Result<()> {
        let catalog = self.clone();
        self.space().on_disk(0, move || catalog.apart(&files)).await
    }

    fn apart(&self, files: &[PathBuf]) -> Result<()> {
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

    /// Refuses to write into a directory on whose way a file system is not mounted that should be. What is written there would be
    /// hidden as soon as it is mounted, WAL that PostgreSQL has removed by then among it.
    ///
    /// # Errors
    /// [`Precondition`](crate::ErrorKind::Precondition), naming the mount point.
    pub(crate) async fn check_mounted(&self) -> Result<()> {
        let catalog = self.clone();
        self.space().on_disk(0, move || catalog.mounted()).await
    }

    fn mounted(&self) -> Result<()> {
        // Only what somebody has written down can be missed.
        let (Some(home), Ok(fstab)) = (self.home(), std::fs::read(FSTAB)) else { return Ok(()) };
        let mounts = MountTable::current()?;
        match not_mounted(&real_path(&home)?, &String::from_utf8_lossy(&fstab), &mounts) {
            Some(missing) => Err(Error::precondition(format!(
                "nothing is mounted at {}, where {FSTAB} has a file system for the catalog {}",
                missing.display(),
                self.space().name()
            ))
            .with_hint("mount it, or correct the file: what is written now would be hidden by the mount later")),
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

const FSTAB: &str = "/etc/fstab";

/// The mount point of `fstab` above `path` at which nothing is mounted. Pure but for links in it.
fn not_mounted(path: &Path, fstab: &str, mounts: &MountTable) -> Option<PathBuf> {
    let points = fstab.lines().map(str::trim).filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        // The octal escapes of fstab(5).
        let point = PathBuf::from(point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"));
        (kind != "swap" && point.is_absolute()).then(|| real_path(&point).unwrap_or(point))
    });
    let is_mounted = |point: &Path| mounts.of_path(point).is_some_and(|mount| mount.mount_point == point);
    points.filter(|point| path.starts_with(point) && !is_mounted(point)).max_by_key(|point| point.components().count())
}

fn not_there(directory: &Path) -> Error {
    Error::not_found(format!("there is no directory {}", directory.display()))
        .with_hint("is its file system mounted? the first backup and the first archived WAL make a new one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_should_be_mounted_is_missed_and_no_other() {
        let fstab = "# /dev/sdz /nas/old ext4\nUUID=1 / ext4 defaults 0 1\nnas:/backup /nas/pg\\040backup nfs hard 0 0\n\
                     /dev/sdb none swap sw 0 0\n/dev/sdc /srv ext4 noauto 0 2\nshort\n";
        let root = "25 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n";
        let nas = "40 25 0:40 / /nas/pg\\040backup rw shared:9 - nfs nas:/backup rw\n";
        let missing = |path: &str, mounts: &[&str]| {
            let table = MountTable::parse(mounts.concat().as_bytes()).unwrap();
            not_mounted(Path::new(path), fstab, &table).map(|point| point.display().to_string())
        };
        assert_eq!(missing("/nas/pg backup/catalog/main", &[root]).as_deref(), Some("/nas/pg backup"));
        assert_eq!(missing("/nas/pg backup/catalog/main", &[root, nas]), None);
        assert_eq!(missing("/srv/catalog/main", &[root]).as_deref(), Some("/srv"));
        for elsewhere in ["/var/lib/catalog/main", "/nas/old/main", "/nas/pg/main", "/srvx/main"] {
            assert_eq!(missing(elsewhere, &[root]), None, "{elsewhere}");
        }
    }
}
