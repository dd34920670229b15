//! The catalog: what is in it, as JSON; keeping, deleting, and WAL.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::catalog::delete::{DeleteRequest, Selection};
use crate::catalog::{CatalogEntry, DeletePlan, Keep};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::model::Compression;
use crate::session::SessionState;
use crate::wal::{Level, NewTablespaces, WalArchive};

/// All backups: `backups_list` is that of the stock tools, with `keep` where a backup is kept; `unreadable` are those whose
/// metadata cannot be read; `sessions` are those that are not over or came to nothing.
///
/// # Errors
/// If the store fails.
pub async fn list(engine: &Engine) -> Result<Value> {
    let entries = engine.catalog().list().await?;
    let (mut backups, mut unreadable) = (Vec::new(), Vec::new());
    for entry in &entries {
        match described(entry) {
            Ok(object) => backups.push(object),
            Err(error) => unreadable.push(json!({ "backup_id": entry.id, "error": error.chain() })),
        }
    }
    let (sessions, broken) = engine.sessions().await?;
    // A session whose backup is in the catalog is that backup.
    let is_listed = |id: &BackupId| entries.iter().any(|entry| entry.id == *id);
    let mut others: Vec<Value> =
        sessions.iter().filter(|state| !is_listed(&state.plan.backup_id)).map(session).collect();
    others.extend(broken.iter().map(|(id, error)| json!({ "backup_id": id, "error": error.chain() })));
    Ok(json!({ "backups_list": backups, "unreadable": unreadable, "sessions": others }))
}

fn session(state: &SessionState) -> Value {
    json!({
        "backup_id": state.plan.backup_id,
        "phase": state.phase,
        "provider": state.plan.provider,
        "reason": state.undo_reason.as_ref().or(state.stuck_reason.as_ref()),
    })
}

/// One backup as the stock tools show it, with `keep` and `proofs`. `backup` is an id, a name, `first` or `last`.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound); [`Corrupt`](crate::ErrorKind::Corrupt) if its metadata cannot be read.
pub async fn show(engine: &Engine, backup: &str) -> Result<Value> {
    let id = engine.catalog().resolve(backup).await?;
    let entry = engine.catalog().entry(&id).await?;
    let info = entry.info.map_err(|error| Error::corrupt(format!("backup {id} cannot be read")).with_source(error))?;
    let mut object = info.to_stock_json(&id);
    object["keep"] = entry.keep.map(Keep::as_str).into();
    object["proofs"] = engine.proofs(&id).await?.into();
    Ok(object)
}

fn described(entry: &CatalogEntry) -> Result<Value, &Error> {
    let mut object = entry.info.as_ref()?.to_stock_json(&entry.id);
    if let Some(keep) = entry.keep {
        object["keep"] = keep.as_str().into();
    }
    Ok(object)
}

/// Keeps a backup beyond the retention policy (`full` or `standalone`), or releases it.
///
/// # Errors
/// [`NotFound`](crate::ErrorKind::NotFound), [`Precondition`](crate::ErrorKind::Precondition) if it is not complete.
pub async fn keep(engine: &Engine, backup: &str, target: Option<&str>) -> Result<BackupId> {
    let catalog = engine.catalog();
    let target = target.map(str::parse::<Keep>).transpose()?;
    let id = catalog.resolve(backup).await?;
    // An id is taken as it is; that there is such a backup is for the catalog to say.
    catalog.entry(&id).await?;
    match target {
        Some(target) => catalog.set_keep(&id, target).await?,
        None => catalog.release_keep(&id).await?,
    }
    Ok(id)
}

/// Which backups to delete: exactly one of `backup` and `retention_policy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeleteOptions {
    /// An id, a name, `first` or `last`.
    pub backup: Option<String>,
    /// `REDUNDANCY n`, or `RECOVERY WINDOW OF n DAYS|WEEKS|MONTHS`.
    pub retention_policy: Option<String>,
    /// Never leave fewer complete backups than this.
    pub minimum_redundancy: u32,
    /// Take snapshots that cannot be seen from here for gone: their host, disk or account no longer exists.
    pub snapshots_gone: bool,
    /// Only say what would be deleted.
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Deletes, and says what.
    ///
    /// # Errors
    /// If a backup must not be deleted; of the first thing that failed.
    pub async fn run(&self, engine: &Engine) -> Result<DeletePlan> {
        let selection = match (&self.backup, &self.retention_policy) {
            (Some(backup), None) => Selection::Backups(vec![engine.catalog().resolve(backup).await?]),
            (None, Some(policy)) => Selection::Obsolete(policy.parse()?),
            _ => return Err(Error::invalid("one of backup and retention_policy has to be given, and not both")),
        };
        let request = DeleteRequest {
            selection,
            minimum_redundancy: self.minimum_redundancy,
            even_started: false,
            snapshots_gone: self.snapshots_gone,
        };
        let plan = engine.plan_delete(&request).await?;
        if !self.dry_run {
            engine.delete(&plan).await?;
        }
        Ok(plan)
    }
}

/// How a WAL file is stored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WalArchiveOptions {
    /// `gzip`, `bzip2`, `xz`, `snappy`, `zstd` or `lz4`.
    pub compression: Option<Compression>,
    /// `low`, `medium`, `high` or a number.
    pub compression_level: Option<String>,
    /// The system identifier of the cluster, if it has replaced the one whose archive this was.
    pub new_system_id: Option<String>,
}

impl WalArchiveOptions {
    /// The archive that stores so.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a level that the compression does not have.
    pub fn archive(&self, engine: &Engine) -> Result<WalArchive> {
        let archive = WalArchive::new(engine.catalog());
        let archive = match &self.new_system_id {
            Some(id) => archive.with_new_system_id(id),
            None => archive,
        };
        let level = self.compression_level.as_deref().map(str::parse).transpose()?.unwrap_or(Level::default());
        match self.compression {
            Some(compression) => archive.with_compression(compression, level),
            None => Ok(archive),
        }
    }
}

/// How a WAL file is given out.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WalRestoreOptions {
    /// Where tablespaces go that the WAL creates: `original`, as PostgreSQL does it, or `inside` the data directory into which
    /// it is replayed, for a server that must not touch what the original has.
    pub new_tablespaces: NewTablespaces,
}

impl WalRestoreOptions {
    /// The archive that gives it out so.
    pub fn archive(&self, engine: &Engine) -> WalArchive {
        WalArchive::new(engine.catalog()).with_new_tablespaces(self.new_tablespaces)
    }
}
