//! Several disks cut at one instant: an instant snapshot group of the disks of a consistency group.
//!
//! [`instantSnapshotGroups.insert`](https://cloud.google.com/compute/docs/reference/rest/v1/instantSnapshotGroups/insert) cuts
//! all disks that carry one resource policy with `diskConsistencyGroupPolicy`, in one zone (or region). An instant snapshot
//! lives on its disk and dies with it; that is **cut**, never ready. [`promote`](super::after) makes standard snapshots of them.
//!
//! A group has no labels. Its name is made of the token, its description holds the mark. The instant snapshots in it get their
//! names from the cloud and are known by their group and their disk, so the ticket of one is `<group>#<disk>`.

use std::collections::BTreeSet;

use google_cloud_compute_v1::model::instant_snapshot::Status as MemberStatus;
use google_cloud_compute_v1::model::instant_snapshot_group::Status as GroupStatus;
use google_cloud_compute_v1::model::{InstantSnapshot, InstantSnapshotGroup};

use super::Gcp;
use super::client::once;
use super::errors::{self, Call, failed};
use super::instant::{KIND, zone};
use super::link::{Link, Scope};
use super::names::{self, Description};
use super::operations::{self, is_done};
use super::snapshots::kept;
use super::volumes::attribute::CONSISTENCY_GROUP;
use super::volumes::disk_of;
use crate::error::{Error, ErrorKind, Result};
use crate::id::Token;
use crate::provider::{CreateRequest, SnapshotState, SnapshotStatus, Ticket, Volume};

/// What one call can cut: the project and place of the disks, and the policy that they share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Together {
    pub(super) project: String,
    pub(super) scope: Scope,
    pub(super) policy: String,
}

/// What one volume could be cut together with.
fn alone(volume: &Volume) -> Option<Together> {
    let disk = disk_of(volume).ok()?;
    let policy = volume.attributes.get(CONSISTENCY_GROUP)?.clone();
    Some(Together { project: disk.project, scope: disk.scope, policy })
}

/// What these volumes can be cut together as, if they can.
pub(super) fn together(volumes: &[Volume]) -> Option<Together> {
    let first = alone(volumes.first()?)?;
    let same = volumes.iter().all(|volume| alone(volume).as_ref() == Some(&first));
    (same && volumes.len() > 1).then_some(first)
}

/// Group and disk of a ticket, if it is of an instant snapshot.
pub(super) fn split(ticket: &Ticket) -> Option<(Link, &str)> {
    let (group, disk) = ticket.snapshot.split_once('#')?;
    Some((Link::parse(group).filter(|link| link.kind == KIND)?, disk))
}

/// The group of a session.
pub(super) fn group_link(token: &Token, together: &Together) -> Link {
    Link::new(&together.project, &together.scope, KIND, &names::group_name(token))
}

fn ticket(group: &Link, token: &Token, volume: &Volume, name: String) -> Result<Ticket> {
    Ok(Ticket {
        snapshot: format!("{group}#{}", disk_of(volume)?.name),
        name,
        volume: volume.id.clone(),
        root: volume.root.clone(),
        method: volume.method.clone(),
        token: token.clone(),
        attributes: kept(volume),
    })
}

