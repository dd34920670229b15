//! Snapshots of Azure managed disks.
//!
//! A snapshot is an incremental one (`Microsoft.Compute/snapshots`), in the resource group of the virtual machine and the region
//! of the disk. It carries token, mark and all of its [`Ticket`] in tags, from the PUT that makes it.
//!
//! # What the states mean here
//! | Azure | means | because |
//! | --- | --- | --- |
//! | `provisioningState` `Creating`, `Updating` | `Creating` | a new snapshot is `Updating` in the reply to its PUT |
//! | `Succeeded`, `completionPercent` below 100, or none of an Ultra disk or Premium SSD v2 | `Cut` | the point in time is fixed; data is still copied from the disk in the background |
//! | `Succeeded`, `completionPercent` 100, or none of another disk | `Ready` | the copy is complete |
//! | `Failed`, `Canceled`, `copyCompletionError` | `Failed` | the reason is that of the asynchronous operation |
//!
//! Snapshots of Premium SSD, Standard SSD and Standard HDD can be used at once, those of Ultra disks and Premium SSD v2 when
//! `CompletionPercent` is 100 (<https://learn.microsoft.com/azure/virtual-machines/disks-instant-access-snapshots>). "Can be
//! used" is less than `Ready`, which also says that the disk may be lost; so a percentage below 100 is never `Ready` here,
//! whatever the disk.
//!
//! # What it is not
//! It does not wait in `create`, and does not use the poller of the SDK. It cuts no group ([`group`]). It asks for instant access
//! only where the user does: that costs extra, and makes no snapshot `Ready`, as until the copy is complete it needs the disk.

mod after;
mod arm;
mod client;
mod errors;
mod group;
mod instance;
mod listing;
mod metadata;
mod names;
mod preflight;
mod shape;
mod snapshots;
mod volume;
mod volumes;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use azure_mgmt_compute::package_2024_07_01::models;

use self::arm::Scope;
use self::client::Clients;
use super::options::{AzureOptions, ProviderOptions};
use super::{
    AfterCut, Capabilities, CreateRequest, CreateVolumeRequest, Findings, Instance, Outlook, Preflight, RestoredVolume,
    SnapshotProvider, SnapshotStatus, Ticket, Volume, VolumeSelection,
};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::id::{BackupId, Token};
use crate::model::{CloudSnapshots, Literal, SnapshotRecord};

/// [`Volume::method`] of this provider.
const METHOD: &str = "managed-disk";

/// The provider with these options.
///
/// # Errors
/// If the options do not fit together.
pub async fn open(options: &ProviderOptions) -> Result<Arc<dyn SnapshotProvider>> {
    let provider = AzureProvider::new(&options.azure, options.host_description.clone(), Arc::new(SystemClock::new()))?;
    Ok(Arc::new(provider))
}

/// The provider for managed disks.
#[derive(Debug)]
pub struct AzureProvider {
    options: AzureOptions,
    host_description: Option<PathBuf>,
    clients: Clients,
    listings: listing::Listings<models::Snapshot>,
    operations: snapshots::Operations,
    /// Held while the disks of a machine are changed.
    attaching: tokio::sync::Mutex<()>,
}

impl AzureProvider {
    /// A provider that takes its waits from `clock`. Asks nobody.
    ///
    /// # Errors
    /// If the options do not fit together.
    pub fn new(options: &AzureOptions, host_description: Option<PathBuf>, clock: Arc<dyn Clock>) -> Result<Self> {
        if options.copy_to.is_some() && options.disk_encryption_set.is_some() {
            return Err(Error::invalid("--azure-copy-to and --azure-disk-encryption-set do not go together")
                .with_hint("a disk encryption set is of one region, so the copy would not be encrypted with its key"));
        }
        if let Some(minutes) = options.instant_access_minutes.filter(|minutes| !(60..=300).contains(minutes)) {
            return Err(Error::invalid(format!("instant access lasts 60 to 300 minutes, not {minutes}")));
        }
        Ok(Self {
            clients: Clients::new(options, clock)?,
            options: options.clone(),
            host_description,
            listings: listing::Listings::default(),
            operations: snapshots::Operations::default(),
            attaching: tokio::sync::Mutex::new(()),
        })
    }

    /// Where the options say that things are.
    fn scope(&self) -> Result<Scope> {
        let need = |value: &Option<String>, option: &str| {
            value.clone().ok_or_else(|| Error::invalid(format!("{option} is required for snapshots on Azure")))
        };
        Ok(Scope {
            subscription: need(&self.options.subscription_id, "--azure-subscription-id")?,
            group: need(&self.options.resource_group, "--azure-resource-group")?,
        })
    }

    /// Where snapshots of these volumes are; without volumes, where the options say.
    fn scopes(&self, volumes: &[Volume]) -> Result<Vec<Scope>> {
        let named: BTreeSet<Scope> = volumes.iter().filter_map(|volume| Scope::of(&volume.attributes)).collect();
        Ok(if named.is_empty() { vec![self.scope()?] } else { named.into_iter().collect() })
    }

    /// A wait that ends after `patience`.
    fn wait(&self, patience: Duration) -> Wait {
        let clock = Arc::clone(self.clients.clock());
        Wait { begun: clock.monotonic(), clock, patience, pause: Duration::from_millis(100) }
    }
}

