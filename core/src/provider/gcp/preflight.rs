//! What can be known before a backup starts: names, labels, limits, permissions.
//!
//! * A standard snapshot of a disk can be made six times in any 60 minutes
//!   (<https://cloud.google.com/compute/docs/disks/create-snapshots>, "snapshot frequency limits"): the last ones are counted.
//! * The project's quota `SNAPSHOTS`: read where `compute.projects.get` is granted, else left to the cloud.
//! * `compute.disks.createSnapshot` can be asked for without making anything (`testIamPermissions`); for
//!   `compute.snapshots.create` Compute Engine has no such question.

use chrono::{DateTime, TimeDelta};
use futures::future::try_join_all;
use google_cloud_compute_v1::model::TestPermissionsRequest;
use google_cloud_compute_v1::model::quota::Metric;
use google_cloud_gax::options::RequestOptionsBuilder;

use super::Gcp;
use super::errors::{Call, failed};
use super::group;
use super::link::{Link, Scope};
use super::names::{self, RULES};
use super::snapshots::{description, snapshot_project};
use super::volumes::attribute::{OWN_KEY, SNAPSHOT_TYPE};
use super::volumes::disk_of;
use crate::error::{Error, ErrorKind, Result};
use crate::provider::preflight::Findings;
use crate::provider::{CreateRequest, VolumeSnapshot};

/// The permission to snapshot a disk.
const CREATE_SNAPSHOT: &str = "compute.disks.createSnapshot";

/// The most standard snapshots of a disk within [`WINDOW`].
const MOST_SNAPSHOTS: usize = 6;
const WINDOW: TimeDelta = TimeDelta::minutes(60);

fn wanted(requests: &[CreateRequest]) -> impl Iterator<Item = (&CreateRequest, &VolumeSnapshot)> {
    requests.iter().flat_map(|request| request.volumes.iter().map(move |wanted| (request, wanted)))
}

/// Names, labels and descriptions. Asks nobody.
fn check_words(requests: &[CreateRequest]) -> Result<()> {
    for (request, wanted) in wanted(requests) {
        if !RULES.fits(&wanted.name) {
            let message = format!("not a name for a snapshot in Google Cloud: {:?}", wanted.name);
            return Err(Error::invalid(message).with_hint("1 to 63 lower-case letters, digits and -, a letter first"));
        }
        disk_of(&wanted.volume)?;
        description(request, &wanted.volume).check()?;
        if wanted.volume.attributes.contains_key(OWN_KEY) {
            let message = format!("disk {} is encrypted with a key that Google does not keep", wanted.volume.id);
            return Err(Error::new(ErrorKind::Unsupported, message)
                .with_hint("use a Cloud KMS key for it: its snapshots could not be read without the key"));
        }
    }
    requests.iter().try_for_each(|request| names::check_tags(&request.tags))
}

impl Gcp {
    /// All of it, one line each.
    pub(super) async fn look_ahead(&self, requests: &[CreateRequest]) -> Findings {
        let mut findings = Findings::default();
        let words =
            findings.take("names and labels", check_words(requests), |()| "fit the rules of Google Cloud".into());
        if words.is_none() {
            return findings;
        }
        let may = self.check_permissions(requests).await;
        findings.take("permission to snapshot the disks", may, |()| CREATE_SNAPSHOT.into());
        if requests.iter().any(|request| request.volumes.len() > 1) {
            findings.take("instant snapshot groups", self.check_groups(requests).await, |()| "can be seen".into());
        }
        findings.take("names are free", self.check_free(requests).await, |count| format!("{count} looked at"));
        findings.take("snapshots of the last hour", self.check_frequency(requests).await, |most| {
            format!("{most} of a disk at most, {MOST_SNAPSHOTS} are allowed")
        });
        findings.take("quota of snapshots", self.check_quota(requests).await, Clone::clone);
        findings
    }

    /// The first thing that is wrong.
    pub(super) async fn check_all(&self, requests: &[CreateRequest]) -> Result<()> {
        check_words(requests)?;
        self.check_permissions(requests).await?;
        self.check_groups(requests).await?;
        self.check_free(requests).await?;
        self.check_frequency(requests).await?;
        self.check_quota(requests).await?;
        Ok(())
    }

    async fn check_permissions(&self, requests: &[CreateRequest]) -> Result<()> {
        let asked = try_join_all(wanted(requests).map(async |(_, wanted)| {
            let disk = disk_of(&wanted.volume)?;
            Ok::<_, Error>((!self.may_snapshot(&disk).await?).then(|| wanted.volume.id.clone()))
        }));
        let refused: Vec<String> = asked.await?.into_iter().flatten().collect();
        match refused.is_empty() {
            true => Ok(()),
            false => {
                Err(Error::new(ErrorKind::PermissionDenied, format!("not allowed to snapshot {}", refused.join(", ")))
                    .with_hint(format!("grant {CREATE_SNAPSHOT}, see docs/permissions/gcp.md")))
            }
        }
    }

    /// That groups may be looked at. Whether they may be made, Compute Engine cannot be asked; but a role that knows nothing of
    /// them may not do that, either.
    async fn check_groups(&self, requests: &[CreateRequest]) -> Result<()> {
        for request in requests.iter().filter(|request| request.volumes.len() > 1) {
            let volumes: Vec<_> = request.volumes.iter().map(|wanted| wanted.volume.clone()).collect();
            if let Some(place) = group::together(&volumes) {
                self.group(&group::group_link(&request.token, &place)).await?;
            }
        }
        Ok(())
    }

