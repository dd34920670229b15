//! Snapshots of Google Cloud disks: persistent disks and hyperdisks, zonal and regional.
//!
//! # Cut and Ready
//! | Compute Engine says | state | why |
//! | --- | --- | --- |
//! | snapshot `CREATING` | creating | |
//! | snapshot `UPLOADING` | **cut** | Google's own CSI driver lets writes go on as soon as the status is not `CREATING` (`waitForSnapshotCreation` in kubernetes-sigs/gcp-compute-persistent-disk-csi-driver) |
//! | snapshot `READY` | **ready** | |
//! | snapshot `FAILED`, or its operation ended with an error | failed | a quota, for one, is told by the operation alone, <https://cloud.google.com/compute/docs/api/how-tos/api-requests-responses#async_responses> |
//! | instant snapshot `READY` | **cut** | it is deleted with its disk, <https://cloud.google.com/compute/docs/disks/instant-snapshots>; [`promote`](SnapshotProvider::promote) makes a standard snapshot of it |
//!
//! The states are those of <https://cloud.google.com/compute/docs/reference/rest/v1/snapshots>. That `snapshots.insert` has
//! returned means nothing yet.
//!
//! # What is written on what
//! See `names`: labels to search by, a description with the exact values. Tickets and volumes hold project and place, so that
//! a process without any option can look at, find and delete what another one made.

mod after;
mod client;
mod errors;
mod fresh;
mod group;
mod here;
mod instance;
mod instant;
mod link;
mod metadata;
mod names;
mod operations;
mod preflight;
mod shape;
mod snapshots;
mod volume;
mod volumes;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::future::join_all;

use self::client::Clients;
use self::snapshots::Origin;
use super::preflight::{Findings, Preflight};
use super::{
    AfterCut, Capabilities, CreateRequest, CreateVolumeRequest, Instance, Outlook, RestoredVolume, SnapshotProvider,
    SnapshotStatus, Ticket, Volume, VolumeSelection,
};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, Token};
use crate::model::{CloudSnapshots, Literal, SnapshotRecord};
use crate::provider::options::{GcpOptions, ProviderOptions};

/// The method of every volume: a persistent disk or hyperdisk.
const METHOD: &str = "pd";

/// The provider.
#[derive(Debug)]
pub struct Gcp {
    options: GcpOptions,
    host_description: Option<PathBuf>,
    clients: Clients,
    clock: Arc<dyn Clock>,
    fresh: fresh::Fresh,
}

impl Gcp {
    /// A provider with these options. Talks to nobody yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if the options do not fit together.
    pub fn new(options: &ProviderOptions) -> Result<Self> {
        let gcp = options.gcp.clone();
        if let Some(kind) = gcp.snapshot_type.as_deref().filter(|kind| !["standard", "archive"].contains(kind)) {
            return Err(Error::invalid(format!("no such kind of snapshots: {kind}")).with_hint("standard or archive"));
        }
        if gcp.anonymous && gcp.endpoint.is_none() {
            return Err(Error::invalid("Google Cloud answers nobody without credentials")
                .with_hint("give --gcp-endpoint together with --gcp-anonymous"));
        }
        shape::check(&gcp)?;
        Ok(Self {
            clients: Clients::new(&gcp)?,
            host_description: options.host_description.clone(),
            options: gcp,
            clock: Arc::new(SystemClock::new()),
            fresh: fresh::Fresh::default(),
        })
    }
}

/// The provider with these options.
///
/// # Errors
/// If the options do not fit together.
pub async fn open(options: &ProviderOptions) -> Result<Arc<dyn SnapshotProvider>> {
    Ok(Arc::new(Gcp::new(options)?))
}

fn not_ours(snapshot: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("the snapshot {snapshot} does not carry the token of its session"))
        .with_hint("it was not made by this backup; it is left alone")
}

