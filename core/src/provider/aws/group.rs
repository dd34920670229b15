//! Several volumes of one instance, cut at one instant by one call.
//!
//! `CreateSnapshots` takes an instance, and says by *exclusion* which of its volumes are meant: the boot volume by a flag, at
//! most 40 others by their ids (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceSpecification.html>).
//! So what is attached is looked up directly before the call. A volume that is attached in between is snapshotted, too; it
//! carries our token, and is deleted after backup mode ([`AwsProvider::name_group`]), where the snapshots also get their
//! names, as all of a call have the same tags.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_ec2::types::{Filter, InstanceSpecification, Snapshot};
use futures::future::join_all;

use super::client::Ec2;
use super::errors::is_gone;
use super::snapshots::{self, Seen, description, token_filter, volume_id};
use super::{AwsProvider, DATA_VOLUMES, INSTANCE_ID, REGION, after, instance, names};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{CreateRequest, Ticket, Volume};

/// How many volumes of an instance can be excluded from a call.
const MOST_EXCLUDED: usize = 40;

/// Whether one call can cut all these: they are on one instance, and it has not too many others.
pub(super) fn possible(volumes: &[Volume]) -> bool {
    let [first, rest @ ..] = volumes else { return false };
    let same = |key: &str| {
        first.attributes.contains_key(key)
            && rest.iter().all(|volume| volume.attributes.get(key) == first.attributes.get(key))
    };
    let data_volumes = first.attributes.get(DATA_VOLUMES).and_then(|number| number.parse::<usize>().ok());
    !rest.is_empty()
        && same(INSTANCE_ID)
        && same(REGION)
        && data_volumes.is_some_and(|all| all.saturating_sub(volumes.len()) <= MOST_EXCLUDED)
}

/// The ids of all volumes that are attached to an instance, but the root one.
pub(super) async fn data_volumes(ec2: &Ec2, instance_id: &str) -> Result<BTreeSet<String>> {
    let found = instance::by_id(ec2, instance_id).await?;
    let found =
        found.ok_or_else(|| Error::not_found(format!("there is no instance {instance_id} in {}", ec2.region)))?;
    let root = found.root_device_name();
    let mappings = found.block_device_mappings().iter().filter(|mapping| mapping.device_name() != root);
    Ok(mappings.filter_map(|mapping| mapping.ebs()?.volume_id().map(str::to_owned)).collect())
}

impl AwsProvider {
    /// The snapshots of all volumes of a request, by one call.
    pub(super) async fn create_group(&self, request: &CreateRequest) -> Result<Vec<Ticket>> {
        let ec2 = self.clients.of(&request.instance.attributes)?;
        let instance_id = instance::id(&request.instance)?;
        let wanted = wanted_ids(request)?;
        let mut existing = snapshots::search(&ec2, [names::filter(&token_filter(), request.token.as_str())]).await?;
        existing.retain(|found| found.volume_id().is_some_and(|id| wanted.contains(id)));
        if !existing.is_empty() {
            // One call makes all of them; that not all show yet is a matter of time.
            let tickets = self.in_order(&ec2, request, existing.iter().map(Seen::from));
            return tickets.map_err(|error| Error::new(ErrorKind::Conflict, error.message()));
        }
        let attached = data_volumes(&ec2, instance_id).await?;
        let absent: Vec<&str> = wanted.iter().filter(|id| !attached.contains(**id)).copied().collect();
        if !absent.is_empty() {
            let message = format!("not attached to {} any more: {}", request.instance.name, absent.join(", "));
            return Err(Error::precondition(message));
        }
        let excluded: Vec<String> = attached.iter().filter(|id| !wanted.contains(id.as_str())).cloned().collect();
        if excluded.len() > MOST_EXCLUDED {
            let message = format!("{} other volumes are attached to {}", excluded.len(), request.instance.name);
            return Err(Error::precondition(message)
                .with_hint(format!("one call can leave out {MOST_EXCLUDED}; use --consistency independent")));
        }
        let reply = ec2
            .api
            .create_snapshots()
            .instance_specification(specification(instance_id, excluded))
            .description(description(request))
            .tag_specifications(names::for_snapshot(request, None))
            .customize()
            .config_override(ec2.once())
            .send()
            .await
            .map_err(|error| {
                let doing = format!("take snapshots of {} volumes of {}", wanted.len(), request.instance.name);
                ec2.make("CreateSnapshots", doing).failed(error)
            })?;
        let now = self.clock.monotonic();
        for made in reply.snapshots() {
            let state = snapshots::state(made.state(), None);
            self.fresh.add(made.snapshot_id().unwrap_or_default(), now, state);
        }
        // The tags that name the backup were sent and need not be in the answer.
        let tags = [names::new_tag(names::BACKUP, &request.backup_id.to_string())];
        let seen = reply.snapshots().iter().map(|made| Seen {
            id: made.snapshot_id(),
            volume: made.volume_id(),
            owner: made.owner_id(),
            tags: &tags,
        });
        self.in_order(&ec2, request, seen)
    }

