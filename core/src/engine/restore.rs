//! Restore and verify, as the engine offers them: gathers the facts, lets [`plan`](crate::restore::plan) decide,
//! carries out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::join_all;
use serde_json::Value;

use super::Engine;
use crate::catalog::Chosen;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, Token};
use crate::model::{BackupInfo, EngineRecord, SnapshotRecord};
use crate::provider::{SnapshotState, SnapshotStatus, Ticket};
use crate::restore::plan::places_to_look_at;
use crate::restore::{
    self, ArchiveFacts, DeviceFacts, DeviceWishes, PlanInput, Proof, RecoveryTarget, RestoreEvent, RestorePlan,
    RestoreRequest, Restored, Tools, VerifyInput, VerifyOptions, WalReader, WalSource,
};
use crate::session::CancelToken;
use crate::wal::{NewTablespaces, WalArchive};

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
        self.choose(text, target).await.map(|chosen| chosen.backup_id)
    }

    /// As [`resolve`](Self::resolve), with the reasons: for [`RestoreRequest::chosen`] and [`VerifyOptions::chosen`].
    ///
    /// # Errors
    /// As there; and if it cannot be told which backup is the last.
    pub async fn choose(&self, text: &str, target: &RecoveryTarget) -> Result<Chosen> {
        if text != "auto" {
            return self.catalog().choose(text).await;
        }
        let entries = self.catalog().list().await?;
        let infos = entries.iter().map(|entry| (&entry.id, entry.info.as_ref().ok()));
        restore::choose_backup(infos, target, &restore::ancestry(self.catalog()).await?)
    }

    /// Plans a restore: every refusal comes from here, and nothing is changed.
    ///
    /// # Errors
    /// What stands in the way, in one line.
    pub async fn plan_restore(&self, id: &BackupId, request: &RestoreRequest) -> Result<RestorePlan> {
        let mut backup = self.restorable(id).await?;
        if let Err(error) = self.load_config(id, &mut backup.record).await {
            if request.with_config {
                return Err(
                    error.with_hint("restore without --with-config, and give the server a configuration of its own")
                );
            }
            tracing::warn!(error = error.chain(), "restoring without the saved configuration");
        }
        let known = matches!(request.wal, WalSource::Catalog { .. }) && !backup.record.wal_external;
        let archive = self.archive_facts(&backup.info, known).await?;
        let mut places = places_to_look_at(&backup.info, request)?;
        let devices = self.device_facts(&backup.record, request.devices.as_ref()).await?;
        if devices.is_some() {
            places.extend(restore::devices::look_at(&backup.info, &backup.record, request)?);
        }
        let host = blocking(move || restore::host::look(&places)).await?;
        let mut plan = restore::plan::plan(PlanInput {
            backup_id: id,
            info: &backup.info,
            record: &backup.record,
            request,
            host: &host,
            archive: &archive,
            devices: devices.as_ref(),
            now: self.clock().now(),
        })?;
        self.check_snapshots(&plan).await?;
        plan.configuration = self.foresee_configuration(&plan).await?;
        Ok(plan)
    }

    /// Refuses a plan of which a snapshot is gone, cannot be seen from here, or is of no use.
    async fn check_snapshots(&self, plan: &RestorePlan) -> Result<()> {
        let provider = self.provider_named(&plan.provider).await?;
        let to_make =
            plan.devices.iter().flat_map(|devices| &devices.volumes).filter(|volume| volume.attached.is_none());
        let tickets = plan.pieces.iter().map(|piece| &piece.ticket).chain(to_make.map(|volume| &volume.ticket));
        let wanted: BTreeMap<&str, &Ticket> = tickets.map(|ticket| (ticket.snapshot.as_str(), ticket)).collect();
        let statuses = join_all(wanted.values().map(|ticket| provider.status(ticket))).await;
        for (ticket, status) in wanted.values().zip(statuses) {
            let gone = |why: String| {
                Error::precondition(format!("snapshot {} of backup {} {why}", ticket.snapshot, plan.backup_id))
                    .with_hint("this backup cannot be restored; choose another one: barman-snap list")
            };
            match status {
                Ok(SnapshotStatus { state: SnapshotState::Failed { reason }, .. }) => {
                    return Err(gone(format!("is not usable: {reason}")));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(gone("does not exist any more".to_owned()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What the restore will change in the configuration, where the snapshot can be read as it is.
    async fn foresee_configuration(&self, plan: &RestorePlan) -> Result<Vec<String>> {
        let provider = self.provider_named(&plan.provider).await?;
        let content = match plan.pieces.iter().find(|piece| piece.destination == plan.target) {
            // A snapshot that cannot be read is the affair of the restore, which says more about it.
            Some(home) => provider.content(&home.ticket).await.ok().flatten().map(|top| top.join(&home.subtree)),
            None => None,
        };
        let (config, target) = (plan.config.clone(), plan.target.clone());
        blocking(move || restore::config::foresee(&config, &target, content.as_deref())).await
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
        let provider = self.provider_named(&plan.provider).await?;
        let (cancel, listener) = (cancel.clone(), Arc::clone(listener));
        let tools = Tools {
            provider: provider.as_ref(),
            clock: self.clock().as_ref(),
            cancelled: &move || cancel.is_cancelled(),
            progress: &move |event| listener(event),
        };
        let restored = async {
            restore::space::check(plan, tools).await?;
            restore::provision(plan, tools).await
        };
        restored.await.map_err(|error| error.with_operation("restore"))
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
        let mut backup = self.restorable(id).await?;
        if let Err(error) = self.load_config(id, &mut backup.record).await {
            tracing::warn!(error = error.chain(), "verifying without the saved configuration");
        }
        let provider = self.provider_named(&backup.record.provider).await?;
        // One that is gone is for the proof to say; one that cannot be seen from here says nothing of the backup.
        let tickets = backup.record.snapshots.iter().map(|one| provider.status(&one.ticket));
        for status in join_all(tickets).await {
            match status {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.with_operation("verify")),
                _ => {}
            }
        }
        let archive = self.archive_facts(&backup.info, !backup.record.wal_external).await?;
        let reader = WalArchive::new(self.catalog()).with_new_tablespaces(NewTablespaces::Inside);
        let devices = self.device_facts(&backup.record, options.devices.as_ref()).await?;
        let token = self.ids().token();
        let (cancel, listener) = (cancel.clone(), Arc::clone(listener));
        let tools = Tools {
            provider: provider.as_ref(),
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
            devices: devices.as_ref(),
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
        let record = match info.engine_record()? {
            Some(record) => record,
            None => self.stock_record(id, &info).await?,
        };
        restore::claims::check(&info, &record)?;
        Ok(Restorable { info, record })
    }

    /// Reads the configuration files that were saved with a backup into its record.
    async fn load_config(&self, id: &BackupId, record: &mut EngineRecord) -> Result<()> {
        if let Some(reference) = &record.saved_config {
            record.saved_files = self.catalog().read_config(id, reference, &record.token).await?;
        }
        Ok(())
    }

    /// What can be said of a backup that a stock tool has made of snapshots: what its metadata name.
    async fn stock_record(&self, id: &BackupId, info: &BackupInfo) -> Result<EngineRecord> {
        let Some(stock) = info.snapshots()? else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("backup {id} was not made by this engine, and has no snapshots"),
            )
            .with_hint("restore it with the tool that made it"));
        };
        let name = stock.provider_info.provider();
        let snapshots = self.provider_named(name).await?.adopt(id, &stock).await?;
        let token = snapshots.first().map_or_else(|| Token::from_bits(0), |record| record.ticket.token.clone());
        Ok(EngineRecord { snapshots, ..EngineRecord::new(name, token) })
    }

    /// What has to be known to restore to devices; `None` for a provider that fills directories.
    async fn device_facts(&self, record: &EngineRecord, wanted: Option<&DeviceWishes>) -> Result<Option<DeviceFacts>> {
        let provider = self.provider_named(&record.provider).await?;
        if provider.capabilities().directory_restore {
            return match wanted {
                Some(DeviceWishes { mounted: true, .. }) => Err(Error::invalid(format!(
                    "the provider {} has no volumes that could be mounted",
                    provider.name()
                ))
                .with_hint("leave out --mounted")),
                _ => Ok(None),
            };
        }
        let wanted = wanted.cloned().unwrap_or_default();
        let instance = provider.instance(wanted.instance.as_deref()).await?;
        // A catalog that only stock tools have written has none, and a restore writes nothing into a catalog.
        let mark = self.known_mark().await?.unwrap_or_else(|| self.catalog().server().as_str().to_owned());
        let mut facts = blocking(move || DeviceFacts::here(instance, mark)).await?;
        let outlook = |one: &SnapshotRecord| provider.outlook(&one.ticket, &facts.instance);
        facts.outlook = record.snapshots.iter().map(outlook).collect();
        if wanted.mounted {
            let tickets: Vec<_> = record.snapshots.iter().map(|one| one.ticket.clone()).collect();
            facts.attached = Some(provider.attached_from(&facts.instance, &tickets).await?);
        }
        Ok(Some(facts))
    }

    /// What the archive has, unless nobody may look because the WAL is another tool's.
    async fn archive_facts(&self, info: &BackupInfo, look: bool) -> Result<ArchiveFacts> {
        match look {
            true => restore::archive_facts(self.catalog(), info).await,
            false => Ok(ArchiveFacts::default()),
        }
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