impl Gcp {
    /// Asks for the instant snapshots of several volumes.
    pub(super) async fn insert_group(&self, request: &CreateRequest) -> Result<Vec<Ticket>> {
        let volumes: Vec<Volume> = request.volumes.iter().map(|wanted| wanted.volume.clone()).collect();
        let Some(place) = together(&volumes) else {
            return Err(Error::invalid("these disks cannot be cut by one call: they share no consistency group")
                .with_hint("add them to one consistency group policy, or take them one by one"));
        };
        let link = group_link(&request.token, &place);
        let what = format!("create instant snapshot group {}", link.name);
        let body = InstantSnapshotGroup::new()
            .set_name(&link.name)
            .set_description(Description::of_request(request).text())
            .set_source_consistency_group(&place.policy);
        let thing = format!("{}/{link}", request.token);
        let id = names::request_id(&request.token, &self.fresh.attempt(&thing));
        let sent = match &link.scope {
            Scope::Region(region) => {
                let client = self.clients.region_instant_groups().await?;
                let call =
                    client.insert().set_project(&link.project).set_region(region).set_request_id(id).set_body(body);
                once(call).send().await
            }
            scope => {
                let client = self.clients.instant_groups().await?;
                let call =
                    client.insert().set_project(&link.project).set_zone(zone(scope)?).set_request_id(id).set_body(body);
                once(call).send().await
            }
        };
        let operation = match sent.map_err(failed(&what, Call::Write)) {
            Ok(operation) => Some(operation),
            // Only this session gives a group that name.
            Err(error) if error.kind() == ErrorKind::Conflict && self.group(&link).await?.is_some() => None,
            Err(error) => return Err(error),
        };
        if let Some(operation) = operation.as_ref().filter(|operation| is_done(operation))
            && let Err(error) = errors::of_operation(&what, operation)
        {
            self.fresh.has_failed(&thing);
            return Err(errors::busy(error));
        }
        self.fresh.add(&link.to_string(), self.clock.monotonic());
        let operation = operation.as_ref().and_then(operations::attribute);
        let tickets = request.volumes.iter().map(|wanted| {
            let mut ticket = ticket(&link, &request.token, &wanted.volume, wanted.name.clone())?;
            ticket.attributes.extend(operation.clone());
            Ok(ticket)
        });
        tickets.collect()
    }

    /// How far the instant snapshot of a ticket is.
    pub(super) async fn instant_status(&self, ticket: &Ticket, link: &Link, disk: &str) -> Result<SnapshotStatus> {
        let fail = |reason: String| SnapshotState::Failed { reason };
        let state = match self.group(link).await?.map(|group| group.status) {
            None => self.group_operation(link, ticket).await?,
            Some(Some(GroupStatus::Deleting)) => return Err(gone(ticket)),
            Some(Some(GroupStatus::Failed | GroupStatus::Invalid)) => match self.group_operation(link, ticket).await {
                Ok(SnapshotState::Failed { reason }) => fail(reason),
                _ => fail(format!("instant snapshot group {} failed", link.name)),
            },
            Some(status) => {
                let members = self.members(link).await?;
                let member = members.iter().find(|member| of_disk(member, disk));
                match member.map(|member| &member.status) {
                    Some(Some(MemberStatus::Ready)) => SnapshotState::Cut,
                    Some(Some(MemberStatus::Failed)) => fail("the instant snapshot failed".to_owned()),
                    Some(Some(MemberStatus::Unavailable)) => fail("the instant snapshot is not available".to_owned()),
                    Some(Some(MemberStatus::Deleting)) => return Err(gone(ticket)),
                    // A list may lag behind.
                    None if status == Some(GroupStatus::Ready) && !self.is_young(link) => {
                        fail(format!("disk {disk} is not in the consistency group any more"))
                    }
                    _ => SnapshotState::Creating,
                }
            }
        };
        Ok(SnapshotStatus { state, percent: None, bytes_copied: None })
    }

    fn is_young(&self, link: &Link) -> bool {
        self.fresh.is_young(&link.to_string(), self.clock.monotonic())
    }

    /// What the operation that makes a group says; not found if it does not, or ended well.
    async fn group_operation(&self, link: &Link, ticket: &Ticket) -> Result<SnapshotState> {
        match self.operation_of(ticket, &link.project, &link.scope).await? {
            Some(operation) if !is_done(&operation) => Ok(SnapshotState::Creating),
            Some(operation) => match errors::of_operation("create the instant snapshot group", &operation) {
                Err(error) => Ok(SnapshotState::Failed { reason: error.to_string() }),
                Ok(()) => Err(gone(ticket)),
            },
            None => Err(gone(ticket)),
        }
    }

    /// The tickets of the group of a session, if it has one.
    pub(super) async fn find_group(&self, token: &Token, volumes: &[Volume]) -> Result<Vec<Ticket>> {
        let places: BTreeSet<Together> = volumes.iter().filter_map(alone).collect();
        let mut tickets = Vec::new();
        for place in &places {
            if let Some(group) = self.group(&group_link(token, place)).await? {
                tickets.extend(self.group_tickets(token, place, &group, volumes)?);
            }
        }
        Ok(tickets)
    }

