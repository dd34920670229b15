//! Snapshots: made, looked at, found again, deleted.
//!
//! EC2 has no idempotency token for snapshots, and may not show a new one at once
//! (<https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html>). Hence:
//! * `create` looks for the (token, volume) first and is sent once;
//! * what this process has just made, and what does not show yet, is not «gone» ([`Fresh`]);
//! * the first question for the state of a snapshot is answered from the reply that created it. That saves a request while
//!   PostgreSQL is in backup mode, and is the moment that counts: `pending` in the reply is the cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_ec2::types::{Filter, Snapshot, SnapshotState as Ec2State, Tag};
use futures::future::join_all;

use super::client::Ec2;
use super::errors::{code, is_gone};
use super::{ACCOUNT, AwsProvider, DEVICE, REGION, SOURCE, VOLUME_ID, after, copies, names};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::id::Token;
use crate::provider::{CreateRequest, SnapshotState, SnapshotStatus, Ticket, Volume, VolumeSnapshot};

/// Attributes of a volume that its tickets have, too.
const KEPT: [&str; 7] =
    [VOLUME_ID, DEVICE, super::VOLUME_TYPE, super::IOPS, super::THROUGHPUT, super::KMS_KEY, super::MULTI_ATTACH];

/// How long a snapshot that was created by this process may not show.
const SHOWS_WITHIN: Duration = Duration::from_secs(60);

/// What this process has created lately: the state in the reply, until it is asked for, and when that was. Only a cache: a
/// process that has none asks EC2.
#[derive(Debug, Default)]
pub(super) struct Fresh(Mutex<BTreeMap<String, (Duration, Option<SnapshotState>)>>);

impl Fresh {
    pub(super) fn add(&self, snapshot: &str, now: Duration, state: SnapshotState) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (at, _)| now.saturating_sub(*at) < SHOWS_WITHIN);
        known.insert(snapshot.to_owned(), (now, Some(state)));
    }

    /// The state that the reply told, once.
    fn take(&self, snapshot: &str) -> Option<SnapshotState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(snapshot)?.1.take()
    }

    fn is_young(&self, snapshot: &str, now: Duration) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(snapshot).is_some_and(|(at, _)| now.saturating_sub(*at) < SHOWS_WITHIN)
    }

    fn forget(&self, snapshot: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(snapshot);
    }
}

/// What all replies tell about a snapshot; the SDK has a type of its own for each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) id: Option<&'a str>,
    pub(super) volume: Option<&'a str>,
    pub(super) owner: Option<&'a str>,
    pub(super) tags: &'a [Tag],
}

impl<'a> From<&'a Snapshot> for Seen<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        Self {
            id: snapshot.snapshot_id(),
            volume: snapshot.volume_id(),
            owner: snapshot.owner_id(),
            tags: snapshot.tags(),
        }
    }
}

impl AwsProvider {
    /// One snapshot of one volume.
    pub(super) async fn create_single(&self, request: &CreateRequest, wanted: &VolumeSnapshot) -> Result<Ticket> {
        let ec2 = self.clients.of(&wanted.volume.attributes)?;
        let volume_id = volume_id(&wanted.volume)?;
        let same = [names::filter("volume-id", volume_id), names::filter(&token_filter(), request.token.as_str())];
        if let Some(existing) = search(&ec2, same).await?.first() {
            return self.ticket(&ec2, existing.into(), &request.token, Some(&wanted.volume));
        }
        let reply = ec2
            .api
            .create_snapshot()
            .volume_id(volume_id)
            .description(description(request))
            .tag_specifications(names::for_snapshot(request, Some(&wanted.name)))
            .customize()
            .config_override(ec2.once())
            .send()
            .await
            .map_err(|error| {
                ec2.make("CreateSnapshot", format!("take a snapshot of {}", wanted.volume.id)).failed(error)
            })?;
        // Tags are those that were sent; not every answer repeats them.
        let tags = [names::new_tag(names::NAME, &wanted.name)];
        let seen = Seen { id: reply.snapshot_id(), volume: Some(volume_id), owner: reply.owner_id(), tags: &tags };
        let ticket = self.ticket(&ec2, seen, &request.token, Some(&wanted.volume))?;
        self.fresh.add(&ticket.snapshot, self.clock.monotonic(), state(reply.state(), reply.state_message()));
        Ok(ticket)
    }