/// Pauses that grow, and an end to patience.
#[derive(Debug)]
struct Wait {
    clock: Arc<dyn Clock>,
    begun: Duration,
    patience: Duration,
    pause: Duration,
}

impl Wait {
    /// Pauses; false when patience has ended.
    async fn pause(&mut self) -> bool {
        if self.clock.monotonic().saturating_sub(self.begun) >= self.patience {
            return false;
        }
        self.clock.sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(5));
        true
    }
}

#[async_trait]
impl SnapshotProvider for AzureProvider {
    fn name(&self) -> &'static str {
        "azure"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { atomic: true, directory_restore: false, host_bound: false }
    }

    async fn instance(&self, name: Option<&str>) -> Result<Instance> {
        instance::find(self, name).await
    }

    async fn volumes(&self, instance: &Instance, selection: &VolumeSelection) -> Result<Vec<Volume>> {
        volumes::volumes(self, instance, selection).await
    }

    fn snapshot_name(&self, volume: &Volume, backup_id: &BackupId) -> String {
        names::RULES.snapshot_name(&volume.id, backup_id)
    }

    fn snapshots_info(&self, instance: &Instance, snapshots: &[SnapshotRecord]) -> Option<Literal> {
        Some(metadata::snapshots_info(instance, snapshots))
    }

    fn can_group(&self, _volumes: &[Volume]) -> bool {
        false
    }

    async fn check_requests(&self, requests: &[CreateRequest]) -> Result<()> {
        preflight::check_requests(self, requests).await
    }

    async fn preflight(&self, instance: Option<&str>, selection: &VolumeSelection) -> Preflight {
        volumes::look_before(self, instance, selection).await
    }

    async fn preflight_requests(&self, requests: &[CreateRequest]) -> Findings {
        preflight::findings(self, requests).await
    }

    async fn create(&self, request: &CreateRequest) -> Result<Vec<Ticket>> {
        snapshots::create(self, request).await
    }

    async fn status(&self, ticket: &Ticket) -> Result<SnapshotStatus> {
        snapshots::status(self, ticket).await
    }

    async fn find(&self, token: &Token, volumes: &[Volume]) -> Result<Vec<Ticket>> {
        snapshots::tagged(self, &self.scopes(volumes)?, names::TOKEN, token.as_str()).await
    }

    async fn list(&self, mark: &str, volumes: &[Volume]) -> Result<Vec<Ticket>> {
        snapshots::tagged(self, &self.scopes(volumes)?, names::MARK, mark).await
    }

    async fn unseen(&self, instance: &Instance, volumes: &[Volume]) -> Result<Option<String>> {
        let mut scopes: BTreeSet<Scope> = volumes.iter().filter_map(|volume| Scope::of(&volume.attributes)).collect();
        if scopes.is_empty() {
            scopes.insert(Scope::of(&instance.attributes).map_or_else(|| self.scope(), Ok)?);
        }
        for scope in &scopes {
            match snapshots::list_group(self, scope).await {
                // Of a group that does not exist, all is gone.
                Err(error) if !client::gone(&error) => {
                    let (group, subscription) = (&scope.group, &scope.subscription);
                    let place = format!("its snapshots are in resource group {group} of subscription {subscription}");
                    return Ok(Some(format!("{place}: {}", error.chain())));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    async fn delete(&self, ticket: &Ticket) -> Result<()> {
        snapshots::delete(self, ticket).await
    }

    fn after_cut(&self, volumes: &[Volume], _grouped: bool) -> AfterCut {
        after::after_cut(volumes)
    }

    async fn secure(&self, requests: &[CreateRequest], tickets: &[Ticket]) -> Result<Vec<Ticket>> {
        after::secure(self, requests, tickets).await
    }

    async fn check_delete(&self, tickets: &[Ticket]) -> Result<()> {
        after::check_delete(self, tickets).await
    }

    async fn adopt(&self, backup_id: &BackupId, snapshots: &CloudSnapshots) -> Result<Vec<SnapshotRecord>> {
        let options = &self.options;
        metadata::adopt(backup_id, snapshots, options.subscription_id.as_deref(), options.resource_group.as_deref())
    }

    fn outlook(&self, ticket: &Ticket, instance: &Instance) -> Outlook {
        shape::Shape::of(ticket, &self.options, instance, None).outlook()
    }

    async fn create_volume(&self, request: &CreateVolumeRequest) -> Result<RestoredVolume> {
        volume::create(self, request).await
    }

    async fn attach(&self, volume: &RestoredVolume, instance: &Instance) -> Result<RestoredVolume> {
        volume::attach(self, volume, instance).await
    }

    async fn detach(&self, volume: &RestoredVolume, instance: &Instance) -> Result<()> {
        volume::detach(self, volume, instance).await
    }

    async fn delete_volume(&self, volume: &RestoredVolume) -> Result<()> {
        volume::delete(self, volume).await
    }

    async fn attached_from(&self, instance: &Instance, tickets: &[Ticket]) -> Result<Vec<Option<Volume>>> {
        volumes::made_of(self, instance, tickets).await
    }

    async fn list_volumes(&self, mark: &str) -> Result<Vec<RestoredVolume>> {
        volume::list(self, mark).await
    }
}
