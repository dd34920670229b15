//! Snapshots of Amazon EBS volumes.
//!
//! # What the states mean
//! * **Cut**: `CreateSnapshot` or `CreateSnapshots` has answered `pending` (or `completed`). «The snapshot is created
//!   immediately, but it remains in the pending state until all of the data has been transferred»; it holds «only the data
//!   that was written to the volume at the time the snapshot was requested», and «you can resume writing once the snapshot
//!   enters the pending state» (<https://docs.aws.amazon.com/ebs/latest/userguide/ebs-creating-snapshot.html>,
//!   <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSnapshot.html>).
//! * **Ready**: `completed`; only then can a volume be made of it without the source
//!   (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Snapshot.html>).
//! * **Failed**: `error`, with the `StateMessage` as the reason.
//!
//! # Several at once
//! Two or more volumes of one instance are cut by one `CreateSnapshots` (see [`group`]), else each by its own call, all at the
//! same time.
//!
//! # Afterwards
//! Copies to other regions first, then locks: a snapshot is locked when it *and its copies* are complete, not while it is
//! pending, though EC2 would allow that. A locked snapshot cannot be deleted, and as long as any disk of the backup can still
//! fail, all of them may have to be. The duration of a lock begins at completion in either case
//! (<https://docs.aws.amazon.com/ebs/latest/userguide/ebs-snapshot-lock.html>).
//!
//! # What it is not
//! No instance store, no Outposts, no Local Zones, no root volumes: a root volume holds more than a cluster, and the stock
//! tools leave it out, too.
//!
//! # The invariant
//! The tag [`names::TOKEN`] is in every call that makes something, and nothing without the right one is deleted. All that a
//! later process needs is in the attributes of volumes and tickets, also what was asked for beyond the snapshot.

mod account;
mod after;
mod client;
mod copies;
mod errors;
mod group;
mod instance;
mod lock;
mod metadata;
mod names;
mod preflight;
mod shape;
mod snapshots;
mod trust;
mod volume;
mod volumes;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use self::after::Wanted;
use self::client::Clients;
use self::snapshots::Fresh;
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::id::{BackupId, Token};
use crate::model::{CloudSnapshots, Literal, SnapshotRecord};
use crate::provider::options::{AwsOptions, ProviderOptions};
use crate::provider::{
    AfterCut, Capabilities, CreateRequest, CreateVolumeRequest, Findings, Instance, Outlook, Preflight, RestoredVolume,
    SnapshotProvider, SnapshotStatus, Ticket, Volume, VolumeSelection,
};

/// [`Volume::method`] of an EBS volume.
const METHOD: &str = "ebs";

// Keys of attributes. They are stored: never changed, only added.
/// Of an instance, a volume, a ticket: its region.
const REGION: &str = "region";
/// Of an instance, a volume: its availability zone.
const ZONE: &str = "zone";
/// Of an instance, a volume: the id of the instance.
const INSTANCE_ID: &str = "instance_id";
/// Of a volume, a ticket: the id of the volume.
const VOLUME_ID: &str = "volume_id";
/// Of a volume, a ticket: the name of the device in the API.
const DEVICE: &str = "device";
/// Of a volume: how many volumes are attached to its instance, without the root one.
const DATA_VOLUMES: &str = "data_volumes";
/// Of a volume, a ticket: `gp3` and so on; a restored volume is of the same kind.
const VOLUME_TYPE: &str = "volume_type";
/// Of a volume, a ticket: provisioned operations per second.
const IOPS: &str = "iops";
/// Of a volume, a ticket: provisioned MiB per second.
const THROUGHPUT: &str = "throughput";
/// Of a volume, a ticket: the KMS key that it is encrypted with.
const KMS_KEY: &str = "kms_key";
/// Of a volume, a ticket: it could be attached to several instances.
const MULTI_ATTACH: &str = "multi_attach";
/// Of an instance, a volume, a ticket: the account.
const ACCOUNT: &str = "account_id";
/// Of a ticket of a copy: the original.
const SOURCE: &str = "source";

/// The provider with these options.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] if the options do not fit together.
pub async fn open(options: &ProviderOptions) -> Result<Arc<dyn SnapshotProvider>> {
    Ok(Arc::new(AwsProvider::new(options).await?))
}

/// The provider.
#[derive(Debug)]
pub struct AwsProvider {
    clients: Clients,
    clock: Arc<dyn Clock>,
    options: AwsOptions,
    /// What the user wants beyond snapshots.
    wanted: Wanted,
    fresh: Fresh,
    /// The account of the credentials, once it was asked for.
    account: OnceCell<String>,
    /// The description of the host with the disks, if it is not this one.
    host: Option<PathBuf>,
}

impl AwsProvider {
    /// The provider with these options; see [`open`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if the options do not fit together.
    pub async fn new(options: &ProviderOptions) -> Result<Self> {
        shape::check(&options.aws)?;
        Ok(Self {
            options: options.aws.clone(),
            wanted: Wanted::from_options(&options.aws)?,
            clients: Clients::load(&options.aws).await?,
            clock: Arc::new(SystemClock::new()),
            fresh: Fresh::default(),
            account: OnceCell::new(),
            host: options.host_description.clone(),
        })
    }