    /// The ticket of a snapshot. The same one, whether it is made of the reply to the creation or found later.
    pub(super) fn ticket(&self, ec2: &Ec2, seen: Seen<'_>, token: &Token, volume: Option<&Volume>) -> Result<Ticket> {
        let id = seen.id.ok_or_else(|| {
            Error::new(ErrorKind::Provider, "EC2 tells no id of a snapshot").with_retry(Retry::Unknown)
        })?;
        let mut attributes: BTreeMap<String, String> = [(REGION.to_owned(), ec2.region.clone())].into();
        let source = names::tag(seen.tags, names::SOURCE);
        for (key, value) in [(VOLUME_ID, seen.volume), (ACCOUNT, seen.owner), (SOURCE, source)] {
            attributes.extend(value.map(|value| (key.to_owned(), value.to_owned())));
        }
        if let Some(volume) = volume {
            for key in KEPT {
                attributes.extend(volume.attributes.get(key).map(|value| (key.to_owned(), value.clone())));
            }
        }
        // Several that were cut by one call get their names a little later; the name follows from volume and backup.
        let planned = || {
            let backup_id = names::tag(seen.tags, names::BACKUP)?.parse().ok()?;
            Some(names::snapshot_name(volume?, &backup_id))
        };
        let name = names::tag(seen.tags, names::NAME).map(str::to_owned).or_else(planned);
        Ok(Ticket {
            snapshot: id.to_owned(),
            name: name.unwrap_or_else(|| id.to_owned()),
            volume: volume.map_or_else(|| seen.volume.unwrap_or_default().to_owned(), |volume| volume.id.clone()),
            root: volume.map(|volume| volume.root.clone()).unwrap_or_default(),
            method: super::METHOD.to_owned(),
            token: token.clone(),
            attributes,
        })
    }

    /// How far a snapshot is.
    pub(super) async fn snapshot_status(&self, ticket: &Ticket) -> Result<SnapshotStatus> {
        if let Some(state) = self.fresh.take(&ticket.snapshot) {
            return Ok(SnapshotStatus { state, percent: None, bytes_copied: Some(0) });
        }
        let ec2 = self.clients.of(&ticket.attributes)?;
        match by_id(&ec2, &ticket.snapshot).await? {
            Some(found) => Ok(status(&found)),
            None if self.fresh.is_young(&ticket.snapshot, self.clock.monotonic()) => {
                let message = format!("snapshot {} does not show yet", ticket.snapshot);
                Err(Error::new(ErrorKind::Unavailable, message).with_retry(Retry::Safe))
            }
            None => {
                self.check_gone(&ec2, &ticket.snapshot, ticket).await?;
                let message = format!("there is no snapshot {} ({}) in {}", ticket.snapshot, ticket.name, ec2.region);
                Err(Error::not_found(message))
            }
        }
    }

    /// All snapshots with this value of a tag of ours, in every region in which there may be some; originals before copies.
    pub(super) async fn tickets(&self, key: &str, value: &str, volumes: &[Volume]) -> Result<Vec<Ticket>> {
        let mut tickets = Vec::new();
        for region in self.regions(volumes)? {
            let ec2 = self.clients.region(&region);
            for snapshot in search(&ec2, [names::filter(&format!("tag:{key}"), value)]).await? {
                let tags = snapshot.tags();
                let token = names::tag(tags, names::TOKEN).and_then(|token| token.parse::<Token>().ok());
                let Some(token) = token.filter(|_| names::tag(tags, key) == Some(value)) else { continue };
                let of =
                    volumes.iter().find(|volume| volume_id(volume).is_ok_and(|id| Some(id) == snapshot.volume_id()));
                tickets.push(self.ticket(&ec2, (&snapshot).into(), &token, of)?);
            }
        }
        let place = |ticket: &Ticket| volumes.iter().position(|volume| volume.id == ticket.volume);
        tickets.sort_by_cached_key(|ticket| {
            (ticket.attributes.contains_key(SOURCE), place(ticket).unwrap_or(usize::MAX), ticket.snapshot.clone())
        });
        Ok(tickets)
    }