#[async_trait]
impl SnapshotProvider for Gcp {
    fn name(&self) -> &'static str {
        "gcp"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { atomic: true, directory_restore: false, host_bound: false }
    }

    async fn instance(&self, name: Option<&str>) -> Result<Instance> {
        self.find_instance(name).await
    }

    async fn volumes(&self, instance: &Instance, selection: &VolumeSelection) -> Result<Vec<Volume>> {
        self.find_volumes(instance, selection).await
    }

    async fn preflight(&self, instance: Option<&str>, selection: &VolumeSelection) -> Preflight {
        self.look_before(instance, selection).await
    }

    async fn preflight_requests(&self, requests: &[CreateRequest]) -> Findings {
        self.look_ahead(requests).await
    }

    fn snapshot_name(&self, volume: &Volume, backup_id: &BackupId) -> String {
        names::snapshot_name(&volume.id, backup_id)
    }

    fn snapshots_info(&self, instance: &Instance, snapshots: &[SnapshotRecord]) -> Option<Literal> {
        Some(metadata::snapshots_info(instance, snapshots))
    }

    fn can_group(&self, volumes: &[Volume]) -> bool {
        group::together(volumes).is_some()
    }

    /// Nobody looks for a group then: a role that takes no groups need not let us see them.
    fn apart(&self, mut volume: Volume) -> Volume {
        volume.attributes.remove(volumes::attribute::CONSISTENCY_GROUP);
        volume
    }

    async fn check_requests(&self, requests: &[CreateRequest]) -> Result<()> {
        self.check_all(requests).await
    }

    async fn create(&self, request: &CreateRequest) -> Result<Vec<Ticket>> {
        match request.volumes.as_slice() {
            [wanted] => Ok(vec![self.insert(request, wanted, Origin::Disk).await?]),
            _ => self.insert_group(request).await,
        }
    }

    async fn status(&self, ticket: &Ticket) -> Result<SnapshotStatus> {
        match group::split(ticket) {
            Some((link, disk)) => self.instant_status(ticket, &link, disk).await,
            None => self.snapshot_status(ticket).await,
        }
    }

    async fn find(&self, token: &Token, volumes: &[Volume]) -> Result<Vec<Ticket>> {
        let mut tickets = self.labelled(names::TOKEN, token.as_str(), volumes, |_, _| true).await?;
        tickets.extend(self.find_group(token, volumes).await?);
        Ok(tickets)
    }

    async fn list(&self, mark: &str, volumes: &[Volume]) -> Result<Vec<Ticket>> {
        let exactly = |snapshot: &_, _: &Ticket| snapshots::is_for(snapshot, mark);
        let mut tickets = self.labelled(names::MARK, &names::label_value(mark), volumes, exactly).await?;
        tickets.extend(self.list_groups(mark, volumes).await?);
        Ok(tickets)
    }

    async fn unseen(&self, _instance: &Instance, volumes: &[Volume]) -> Result<Option<String>> {
        self.why_unseen(volumes).await
    }

    async fn delete(&self, ticket: &Ticket) -> Result<()> {
        match group::split(ticket) {
            Some((link, _)) if group::is_of(&link, ticket) => self.delete_group(&link).await,
            Some(_) => Err(not_ours(&ticket.snapshot)),
            None => self.delete_snapshot(ticket).await,
        }
    }

    fn after_cut(&self, volumes: &[Volume], grouped: bool) -> AfterCut {
        let instant = grouped && volumes.len() > 1;
        AfterCut { promote: instant, secure: instant }
    }

    async fn promote(&self, requests: &[CreateRequest], tickets: &[Ticket]) -> Result<Vec<Ticket>> {
        self.promote_all(requests, tickets).await
    }

    async fn secure(&self, requests: &[CreateRequest], tickets: &[Ticket]) -> Result<Vec<Ticket>> {
        self.remove_groups(requests).await?;
        Ok(tickets.to_vec())
    }

    async fn check_delete(&self, tickets: &[Ticket]) -> Result<()> {
        let looked = join_all(tickets.iter().map(|ticket| self.is_theirs(ticket))).await;
        let mut theirs = Vec::new();
        for (ticket, is_theirs) in tickets.iter().zip(looked) {
            theirs.extend(is_theirs?.then_some(ticket.name.as_str()));
        }
        match theirs.is_empty() {
            true => Ok(()),
            false => {
                Err(Error::precondition(format!("snapshots without the token of their session: {}", theirs.join(", ")))
                    .with_hint("they were not made by this backup; they are left alone"))
            }
        }
    }

    async fn adopt(&self, backup_id: &BackupId, snapshots: &CloudSnapshots) -> Result<Vec<SnapshotRecord>> {
        metadata::adopt(backup_id, snapshots)
    }

    fn outlook(&self, ticket: &Ticket, instance: &Instance) -> Outlook {
        let Ok((_, zone)) = instance::place(instance) else { return Outlook::default() };
        shape::Shape::of(ticket, &self.options, zone).outlook(ticket, zone)
    }

    async fn create_volume(&self, request: &CreateVolumeRequest) -> Result<RestoredVolume> {
        self.make_disk(request).await
    }

    async fn attach(&self, volume: &RestoredVolume, instance: &Instance) -> Result<RestoredVolume> {
        self.attach_disk(volume, instance).await
    }

    async fn detach(&self, volume: &RestoredVolume, instance: &Instance) -> Result<()> {
        self.detach_disk(volume, instance).await
    }

    async fn delete_volume(&self, volume: &RestoredVolume) -> Result<()> {
        self.delete_disk(volume).await
    }

    async fn attached_from(&self, instance: &Instance, tickets: &[Ticket]) -> Result<Vec<Option<Volume>>> {
        self.made_of(instance, tickets).await
    }

    async fn list_volumes(&self, mark: &str) -> Result<Vec<RestoredVolume>> {
        self.left_disks(mark).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(gcp: GcpOptions) -> Error {
        Gcp::new(&ProviderOptions { gcp, ..ProviderOptions::default() }).unwrap_err()
    }

    #[test]
    fn options_that_do_not_fit_are_refused() {
        let kind = refused(GcpOptions { snapshot_type: Some("instant".into()), ..GcpOptions::default() });
        assert!(kind.message().contains("instant"), "{kind}");
        let anonymous = refused(GcpOptions { anonymous: true, ..GcpOptions::default() });
        assert!(anonymous.hint().unwrap().contains("--gcp-endpoint"), "{anonymous}");
        let endpoint = refused(GcpOptions { endpoint: Some("nowhere".into()), ..GcpOptions::default() });
        assert_eq!(endpoint.kind(), ErrorKind::InvalidInput);
    }
}