    /// Asks until there is an answer, for at most `patience`, with pauses that grow from a quarter of a second to `longest`.
    /// Nothing else in this provider waits. An answer that could not be had for now is asked for again.
    async fn until<T, F: Future<Output = Result<Option<T>>> + Send>(
        &self,
        what: &str,
        patience: Duration,
        longest: Duration,
        ask: impl Fn() -> F + Send,
    ) -> Result<T> {
        let begun = self.clock.monotonic();
        let mut pause = Duration::from_millis(250);
        loop {
            match ask().await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => {}
                Err(error) => match error.retry() {
                    Retry::Safe => {}
                    Retry::After(asked) => pause = pause.max(asked),
                    Retry::Never | Retry::Unknown => return Err(error),
                },
            }
            if self.clock.monotonic().saturating_sub(begun) >= patience {
                let message = format!("{what}: gave up after {} s", patience.as_secs());
                return Err(Error::new(ErrorKind::Unavailable, message).with_retry(Retry::Safe));
            }
            self.clock.sleep(pause).await;
            pause = (pause + pause / 2).min(longest);
        }
    }
}

#[async_trait]
impl SnapshotProvider for AwsProvider {
    fn name(&self) -> &'static str {
        "aws"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { atomic: true, directory_restore: false, host_bound: false }
    }

    async fn instance(&self, name: Option<&str>) -> Result<Instance> {
        let found = instance::find(&self.clients, name).await?;
        // Who sees an instance is of its account: nobody else has to be asked.
        if let Some(account) = found.attributes.get(ACCOUNT) {
            let _ = self.account.set(account.clone());
        }
        Ok(found)
    }

    async fn volumes(&self, instance: &Instance, selection: &VolumeSelection) -> Result<Vec<Volume>> {
        self.find_volumes(instance, selection).await
    }

    fn snapshot_name(&self, volume: &Volume, backup_id: &BackupId) -> String {
        names::snapshot_name(volume, backup_id)
    }

    fn snapshots_info(&self, _instance: &Instance, snapshots: &[SnapshotRecord]) -> Option<Literal> {
        Some(metadata::of_records(snapshots).to_literal())
    }

    fn can_group(&self, volumes: &[Volume]) -> bool {
        group::possible(volumes)
    }

    async fn check_requests(&self, requests: &[CreateRequest]) -> Result<()> {
        self.check(requests).await
    }

    async fn preflight(&self, instance: Option<&str>, selection: &VolumeSelection) -> Preflight {
        self.look_before(instance, selection).await
    }

    async fn preflight_requests(&self, requests: &[CreateRequest]) -> Findings {
        self.look_at_requests(requests).await
    }

    async fn create(&self, request: &CreateRequest) -> Result<Vec<Ticket>> {
        match request.volumes.as_slice() {
            [] => Err(Error::invalid("a request without volumes")),
            [one] => self.create_single(request, one).await.map(|ticket| vec![ticket]),
            _ => self.create_group(request).await,
        }
    }

    async fn status(&self, ticket: &Ticket) -> Result<SnapshotStatus> {
        self.snapshot_status(ticket).await
    }

    async fn find(&self, token: &Token, volumes: &[Volume]) -> Result<Vec<Ticket>> {
        let found = self.tickets(names::TOKEN, token.as_str(), volumes).await?;
        if found.is_empty() {
            self.check_nothing(volumes).await?;
        }
        Ok(found)
    }

    async fn list(&self, mark: &str, volumes: &[Volume]) -> Result<Vec<Ticket>> {
        self.tickets(names::MARK, mark, volumes).await
    }

    async fn unseen(&self, instance: &Instance, volumes: &[Volume]) -> Result<Option<String>> {
        self.why_unseen(instance, volumes).await
    }

    async fn delete(&self, ticket: &Ticket) -> Result<()> {
        self.delete_snapshot(ticket).await
    }

    fn after_cut(&self, volumes: &[Volume], grouped: bool) -> AfterCut {
        AfterCut { promote: grouped, secure: after::is_wanted(volumes) }
    }

    async fn promote(&self, requests: &[CreateRequest], tickets: &[Ticket]) -> Result<Vec<Ticket>> {
        self.name_group(requests, tickets).await.map(|()| tickets.to_vec())
    }

    async fn secure(&self, requests: &[CreateRequest], tickets: &[Ticket]) -> Result<Vec<Ticket>> {
        self.copy_and_lock(requests, tickets).await
    }

    async fn check_delete(&self, tickets: &[Ticket]) -> Result<()> {
        self.check_ours(tickets).await?;
        self.check_locks(tickets).await
    }

    async fn adopt(&self, backup_id: &BackupId, snapshots: &CloudSnapshots) -> Result<Vec<SnapshotRecord>> {
        metadata::adopt(backup_id, snapshots)
    }

    fn outlook(&self, ticket: &Ticket, instance: &Instance) -> Outlook {
        shape::Shape::of(ticket, &self.options).outlook(ticket, instance)
    }

    async fn create_volume(&self, request: &CreateVolumeRequest) -> Result<RestoredVolume> {
        self.make_volume(request).await
    }

    async fn attach(&self, volume: &RestoredVolume, instance: &Instance) -> Result<RestoredVolume> {
        self.attach_volume(volume, instance).await
    }

    async fn detach(&self, volume: &RestoredVolume, instance: &Instance) -> Result<()> {
        self.detach_volume(volume, instance).await
    }

    async fn delete_volume(&self, volume: &RestoredVolume) -> Result<()> {
        self.remove_volume(volume).await
    }

    async fn attached_from(&self, instance: &Instance, tickets: &[Ticket]) -> Result<Vec<Option<Volume>>> {
        self.made_of(instance, tickets).await
    }

    async fn list_volumes(&self, mark: &str) -> Result<Vec<RestoredVolume>> {
        self.left_volumes(mark).await
    }
}