    /// Where snapshots of these volumes may be: their regions and those they are copied to.
    fn regions(&self, volumes: &[Volume]) -> Result<BTreeSet<String>> {
        let mut regions: BTreeSet<String> = self.wanted.copy_to.iter().cloned().collect();
        for volume in volumes {
            regions.extend(volume.attributes.get(REGION).cloned());
            regions.extend(after::Wanted::of(volume)?.copy_to);
        }
        if !volumes.iter().any(|volume| volume.attributes.contains_key(REGION)) {
            regions.insert(self.clients.here()?.region);
        }
        Ok(regions)
    }

    /// Deletes a snapshot and its copies, the copies first: as long as the original is there, it tells where they are.
    pub(super) async fn delete_snapshot(&self, ticket: &Ticket) -> Result<()> {
        for (region, id) in copies::recorded(ticket)? {
            self.delete_one(&self.clients.region(&region), &id, ticket).await?;
        }
        self.delete_one(&self.clients.of(&ticket.attributes)?, &ticket.snapshot, ticket).await
    }

    /// Whether all of these and their copies are ours. What is gone is fine, if it is gone and not only elsewhere.
    pub(super) async fn check_ours(&self, tickets: &[Ticket]) -> Result<()> {
        let mut asked = Vec::new();
        for ticket in tickets {
            let mut all = copies::recorded(ticket)?;
            all.push((self.clients.of(&ticket.attributes)?.region, ticket.snapshot.clone()));
            asked.extend(all.into_iter().map(|(region, id)| self.why_kept(region, id, ticket)));
        }
        let kept: Vec<String> = after::all(join_all(asked).await)?.into_iter().flatten().collect();
        match kept.is_empty() {
            true => Ok(()),
            false => Err(Error::precondition(format!("snapshots are not ours to delete: {}", kept.join("; ")))
                .with_hint("they were not made by this backup; they are left alone")),
        }
    }

    /// The id of a snapshot and why it must not be deleted, if it must not.
    async fn why_kept(&self, region: String, id: String, ticket: &Ticket) -> Result<Option<String>> {
        let ec2 = self.clients.region(&region);
        match by_id(&ec2, &id).await? {
            Some(found) => Ok(why_not_ours(&found, ticket).map(|why| format!("{id}: {why}"))),
            None if self.fresh.is_young(&id, self.clock.monotonic()) => Ok(None),
            None => self.check_gone(&ec2, &id, ticket).await.map(|()| None),
        }
    }

    async fn delete_one(&self, ec2: &Ec2, id: &str, ticket: &Ticket) -> Result<()> {
        match by_id(ec2, id).await? {
            Some(found) => {
                if let Some(why) = why_not_ours(&found, ticket) {
                    return Err(Error::new(ErrorKind::Conflict, format!("snapshot {id} is not deleted: {why}")));
                }
            }
            // Made by this process, as its ticket says, and not to be seen yet.
            None if self.fresh.is_young(id, self.clock.monotonic()) => {}
            None => return self.check_gone(ec2, id, ticket).await,
        }
        match ec2.api.delete_snapshot().snapshot_id(id).send().await {
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                return Err(ec2.change("DeleteSnapshot", format!("delete snapshot {id}")).failed(error));
            }
        }
        self.fresh.forget(id);
        Ok(())
    }
}

/// Why a snapshot must not be deleted for the sake of this ticket.
fn why_not_ours(found: &Snapshot, ticket: &Ticket) -> Option<String> {
    match names::tag(found.tags(), names::TOKEN) {
        // Named by the catalog alone: what carries the token of a session belongs to that one.
        Some(token) if ticket.is_stock() => Some(format!("it carries the token {token} of a session")),
        found if !ticket.is_stock() && found != Some(ticket.token.as_str()) => {
            Some(format!("it does not carry the token {}", ticket.token))
        }
        _ => None,
    }
}

/// Snapshots of this account that pass these filters, all pages.
pub(super) async fn search(ec2: &Ec2, filters: impl IntoIterator<Item = Filter>) -> Result<Vec<Snapshot>> {
    let filters = filters.into_iter().collect();
    ec2.api
        .describe_snapshots()
        .owner_ids("self")
        .set_filters(Some(filters))
        .into_paginator()
        .page_size(500)
        .items()
        .send()
        .collect::<Result<Vec<_>, _>>()
        .await
        .map_err(|error| ec2.look("DescribeSnapshots", "look for snapshots").failed(error))
}