    /// One ticket for each volume of the request; what else was made is left for [`name_group`](Self::name_group).
    fn in_order<'a>(
        &self,
        ec2: &Ec2,
        request: &CreateRequest,
        made: impl Iterator<Item = Seen<'a>>,
    ) -> Result<Vec<Ticket>> {
        let made: Vec<Seen<'_>> = made.collect();
        let mut tickets = Vec::with_capacity(request.volumes.len());
        for wanted in &request.volumes {
            let id = volume_id(&wanted.volume)?;
            // Detached in between, it is in no snapshot; the session undoes the others.
            let seen = made.iter().find(|seen| seen.volume == Some(id)).ok_or_else(|| {
                Error::precondition(format!("{} was left out: is it still attached?", wanted.volume.id))
            })?;
            tickets.push(self.ticket(ec2, *seen, &request.token, Some(&wanted.volume))?);
        }
        Ok(tickets)
    }

    /// What is left of a group call, done after backup mode: every snapshot gets its name, and those of volumes that nobody
    /// wanted are deleted. `requests` are all of the session, `tickets` what is known to have been made. Does the same when
    /// repeated.
    ///
    /// Those that are known are named by their ids: a list lags behind what was made. What else there is only a list can tell, and
    /// one that shows all that is known is taken for complete.
    pub(super) async fn name_group(&self, requests: &[CreateRequest], tickets: &[Ticket]) -> Result<()> {
        let Some(request) = requests.first() else { return Ok(()) };
        let ec2 = self.clients.of(&request.instance.attributes)?;
        let look = || snapshots::search(&ec2, [names::filter(&token_filter(), request.token.as_str())]);
        let first = look().await?;
        let shown = |made: &[Snapshot], ticket: &Ticket| {
            made.iter().find(|one| one.snapshot_id() == Some(&ticket.snapshot)).map(|one| one.tags().to_vec())
        };
        let name_of = |ticket: &Ticket| {
            let volumes = requests.iter().flat_map(|request| &request.volumes);
            volumes.into_iter().find(|wanted| wanted.volume.id == ticket.volume).map(|wanted| wanted.name.clone())
        };
        let has = |ticket: &Ticket, wanted: &String| {
            shown(&first, ticket).is_some_and(|tags| names::tag(&tags, names::NAME) == Some(wanted))
        };
        let known = tickets.iter().filter_map(|ticket| Some((ticket, name_of(ticket)?)));
        let known = known.filter(|(ticket, wanted)| !has(ticket, wanted));
        let known = known.map(|(ticket, wanted)| (ticket.snapshot.as_str(), wanted));
        let named = known.map(|(id, wanted)| {
            let (ec2, what) = (&ec2, format!("name snapshot {id}"));
            async move {
                self.until(&what, LIST_PATIENCE, LIST_PAUSE, || async {
                    // That one which was just made is not found yet says nothing.
                    match name_it(ec2, id, &wanted).await {
                        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                        result => result.map(Some),
                    }
                })
                .await
            }
        });
        after::all(join_all(named).await)?;
        let made = match tickets.iter().all(|ticket| shown(&first, ticket).is_some()) {
            true => first,
            false => {
                let ask = || async {
                    let made = look().await?;
                    let all = tickets.iter().all(|ticket| shown(&made, ticket).is_some());
                    Ok(all.then_some(made))
                };
                self.until("see all snapshots of one call", LIST_PATIENCE, LIST_PAUSE, ask).await?
            }
        };
        let is_known = |id: Option<&str>| tickets.iter().any(|ticket| Some(ticket.snapshot.as_str()) == id);
        let others = made.iter().filter(|one| !is_known(one.snapshot_id()));
        after::all(join_all(others.map(|snapshot| name_one(&ec2, requests, snapshot))).await).map(drop)
    }
}