    /// The tickets of all groups that were made for a mark, where these volumes are.
    pub(super) async fn list_groups(&self, mark: &str, volumes: &[Volume]) -> Result<Vec<Ticket>> {
        let places: BTreeSet<Together> = volumes.iter().filter_map(alone).collect();
        let mut tickets = Vec::new();
        for place in &places {
            for group in self.groups(&place.project, &place.scope).await? {
                let token = group.name.as_deref().and_then(names::token_of_group);
                let is_for = Description::parse(group.description.as_deref()).is_some_and(|found| found.mark == mark);
                if let Some(token) = token.filter(|_| is_for) {
                    tickets.extend(self.group_tickets(&token, place, &group, volumes)?);
                }
            }
        }
        Ok(tickets)
    }

    fn group_tickets(
        &self,
        token: &Token,
        place: &Together,
        group: &InstantSnapshotGroup,
        volumes: &[Volume],
    ) -> Result<Vec<Ticket>> {
        let policy = group.source_consistency_group.as_deref().and_then(Link::parse).map(|link| link.to_string());
        if policy.is_some_and(|policy| policy != place.policy) {
            return Ok(Vec::new());
        }
        let backup_id = Description::parse(group.description.as_deref()).map(|found| found.backup_id);
        let backup_id = backup_id.and_then(|id| id.parse().ok());
        let link = group_link(token, place);
        let of_group = volumes.iter().filter(|volume| alone(volume).as_ref() == Some(place));
        of_group
            .map(|volume| {
                let name = backup_id.as_ref().map(|id| names::snapshot_name(&volume.id, id)).unwrap_or_default();
                ticket(&link, token, volume, name)
            })
            .collect()
    }
}

/// Whether a group is of the session of this ticket: its name tells.
pub(super) fn is_of(group: &Link, ticket: &Ticket) -> bool {
    names::token_of_group(&group.name).as_ref() == Some(&ticket.token)
}

/// Whether an instant snapshot is of the disk of that name. In one place a name is one disk.
pub(super) fn of_disk(member: &InstantSnapshot, disk: &str) -> bool {
    member.source_disk.as_deref().and_then(Link::parse).is_some_and(|link| link.name == disk)
}

fn gone(ticket: &Ticket) -> Error {
    Error::not_found(format!("no such snapshot: {}", ticket.snapshot))
}

#[cfg(test)]
mod tests {
    use super::super::volumes::attribute::DISK;
    use super::*;

    fn volume(disk: &str, policy: Option<&str>) -> Volume {
        let mut attributes: std::collections::BTreeMap<_, _> = [(DISK.to_owned(), disk.to_owned())].into();
        attributes.extend(policy.map(|policy| (CONSISTENCY_GROUP.to_owned(), policy.to_owned())));
        Volume {
            id: super::super::link::last(disk).to_owned(),
            root: "/srv".into(),
            mount_point: "/srv".into(),
            mount_options: "rw".into(),
            device: String::new(),
            method: "pd".into(),
            attributes,
            file_systems: Vec::new(),
        }
    }

    #[test]
    fn disks_of_one_policy_in_one_place_are_cut_together() {
        let zonal = |name: &str, policy| volume(&format!("projects/p/zones/z/disks/{name}"), policy);
        let (a, b) = (zonal("a", Some("g")), zonal("b", Some("g")));
        assert!(together(&[a.clone(), b.clone()]).is_some());
        assert!(together(std::slice::from_ref(&a)).is_none(), "one disk needs no group");
        assert!(together(&[]).is_none());
        for other in [
            zonal("c", None),
            zonal("c", Some("h")),
            volume("projects/p/zones/y/disks/c", Some("g")),
            volume("projects/p/regions/z/disks/c", Some("g")),
            volume("projects/q/zones/z/disks/c", Some("g")),
        ] {
            assert!(together(&[a.clone(), b.clone(), other]).is_none());
        }
    }

    #[test]
    fn a_ticket_tells_group_and_disk() {
        let token = Token::from_bits(5);
        let volume = volume("projects/p/zones/z/disks/a", Some("g"));
        let link = group_link(&token, &alone(&volume).unwrap());
        let made = ticket(&link, &token, &volume, "a-1".into()).unwrap();
        assert_eq!(split(&made), Some((link, "a")));
        let plain = Ticket { snapshot: "projects/p/global/snapshots/a".into(), ..made };
        assert_eq!(split(&plain), None);
    }
}