/// The snapshot with this id, if there is one.
pub(super) async fn by_id(ec2: &Ec2, id: &str) -> Result<Option<Snapshot>> {
    match ec2.api.describe_snapshots().snapshot_ids(id).send().await {
        Ok(found) => Ok(found.snapshots().first().cloned()),
        Err(error) if code(&error) == Some("InvalidSnapshot.NotFound") => Ok(None),
        Err(error) => Err(ec2.look("DescribeSnapshots", format!("look for snapshot {id}")).failed(error)),
    }
}

/// The id that EC2 knows a volume by.
pub(super) fn volume_id(volume: &Volume) -> Result<&str> {
    volume
        .attributes
        .get(VOLUME_ID)
        .map(String::as_str)
        .ok_or_else(|| Error::invalid(format!("volume {} was not found by the AWS provider", volume.id)))
}

pub(super) fn token_filter() -> String {
    format!("tag:{}", names::TOKEN)
}

/// For people: the console shows it beside the name.
pub(super) fn description(request: &CreateRequest) -> String {
    let text = format!("barman_snap backup {} of {}", request.backup_id, request.mark);
    // At most 255 characters.
    text.chars().take(255).collect()
}

pub(super) fn status(found: &Snapshot) -> SnapshotStatus {
    SnapshotStatus {
        state: state(found.state(), found.state_message()),
        percent: found.progress().and_then(|text| text.trim_end_matches('%').parse().ok()).filter(|n| *n <= 100),
        bytes_copied: Some(0),
    }
}

/// The mapping that the [module of the provider](super) explains.
pub(super) fn state(state: Option<&Ec2State>, message: Option<&str>) -> SnapshotState {
    let failed = |otherwise: &str| {
        let reason = message.map(str::trim).filter(|text| !text.is_empty()).unwrap_or(otherwise);
        SnapshotState::Failed { reason: reason.to_owned() }
    };
    match state {
        Some(Ec2State::Completed) => SnapshotState::Ready,
        Some(Ec2State::Pending | Ec2State::Recovering) => SnapshotState::Cut,
        Some(Ec2State::Error) => failed("EC2 says error, and not why"),
        Some(Ec2State::Recoverable) => failed("it is in the recycle bin"),
        // Of a state that is not known nothing may be hoped for.
        _ => SnapshotState::Creating,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_mean_what_the_module_says() {
        let reason = |state| match state {
            SnapshotState::Failed { reason } => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(state(Some(&Ec2State::Pending), None), SnapshotState::Cut);
        assert_eq!(state(Some(&Ec2State::Completed), None), SnapshotState::Ready);
        assert_eq!(state(None, None), SnapshotState::Creating);
        assert_eq!(state(Some(&"new-one".into()), None), SnapshotState::Creating);
        assert_eq!(reason(state(Some(&Ec2State::Error), Some("no access to the key"))), "no access to the key");
        assert_eq!(reason(state(Some(&Ec2State::Error), Some(" "))), "EC2 says error, and not why");
    }

    #[test]
    fn progress_is_a_number() {
        let percent = |text: &str| status(&Snapshot::builder().progress(text).build()).percent;
        assert_eq!((percent("45%"), percent("100%"), percent(""), percent("101%")), (Some(45), Some(100), None, None));
    }

    #[test]
    fn the_reply_of_a_creation_is_told_once_and_remembered_for_a_while() {
        let fresh = Fresh::default();
        let second = Duration::from_secs(1);
        fresh.add("snap-1", second, SnapshotState::Cut);
        assert_eq!(fresh.take("snap-1"), Some(SnapshotState::Cut));
        assert_eq!(fresh.take("snap-1"), None);
        assert!(fresh.is_young("snap-1", second * 60) && !fresh.is_young("snap-1", second * 61));
        assert!(!fresh.is_young("snap-2", second));
        fresh.forget("snap-1");
        assert!(!fresh.is_young("snap-1", second));
    }
}