/// How long EC2 may go on not to show what was made, and the longest pause between two looks.
const LIST_PATIENCE: Duration = Duration::from_secs(60);
const LIST_PAUSE: Duration = Duration::from_secs(2);

async fn name_it(ec2: &Ec2, id: &str, name: &str) -> Result<()> {
    let named = ec2.api.create_tags().resources(id).tags(names::new_tag(names::NAME, name)).send().await;
    named.map(drop).map_err(|error| ec2.change("CreateTags", format!("name snapshot {id}")).failed(error))
}

/// Names a snapshot, or deletes it if it is of none of the volumes.
async fn name_one(ec2: &Ec2, requests: &[CreateRequest], made: &Snapshot) -> Result<()> {
    let Some(id) = made.snapshot_id() else { return Ok(()) };
    let wanted = requests
        .iter()
        .flat_map(|request| &request.volumes)
        .find(|wanted| volume_id(&wanted.volume).is_ok_and(|volume| Some(volume) == made.volume_id()));
    match wanted {
        Some(wanted) if names::tag(made.tags(), names::NAME) == Some(&wanted.name) => Ok(()),
        Some(wanted) => name_it(ec2, id, &wanted.name).await,
        None => {
            tracing::info!(snapshot = id, volume = made.volume_id(), "deleted, its volume was attached too late");
            match ec2.api.delete_snapshot().snapshot_id(id).send().await {
                Ok(_) => Ok(()),
                Err(error) if is_gone(&error) => Ok(()),
                Err(error) => Err(ec2.change("DeleteSnapshot", format!("delete snapshot {id}")).failed(error)),
            }
        }
    }
}

/// The ids of the volumes of a request.
pub(super) fn wanted_ids(request: &CreateRequest) -> Result<BTreeSet<&str>> {
    request.volumes.iter().map(|wanted| volume_id(&wanted.volume)).collect()
}

pub(super) fn specification(instance_id: &str, excluded: Vec<String>) -> InstanceSpecification {
    InstanceSpecification::builder()
        .instance_id(instance_id)
        .exclude_boot_volume(true)
        .set_exclude_data_volume_ids((!excluded.is_empty()).then_some(excluded))
        .build()
}

/// A filter for any of these values.
pub(super) fn values(name: &str, values: Vec<String>) -> Filter {
    Filter::builder().name(name).set_values(Some(values)).build()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn volume(id: &str, instance: &str, data_volumes: usize) -> Volume {
        let attributes = [
            (super::super::VOLUME_ID, id.to_owned()),
            (INSTANCE_ID, instance.to_owned()),
            (REGION, "eu-west-1".to_owned()),
            (DATA_VOLUMES, data_volumes.to_string()),
        ];
        Volume {
            id: id.to_owned(),
            root: PathBuf::from("/srv"),
            mount_point: PathBuf::from("/srv"),
            mount_options: "rw".to_owned(),
            device: "/dev/sdf".to_owned(),
            method: super::super::METHOD.to_owned(),
            attributes: attributes.map(|(key, value)| (key.to_owned(), value)).into(),
            file_systems: Vec::new(),
        }
    }

    #[test]
    fn a_group_is_two_or_more_volumes_of_one_instance_with_at_most_forty_others() {
        let two = |data| [volume("vol-1", "i-1", data), volume("vol-2", "i-1", data)];
        assert!(possible(&two(2)) && possible(&two(42)));
        assert!(!possible(&two(43)), "41 would have to be left out");
        assert!(!possible(&two(2)[..1]), "one volume needs no group");
        assert!(!possible(&[]));
        assert!(!possible(&[volume("vol-1", "i-1", 2), volume("vol-2", "i-2", 2)]));
    }

    #[test]
    fn nothing_to_exclude_is_no_empty_list() {
        assert!(specification("i-1", Vec::new()).exclude_data_volume_ids.is_none());
        assert_eq!(specification("i-1", vec!["vol-9".to_owned()]).exclude_data_volume_ids(), ["vol-9"]);
    }
}
