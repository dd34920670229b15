//! Restore and verify, as the engine offers them: gathers the facts, lets [`plan`](crate::restore::plan) decide,
//! carries out.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::model::{BackupInfo, EngineRecord};
use crate::restore::plan::places_to_look_at;
use crate::restore::{
    self, ArchiveFacts, PlanInput, Proof, RecoveryTarget, RestoreEvent, RestorePlan, RestoreRequest, Restored, Tools,
    VerifyInput, VerifyOptions, WalReader, WalSource,
};
use crate::session::CancelToken;
use crate::wal::WalArchive;

/// Is told how far a restore or a verification is.
pub type RestoreListener = Arc<dyn Fn(RestoreEvent) + Send + Sync>;

/// A backup that can be restored: its metadata and our record of it.
struct Restorable {
    info: BackupInfo,
    record: EngineRecord,
}

impl Engine {
    /// The backup that the user means: an id, a name, `first`, `last`; or `auto`, the one that suits a recovery target.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is none.
    pub async fn resolve(&self, text: &str, target: &RecoveryTarget) -> Result<BackupId> {
        if text != "auto" {
            return self.catalog().resolve(text).await;
        }
        let entries = self.catalog().list().await?;
        let readable = entries.iter().filter_map(|entry| Some((&entry.id, entry.info.as_ref().ok()?)));
        restore::choose_backup(readable, target, &restore::ancestry(self.catalog()).await?)
    }

    /// Plans a restore: every refusal comes from here, and nothing is changed.
    ///
    /// # Errors
    /// What stands in the way, in one line.
    pub async fn plan_restore(&self, id: &BackupId, request: &RestoreRequest) -> Result<RestorePlan> {
        let backup = self.restorable(id).await?;
        let known = matches!(request.wal, WalSource::Catalog { .. }) && !backup.record.wal_external;
        let archive = self.archive_facts(&backup.info, known).await?;
        let places = places_to_look_at(&backup.info, request)?;
        let host = blocking(move || restore::host::look(&places)).await?;
        restore::plan::plan(PlanInput {
            backup_id: id,
            info: &backup.info,
            record: &backup.record,
            request,
            host: &host,
            archive: &archive,
            now: self.clock().now(),
        })
    }

    /// Carries out a plan. What it made is removed again when it fails or is cancelled.
    ///
    /// # Errors
    /// Of the first thing that failed.
    pub async fn restore(
        &self,
        plan: &RestorePlan,
        cancel: &CancelToken,
        listener: &RestoreListener,
    ) -> Result<Restored> {
        self.check_provider(&plan.provider)?;
        let (cancel, listener) = (cancel.clone(), Arc::clone(listener));
        let tools = Tools {
            provider: self.provider().as_ref(),
            clock: self.clock().as_ref(),
            cancelled: &move || cancel.is_cancelled(),
            progress: &move |event| listener(event),
        };
        restore::provision(plan, tools).await.map_err(|error| error.with_operation("restore"))
    }

    /// Restores to a throw-away place, starts what was restored, looks at it, records the proof in the catalog.
    ///
    /// # Errors
    /// If the verification could not be made. A backup that was found bad is no error but a [`Proof`] that did not pass.
    pub async fn verify(
        &self,
        id: &BackupId,
        wal: &WalSource,
        options: &VerifyOptions,
        cancel: &CancelToken,
        listener: &RestoreListener,
    ) -> Result<Proof> {
        let backup = self.restorable(id).await?;
        self.check_provider(&backup.record.provider)?;
        let archive = self.archive_facts(&backup.info, !backup.record.wal_external).await?;
        let reader = WalArchive::new(self.catalog());
        let token = self.ids().token();
        let (cancel, listener) = (cancel.clone(), Arc::clone(listener));
        let tools = Tools {
            provider: self.provider().as_ref(),
            clock: self.clock().as_ref(),
            cancelled: &move || cancel.is_cancelled(),
            progress: &move |event| listener(event),
        };
        let input = VerifyInput {
            server: self.catalog().server().as_str(),
            backup_id: id,
            info: &backup.info,
            record: &backup.record,
            archive: &archive,
            token: &token,
            wal,
            reader: (!backup.record.wal_external).then_some(&reader as &dyn WalReader),
            options,
        };
        let proof = restore::verify(input, tools).await.map_err(|error| error.with_operation("verify"))?;
        restore::store_proof(self.catalog(), &proof).await?;
        Ok(proof)
    }

    /// What has been proven of a backup, oldest first, as it is stored.
    ///
    /// # Errors
    /// If the catalog cannot be read. A proof that is no JSON is left out, with a warning.
    pub async fn proofs(&self, id: &BackupId) -> Result<Vec<Value>> {
        let space = self.catalog().space();
        let mut keys: Vec<String> =
            space.list(&self.catalog().layout().proofs(id)).await?.into_iter().map(|object| object.key).collect();
        keys.sort();
        let mut proofs = Vec::new();
        for key in keys {
            let Some((bytes, _)) = space.get(&key).await? else { continue };
            match serde_json::from_slice(&bytes) {
                Ok(proof) => proofs.push(proof),
                Err(error) => tracing::warn!(key, %error, "a proof cannot be read"),
            }
        }
        Ok(proofs)
    }

    async fn restorable(&self, id: &BackupId) -> Result<Restorable> {
        let mut info = self.catalog().read(id).await?;
        if info.backup_label.is_none() {
            info.backup_label = self.catalog().read_label(id).await?;
        }
        let record = info.engine_record()?.ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, format!("backup {id} was not made by this engine"))
                .with_hint("restore it with the tool that made it")
        })?;
        Ok(Restorable { info, record })
    }

    /// What the archive has, unless nobody may look because the WAL is another tool's.
    async fn archive_facts(&self, info: &BackupInfo, look: bool) -> Result<ArchiveFacts> {
        match look {
            true => restore::archive_facts(self.catalog(), info).await,
            false => Ok(ArchiveFacts::default()),
        }
    }

    fn check_provider(&self, name: &str) -> Result<()> {
        if self.provider().name() == name {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the backup has snapshots of {name}, this is the provider {}",
            self.provider().name()
        )))
    }
}

/// The program and its options for a `restore_command` that reads this catalog.
pub fn wal_source(program: Vec<String>, url: &str, server: &str) -> WalSource {
    // PostgreSQL runs the command in the data directory; a relative path would mean something else there.
    let url = match crate::catalog::CatalogUrl::parse(url) {
        Ok(crate::catalog::CatalogUrl::Local { directory }) => {
            std::path::absolute(&directory).unwrap_or(PathBuf::from(url)).display().to_string()
        }
        _ => url.to_owned(),
    };
    WalSource::Catalog { program, url, server: server.to_owned() }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("a thread of the engine stopped").with_source(error))?
}
