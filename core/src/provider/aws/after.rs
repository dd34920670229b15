//! What is wanted beyond the snapshots: copies in other regions, and locks.
//!
//! Another process with other options may have to finish a backup. So what is wanted is noted in the attributes of its volumes
//! when they are found, and read from there.

use aws_sdk_ec2::types::EnableFastSnapshotRestoreErrorItem as FastError;
use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::AwsProvider;
use super::lock::Lock;
use crate::error::{Error, Result};
use crate::provider::options::AwsOptions;
use crate::provider::{CreateRequest, Ticket, Volume};

/// The attribute of a volume that holds a [`Wanted`], if there is anything in it.
const WANTED: &str = "after";

/// What is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Wanted {
    /// Regions to copy to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) copy_to: Vec<String>,
    /// The key for the copies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) copy_key: Option<String>,
    /// How to lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lock: Option<Lock>,
    /// Zones in which volumes made of the snapshots are to be fast at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) fast_restore: Vec<String>,
}

impl Wanted {
    /// What the options ask for.
    pub(super) fn from_options(options: &AwsOptions) -> Result<Self> {
        let mut copy_to = options.copy_to.clone();
        copy_to.sort();
        copy_to.dedup();
        if copy_to.iter().any(|region| region.trim().is_empty()) {
            return Err(Error::invalid("copy_to holds an empty name of a region"));
        }
        if copy_to.is_empty() && options.copy_kms_key_id.is_some() {
            return Err(Error::invalid("copy_kms_key_id without copy_to").with_hint("give --aws-copy-to"));
        }
        let mut fast_restore = options.fast_restore_zones.clone();
        fast_restore.sort();
        fast_restore.dedup();
        Ok(Self {
            copy_to,
            copy_key: options.copy_kms_key_id.clone(),
            lock: Lock::from_options(options)?,
            fast_restore,
        })
    }

    /// What was wanted when the volume was found.
    pub(super) fn of(volume: &Volume) -> Result<Self> {
        match volume.attributes.get(WANTED) {
            None => Ok(Self::default()),
            Some(text) => serde_json::from_str(text).map_err(|error| {
                Error::corrupt(format!("cannot read what is wanted for volume {}", volume.id)).with_source(error)
            }),
        }
    }

    /// As an attribute of a volume; none if nothing is wanted.
    pub(super) fn attribute(&self) -> Result<Option<(String, String)>> {
        if *self == Self::default() {
            return Ok(None);
        }
        let text = serde_json::to_string(self)
            .map_err(|error| Error::internal("cannot note what is wanted").with_source(error))?;
        Ok(Some((WANTED.to_owned(), text)))
    }
}

/// Whether anything is wanted for one of these.
pub(super) fn is_wanted(volumes: &[Volume]) -> bool {
    volumes.iter().any(|volume| volume.attributes.contains_key(WANTED))
}

impl AwsProvider {
    /// Copies all snapshots, then locks all of them and their copies.
    pub(super) async fn copy_and_lock(&self, requests: &[CreateRequest], tickets: &[Ticket]) -> Result<Vec<Ticket>> {
        let copied = all(join_all(tickets.iter().map(|ticket| self.copy(requests, ticket))).await)?;
        all(join_all(copied.iter().map(|one| self.make_fast(one))).await)?;
        all(join_all(copied.iter().map(|one| self.lock_copied(one))).await)
    }

    async fn lock_copied(&self, (ticket, wanted): &(Ticket, Wanted)) -> Result<Ticket> {
        match &wanted.lock {
            Some(lock) => self.lock(ticket, lock).await,
            None => Ok(ticket.clone()),
        }
    }

    /// Enables fast snapshot restore; what is enabled already stays so. It ends with the snapshot.
    /// <https://docs.aws.amazon.com/ebs/latest/userguide/ebs-fast-snapshot-restore.html>
    async fn make_fast(&self, (ticket, wanted): &(Ticket, Wanted)) -> Result<()> {
        if wanted.fast_restore.is_empty() {
            return Ok(());
        }
        let ec2 = self.clients.of(&ticket.attributes)?;
        let doing = format!("enable fast snapshot restore of {}", ticket.snapshot);
        let call = ec2.api.enable_fast_snapshot_restores().source_snapshot_ids(&ticket.snapshot);
        let answer = call.set_availability_zones(Some(wanted.fast_restore.clone())).send().await;
        let answer = answer.map_err(|error| ec2.change("EnableFastSnapshotRestores", doing.clone()).failed(error))?;
        let failed = answer.unsuccessful().iter().flat_map(FastError::fast_snapshot_restore_state_errors);
        let mut failed = failed.filter_map(|one| Some((one.availability_zone()?, one.error()?)));
        match failed.next() {
            None => Ok(()),
            Some((zone, error)) => Err(ec2.change("EnableFastSnapshotRestores", format!("{doing} in {zone}")).refused(
                error.code().unwrap_or_default(),
                error.message().unwrap_or_default(),
                0,
            )),
        }
    }

    /// The ticket with its copies, and what else is wanted for it.
    async fn copy(&self, requests: &[CreateRequest], ticket: &Ticket) -> Result<(Ticket, Wanted)> {
        let (request, volume) = planned(requests, ticket)
            .ok_or_else(|| Error::internal(format!("snapshot {} is of no volume of this backup", ticket.snapshot)))?;
        let wanted = Wanted::of(volume)?;
        Ok((self.with_copies(request, ticket, &wanted).await?, wanted))
    }
}

/// The volume that a ticket is of, and its request.
fn planned<'a>(requests: &'a [CreateRequest], ticket: &Ticket) -> Option<(&'a CreateRequest, &'a Volume)> {
    requests.iter().find_map(|request| {
        let wanted = request.volumes.iter().find(|wanted| wanted.volume.id == ticket.volume)?;
        Some((request, &wanted.volume))
    })
}

/// All values, or the first error; what was begun for the others has come to its end.
pub(super) fn all<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    results.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_survives_in_a_volume() {
        let options = AwsOptions {
            copy_to: vec!["us-east-1".into(), "eu-central-1".into(), "us-east-1".into()],
            copy_kms_key_id: Some("alias/backup".into()),
            lock_mode: Some("governance".into()),
            lock_duration: Some(7),
            fast_restore_zones: vec!["eu-west-1b".into(), "eu-west-1a".into()],
            ..AwsOptions::default()
        };
        let wanted = Wanted::from_options(&options).unwrap();
        assert_eq!(wanted.copy_to, ["eu-central-1", "us-east-1"]);
        assert_eq!(wanted.fast_restore, ["eu-west-1a", "eu-west-1b"]);
        let mut volume: Volume = serde_json::from_str(
            r#"{"id":"v","root":"/","mount_point":"/","mount_options":"rw","device":"d","method":"ebs"}"#,
        )
        .unwrap();
        assert!(!is_wanted(std::slice::from_ref(&volume)));
        assert_eq!(Wanted::of(&volume).unwrap(), Wanted::default());
        volume.attributes.extend(wanted.attribute().unwrap());
        assert!(is_wanted(std::slice::from_ref(&volume)));
        assert_eq!(Wanted::of(&volume).unwrap(), wanted);
        assert_eq!(Wanted::default().attribute().unwrap(), None);
    }

    #[test]
    fn a_key_without_copies_is_refused() {
        let options = AwsOptions { copy_kms_key_id: Some("k".into()), ..AwsOptions::default() };
        assert!(Wanted::from_options(&options).is_err());
        let options = AwsOptions { copy_to: vec![String::new()], ..AwsOptions::default() };
        assert!(Wanted::from_options(&options).is_err());
    }
}
