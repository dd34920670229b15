//! Snapshots of single disks: made, looked at, found again, deleted.
//!
//! [`snapshots.insert`](https://cloud.google.com/compute/docs/reference/rest/v1/snapshots/insert) takes zonal and regional
//! disks, and puts the snapshot into any project. A snapshot that exists carries the labels and the description that the call
//! gave it from its first moment on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use google_cloud_compute_v1::model::snapshot::{SnapshotType, Status};
use google_cloud_compute_v1::model::{CustomerEncryptionKey, Snapshot};

use super::Gcp;
use super::client::once;
use super::errors::{self, Call, failed};
use super::group;
use super::link::{Link, Scope, last};
use super::names::{self, Description};
use super::operations::{self, is_done};
use super::volumes::attribute::{
    DEVICE_NAME, DISK, DISK_KMS_KEY, DISK_TYPE, PROVISIONED_IOPS, PROVISIONED_THROUGHPUT, REPLICA_ZONES,
    SNAPSHOT_KMS_KEY, SNAPSHOT_PROJECT, SNAPSHOT_TYPE, STORAGE_LOCATION, STORAGE_POOL,
};
use super::volumes::disk_of;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::id::Token;
use crate::provider::{CreateRequest, SnapshotState, SnapshotStatus, Ticket, Volume, VolumeSnapshot};

/// Attributes of a volume that its tickets have, too.
const KEPT: [&str; 8] =
    [DISK, DEVICE_NAME, DISK_TYPE, DISK_KMS_KEY, PROVISIONED_IOPS, PROVISIONED_THROUGHPUT, REPLICA_ZONES, STORAGE_POOL];

/// How long a deletion may take.
const DELETION: Duration = Duration::from_secs(120);

/// How long the creation that comes before a deletion may take.
const CREATION: Duration = Duration::from_secs(60);

/// What a snapshot is made of.
pub(super) enum Origin<'a> {
    /// Its disk.
    Disk,
    /// An instant snapshot of its disk.
    Instant(&'a Link),
}

impl Origin<'_> {
    /// What a session makes once only: the snapshot of this volume, or that of its instant snapshot.
    fn of(&self, volume: &Volume) -> String {
        match self {
            Self::Disk => volume.id.clone(),
            Self::Instant(_) => format!("{}#instant", volume.id),
        }
    }
}

/// The attributes of a volume that matter for its snapshots.
pub(super) fn kept(volume: &Volume) -> BTreeMap<String, String> {
    let keep = |key: &&str| volume.attributes.get(*key).map(|value| ((*key).to_owned(), value.clone()));
    KEPT.iter().filter_map(keep).collect()
}

/// What is written on the snapshot of a volume.
pub(super) fn description(request: &CreateRequest, volume: &Volume) -> Description {
    Description::of_volume(request, volume, kept(volume))
}

/// The project in which the snapshots of a volume lie.
pub(super) fn snapshot_project(volume: &Volume) -> Result<String> {
    match volume.attributes.get(SNAPSHOT_PROJECT) {
        Some(project) => Ok(project.clone()),
        None => Ok(disk_of(volume)?.project),
    }
}

/// The body of the call.
fn body(request: &CreateRequest, wanted: &VolumeSnapshot, origin: &Origin<'_>) -> Result<Snapshot> {
    let volume = &wanted.volume;
    let attribute = |key: &str| volume.attributes.get(key).cloned();
    let mut body = Snapshot::new()
        .set_name(&wanted.name)
        .set_description(description(request, volume).text())
        .set_labels(names::labels(request));
    body = match origin {
        Origin::Disk => body.set_source_disk(disk_of(volume)?.to_string()),
        Origin::Instant(link) => body.set_source_instant_snapshot(link.to_string()),
    };
    if let Some(location) = attribute(STORAGE_LOCATION) {
        body = body.set_storage_locations([location]);
    }
    if attribute(SNAPSHOT_TYPE).as_deref() == Some("archive") {
        body = body.set_snapshot_type(SnapshotType::Archive);
    }
    if let Some(key) = attribute(SNAPSHOT_KMS_KEY) {
        body = body.set_snapshot_encryption_key(CustomerEncryptionKey::new().set_kms_key_name(key));
    }
    Ok(body)
}