    async fn may_snapshot(&self, disk: &Link) -> Result<bool> {
        let body = TestPermissionsRequest::new().set_permissions([CREATE_SNAPSHOT]);
        let asked = match &disk.scope {
            Scope::Region(region) => {
                let client = self.clients.region_disks().await?;
                let call = client.test_iam_permissions().set_project(&disk.project).set_region(region);
                call.set_resource(&disk.name).set_body(body).with_idempotency(true).send().await
            }
            Scope::Zone(zone) => {
                let client = self.clients.disks().await?;
                let call = client.test_iam_permissions().set_project(&disk.project).set_zone(zone);
                call.set_resource(&disk.name).set_body(body).with_idempotency(true).send().await
            }
            Scope::Global => return Ok(false),
        };
        let granted = asked.map_err(failed("ask for permissions", Call::Read))?;
        Ok(granted.permissions.iter().any(|permission| permission == CREATE_SNAPSHOT))
    }

    /// No snapshot of another session has one of the names. How many were looked at.
    async fn check_free(&self, requests: &[CreateRequest]) -> Result<usize> {
        let found = try_join_all(wanted(requests).map(async |(request, wanted)| {
            let link = Link::snapshot(&snapshot_project(&wanted.volume)?, &wanted.name);
            let found = self.snapshot(&link).await?;
            let theirs = found
                .filter(|found| found.labels.get(names::TOKEN).map(String::as_str) != Some(request.token.as_str()));
            Ok::<_, Error>(theirs.map(|_| wanted.name.clone()))
        }))
        .await?;
        let count = found.len();
        let taken: Vec<String> = found.into_iter().flatten().collect();
        match taken.is_empty() {
            true => Ok(count),
            false => {
                Err(Error::new(ErrorKind::Conflict, format!("there is a snapshot of that name: {}", taken.join(", ")))
                    .with_hint("delete it, or try again in a second: the name is made of the time"))
            }
        }
    }

    /// No disk has had too many snapshots. The most that one has had.
    async fn check_frequency(&self, requests: &[CreateRequest]) -> Result<usize> {
        let now = self.clock.now();
        let standard = |volume: &VolumeSnapshot| {
            volume.volume.attributes.get(SNAPSHOT_TYPE).map(String::as_str) != Some("archive")
        };
        let counted = try_join_all(wanted(requests).filter(|(_, wanted)| standard(wanted)).map(async |(_, wanted)| {
            let disk = disk_of(&wanted.volume)?;
            let project = snapshot_project(&wanted.volume)?;
            let filter = format!("sourceDisk eq \".*/{}\"", disk.partial());
            let made = self.snapshots(&project, &filter).await?;
            let mut times: Vec<_> = made
                .iter()
                .filter(|snapshot| snapshot.source_disk.as_deref().and_then(Link::parse).as_ref() == Some(&disk))
                .filter_map(|snapshot| DateTime::parse_from_rfc3339(snapshot.creation_timestamp.as_deref()?).ok())
                .filter(|time| now.signed_duration_since(*time) < WINDOW)
                .collect();
            times.sort();
            Ok::<_, Error>((wanted.volume.id.clone(), times))
        }))
        .await?;
        for (volume, times) in &counted {
            if let Some(first) = times.len().checked_sub(MOST_SNAPSHOTS).and_then(|at| times.get(at)) {
                let message = format!("disk {volume} has had {} snapshots within an hour", times.len());
                let free = (*first + WINDOW).with_timezone(&chrono::Utc).format("%H:%M:%S");
                return Err(Error::new(ErrorKind::Exhausted, message)
                    .with_hint(format!("{MOST_SNAPSHOTS} are allowed: the next one at {free} UTC")));
            }
        }
        Ok(counted.iter().map(|(_, times)| times.len()).max().unwrap_or(0))
    }

    /// The projects have room for the snapshots.
    async fn check_quota(&self, requests: &[CreateRequest]) -> Result<String> {
        let mut needed = std::collections::BTreeMap::<String, f64>::new();
        for (_, wanted) in wanted(requests) {
            *needed.entry(snapshot_project(&wanted.volume)?).or_default() += 1.0;
        }
        let mut told = Vec::new();
        for (project, needed) in &needed {
            let client = self.clients.projects().await?;
            let asked =
                client.get().set_project(project).send().await.map_err(failed("look at the quotas", Call::Read));
            let quotas = match asked {
                Ok(project) => project.quotas,
                // Not everybody may look; the cloud will tell if there is no room.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    tracing::debug!(error = %error.chain(), "quotas are not looked at");
                    told.push(format!("{project}: not allowed to look"));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let quota = quotas.iter().find(|quota| quota.metric == Some(Metric::Snapshots));
            let Some((usage, limit)) = quota.and_then(|quota| Some((quota.usage?, quota.limit?))) else { continue };
            if usage + needed > limit {
                let message = format!("project {project} has {usage} snapshots of {limit}, and {needed} are needed");
                return Err(Error::new(ErrorKind::Exhausted, message)
                    .with_hint("delete what is not needed, or ask for more of the quota SNAPSHOTS"));
            }
            told.push(format!("{project}: {usage} of {limit}"));
        }
        Ok(told.join(", "))
    }
}