/// The ticket of a snapshot that carries our labels.
fn ticket(project: &str, snapshot: &Snapshot) -> Option<Ticket> {
    let name = snapshot.name.clone()?;
    let token: Token = snapshot.labels.get(names::TOKEN)?.parse().ok()?;
    let description = Description::parse(snapshot.description.as_deref()).unwrap_or_else(|| {
        // Somebody has made a snapshot with our label by hand. It is shown for what it is.
        let disk = snapshot.source_disk.as_deref().unwrap_or_default();
        Description { volume: last(disk).to_owned(), ..Description::default() }
    });
    Some(Ticket {
        snapshot: Link::snapshot(project, &name).to_string(),
        name,
        volume: description.volume,
        root: PathBuf::from(description.root),
        method: super::METHOD.to_owned(),
        token,
        attributes: description.attributes,
    })
}

/// The link of a ticket's snapshot.
fn link_of(ticket: &Ticket) -> Result<Link> {
    Link::parse(&ticket.snapshot)
        .filter(|link| link.kind == "snapshots")
        .ok_or_else(|| Error::invalid(format!("not a snapshot of Google Cloud: {}", ticket.snapshot)))
}

fn gone(ticket: &Ticket) -> Error {
    Error::not_found(format!("no such snapshot: {}", ticket.snapshot))
}

impl Gcp {
    /// Asks for the snapshot of one volume.
    pub(super) async fn insert(
        &self,
        request: &CreateRequest,
        wanted: &VolumeSnapshot,
        origin: Origin<'_>,
    ) -> Result<Ticket> {
        let what = format!("create snapshot {}", wanted.name);
        let project = snapshot_project(&wanted.volume)?;
        let body = body(request, wanted, &origin)?;
        let mut ticket = Ticket {
            snapshot: Link::snapshot(&project, &wanted.name).to_string(),
            name: wanted.name.clone(),
            volume: wanted.volume.id.clone(),
            root: wanted.volume.root.clone(),
            method: wanted.volume.method.clone(),
            token: request.token.clone(),
            attributes: kept(&wanted.volume),
        };
        let client = self.clients.snapshots().await?;
        let thing = format!("{}/{}", request.token, origin.of(&wanted.volume));
        let call = client
            .insert()
            .set_project(&project)
            .set_request_id(names::request_id(&request.token, &self.fresh.attempt(&thing)))
            .set_body(body);
        let operation = match once(call).send().await.map_err(failed(&what, Call::Write)) {
            Ok(operation) => operation,
            Err(error) if error.kind() == ErrorKind::Conflict => return self.ours(ticket, error).await,
            Err(error) => return Err(error),
        };
        // A repetition is answered with the operation of the first call, whatever name that had. Some operations lead to what was
        // worked on, the disk say, and not to what is made.
        let target = operation.target_link.as_deref().and_then(Link::parse);
        let target = target.filter(|target| target.kind == "snapshots");
        if let Some(other) = target.filter(|target| target.name != wanted.name) {
            let message = format!("this session has a snapshot of {} already: {}", wanted.volume.id, other.name);
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        if is_done(&operation)
            && let Err(error) = errors::of_operation(&what, &operation)
        {
            self.fresh.has_failed(&thing);
            return Err(errors::busy(error));
        }
        // Some errors, quotas among them, come to light only there.
        ticket.attributes.extend(operations::attribute(&operation));
        Ok(ticket)
    }

    /// The snapshot that has the name already, if this session made it.
    async fn ours(&self, ticket: Ticket, error: Error) -> Result<Ticket> {
        let link = link_of(&ticket)?;
        match self.snapshot(&link).await? {
            Some(found) if carries(&found, &ticket.token) => Ok(ticket),
            Some(_) => Err(error.with_hint("another snapshot has that name; it is left alone")),
            // Then it was not about the name: something else is being done with the disk, and comes to an end.
            None => Err(errors::busy(error)),
        }
    }

    /// A snapshot as the API knows it.
    pub(super) async fn snapshot(&self, link: &Link) -> Result<Option<Snapshot>> {
        let client = self.clients.snapshots().await?;
        let asked = client.get().set_project(&link.project).set_snapshot(&link.name).send().await;
        match asked.map_err(failed(&format!("look at snapshot {}", link.name), Call::Read)) {
            Ok(snapshot) => Ok(Some(snapshot)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How far the snapshot of a ticket is.
    pub(super) async fn snapshot_status(&self, ticket: &Ticket) -> Result<SnapshotStatus> {
        let link = link_of(ticket)?;
        let found = self.snapshot(&link).await?;
        let found = found.filter(|snapshot| ticket.is_stock() || carries(snapshot, &ticket.token));
        let mut bytes_copied = None;
        let state = match found.as_ref().map(|snapshot| &snapshot.status) {
            Some(Some(Status::Uploading)) => SnapshotState::Cut,
            Some(Some(Status::Ready)) => {
                bytes_copied = found.as_ref().and_then(|snapshot| u64::try_from(snapshot.storage_bytes?).ok());
                SnapshotState::Ready
            }
            Some(Some(Status::Failed)) => {
                let told = self.operation_state(&link.project, ticket).await?;
                match told {
                    Some(SnapshotState::Failed { reason }) => SnapshotState::Failed { reason },
                    _ => SnapshotState::Failed { reason: "its status is FAILED".to_owned() },
                }
            }
            Some(Some(Status::Deleting)) => return Err(gone(ticket)),
            // CREATING, and states that are not known yet: nothing that may be relied on.
            Some(_) => SnapshotState::Creating,
            // It may not have begun, or may never have come into being.
            None => self.operation_state(&link.project, ticket).await?.ok_or_else(|| gone(ticket))?,
        };
        Ok(SnapshotStatus { state, percent: None, bytes_copied })
    }

    /// What the operation that makes a snapshot says about it: `Creating` or `Failed`; nothing if it ended well, or is not
    /// known.
    async fn operation_state(&self, project: &str, ticket: &Ticket) -> Result<Option<SnapshotState>> {
        let Some(operation) = self.operation_of(ticket, project, &Scope::Global).await? else { return Ok(None) };
        if !is_done(&operation) {
            return Ok(Some(SnapshotState::Creating));
        }
        let ended = errors::of_operation(&format!("create snapshot {}", ticket.name), &operation);
        Ok(ended.err().map(|error| SnapshotState::Failed { reason: error.to_string() }))
    }

    /// All snapshots in a project that a filter lets through.
    pub(super) async fn snapshots(&self, project: &str, filter: &str) -> Result<Vec<Snapshot>> {
        let client = self.clients.snapshots().await?;
        let mut found = Vec::new();
        let mut page: Option<String> = None;
        loop {
            let asked = client.list().set_project(project).set_filter(filter).set_or_clear_page_token(page.take());
            let answer = asked.send().await.map_err(failed("list snapshots", Call::Read))?;
            found.extend(answer.items);
            page = answer.next_page_token.filter(|token| !token.is_empty());
            if page.is_none() {
                return Ok(found);
            }
        }
    }

    /// Why the snapshots of these volumes cannot be seen, if they cannot.
    pub(super) async fn why_unseen(&self, volumes: &[Volume]) -> Result<Option<String>> {
        for project in self.projects(volumes).await? {
            let client = self.clients.snapshots().await?;
            let asked = client.list().set_project(&project).set_max_results(1_u32).send().await;
            if let Err(error) = asked.map_err(failed("list snapshots", Call::Read)) {
                return Ok(Some(format!("its snapshots are in project {project}: {}", error.chain())));
            }
        }
        if let Some(place) = group::together(volumes)
            && let Err(error) = self.groups(&place.project, &place.scope).await
        {
            let of = format!("its instant snapshots are in project {}, {}", place.project, place.scope);
            return Ok(Some(format!("{of}: {}", error.chain())));
        }
        Ok(None)
    }

    /// Where snapshots of these volumes lie, and those of the options.
    async fn projects(&self, volumes: &[Volume]) -> Result<BTreeSet<String>> {
        let mut projects: BTreeSet<String> = volumes.iter().map(snapshot_project).collect::<Result<_>>()?;
        projects.extend(self.options.snapshot_project.clone());
        if projects.is_empty() {
            projects.insert(self.home().await?);
        }
        Ok(projects)
    }

    /// The tickets of all snapshots with a label, in the projects of these volumes and of the options.
    pub(super) async fn labelled(
        &self,
        label: &str,
        value: &str,
        volumes: &[Volume],
        wanted: impl Fn(&Snapshot, &Ticket) -> bool,
    ) -> Result<Vec<Ticket>> {
        let mut tickets = Vec::new();
        for project in &self.projects(volumes).await? {
            for snapshot in self.snapshots(project, &format!("labels.{label}={value}")).await? {
                let has_it = snapshot.labels.get(label).is_some_and(|found| found == value);
                let made = ticket(project, &snapshot).filter(|ticket| has_it && wanted(&snapshot, ticket));
                tickets.extend(made);
            }
        }
        Ok(tickets)
    }

    /// Whether the snapshot of a ticket is there and belongs to another session.
    pub(super) async fn is_theirs(&self, ticket: &Ticket) -> Result<bool> {
        if let Some((group, _)) = group::split(ticket) {
            return Ok(!group::is_of(&group, ticket));
        }
        Ok(self.snapshot(&link_of(ticket)?).await?.is_some_and(|found| is_foreign(&found, ticket)))
    }

    /// Deletes the snapshot of a ticket and waits until it is gone.
    pub(super) async fn delete_snapshot(&self, ticket: &Ticket) -> Result<()> {
        let link = link_of(ticket)?;
        let what = format!("delete snapshot {}", ticket.name);
        self.await_creation(&link.project, ticket).await?;
        let Some(found) = self.snapshot(&link).await? else { return Ok(()) };
        if is_foreign(&found, ticket) {
            return Err(super::not_ours(&ticket.snapshot));
        }
        let begun = self.clock.monotonic();
        loop {
            let client = self.clients.snapshots().await?;
            let call = client.delete().set_project(&link.project).set_snapshot(&link.name);
            let error = match call.send().await.map_err(failed(&what, Call::Write)) {
                Ok(operation) => match self.wait(&what, &link.project, &Scope::Global, operation, DELETION).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            match error.retry() {
                _ if error.kind() == ErrorKind::NotFound => return Ok(()),
                // It is being made or deleted just now.
                Retry::After(pause) if self.clock.monotonic().saturating_sub(begun) < DELETION => {
                    self.clock.sleep(pause.min(DELETION / 10)).await;
                }
                _ => return Err(error),
            }
        }
    }

    /// Lets the creation of a snapshot come to where it can be seen: what is not there yet cannot be deleted.
    async fn await_creation(&self, project: &str, ticket: &Ticket) -> Result<()> {
        let begun = self.clock.monotonic();
        let link = link_of(ticket)?;
        while self.clock.monotonic().saturating_sub(begun) < CREATION {
            if self.snapshot(&link).await?.is_some() {
                return Ok(());
            }
            match self.operation_state(project, ticket).await? {
                Some(SnapshotState::Creating) => self.clock.sleep(Duration::from_millis(500)).await,
                _ => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Whether a snapshot carries a token.
fn carries(snapshot: &Snapshot, token: &Token) -> bool {
    snapshot.labels.get(names::TOKEN).is_some_and(|found| found == token.as_str())
}

/// Whether a snapshot belongs to another session than its ticket says. A stock one is named by the catalog alone: what carries the
/// token of a session belongs to that one.
fn is_foreign(snapshot: &Snapshot, ticket: &Ticket) -> bool {
    match ticket.is_stock() {
        true => snapshot.labels.contains_key(names::TOKEN),
        false => !carries(snapshot, &ticket.token),
    }
}

/// Whether a snapshot was made for exactly this mark, not only for one with the same label.
pub(super) fn is_for(snapshot: &Snapshot, mark: &str) -> bool {
    Description::parse(snapshot.description.as_deref()).is_some_and(|description| description.mark == mark)
}
