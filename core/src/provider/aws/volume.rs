//! Volumes made of snapshots: made, attached, detached, deleted.
//!
//! `CreateVolume` has an idempotency token, made of that of the restore and the snapshot, so that it can be repeated like
//! everything else here (<https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html>).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aws_sdk_ec2::types::{ResourceType, Volume as Ec2Volume, VolumeAttachmentState, VolumeState};
use chrono::DateTime;

use super::client::Ec2;
use super::errors::{code, is_gone};
use super::shape::Shape;
use super::{AwsProvider, DEVICE, REGION, ZONE, copies, instance, names};
use crate::error::{Error, ErrorKind, Result};
use crate::host::devices::DeviceHint;
use crate::provider::names::hash;
use crate::provider::{CreateVolumeRequest, Instance, RestoredVolume, Ticket};

/// How long a volume may take to be made, attached or detached; usually it is seconds.
const PATIENCE: Duration = Duration::from_secs(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

impl AwsProvider {
    /// A volume of the same kind as the one that the snapshot was taken of, in the zone of the instance.
    pub(super) async fn make_volume(&self, request: &CreateVolumeRequest) -> Result<RestoredVolume> {
        let ticket = &request.ticket;
        let instance = request
            .instance
            .as_ref()
            .ok_or_else(|| Error::invalid("a volume is made for an instance, and none was given"))?;
        let ec2 = self.clients.of(&instance.attributes)?;
        let zone = instance
            .attributes
            .get(ZONE)
            .ok_or_else(|| Error::invalid(format!("instance {} was not found by the AWS provider", instance.name)))?;
        let snapshot = nearest(ticket, &ec2.region)?;
        let tags = [
            (names::NAME, ticket.name.as_str()),
            (names::TOKEN, request.token.as_str()),
            (names::MARK, &request.mark),
            (names::SOURCE, &snapshot),
        ];
        let shape = Shape::of(ticket, &self.options);
        let made = ec2
            .api
            .create_volume()
            .client_token(format!("{}-{:08x}", request.token, hash(&snapshot)))
            .snapshot_id(&snapshot)
            .availability_zone(zone)
            .set_iops(shape.iops)
            .set_throughput(shape.throughput)
            .volume_type(shape.kind)
            .set_encrypted(shape.key.is_some().then_some(true))
            .set_kms_key_id(shape.key)
            .set_volume_initialization_rate(shape.initialization_rate)
            .tag_specifications(names::specification(ResourceType::Volume, tags))
            .send()
            .await
            .map_err(|error| ec2.change("CreateVolume", format!("make a volume of {snapshot}")).failed(error))?;
        let id =
            made.volume_id().ok_or_else(|| Error::new(ErrorKind::Provider, "EC2 tells no id of the new volume"))?;
        let volume = restored(&ec2, id, Some(zone), Some(request.token.as_str()));
        self.until(&format!("volume {id}"), PATIENCE, LONGEST_PAUSE, || async {
            let found = by_id(&ec2, id).await?;
            match found.as_ref().and_then(Ec2Volume::state) {
                Some(VolumeState::Available | VolumeState::InUse) => Ok(Some(())),
                Some(VolumeState::Error) => Err(Error::new(
                    ErrorKind::Provider,
                    format!("volume {id} of snapshot {snapshot} failed: may the KMS key be used?"),
                )),
                _ => Ok(None),
            }
        })
        .await?;
        Ok(volume)
    }

    /// Attaches under the first name that is free.
    pub(super) async fn attach_volume(&self, volume: &RestoredVolume, instance: &Instance) -> Result<RestoredVolume> {
        let ec2 = self.clients.of(&volume.attributes)?;
        let instance_id = instance::id(instance)?;
        // EC2 does not tell whether a volume was ever attached.
        let tag = names::new_tag(names::USED, instance_id);
        let tagged = ec2.api.create_tags().resources(&volume.id).tags(tag).send().await;
        tagged.map_err(|error| ec2.change("CreateTags", format!("tag volume {}", volume.id)).failed(error))?;
        let mut refused: BTreeSet<String> = BTreeSet::new();
        loop {
            let machine = instance::by_id(&ec2, instance_id).await?;
            let machine = machine
                .ok_or_else(|| Error::not_found(format!("there is no instance {instance_id} in {}", ec2.region)))?;
            let mappings = machine.block_device_mappings();
            let here = mappings.iter().find(|one| one.ebs().and_then(|ebs| ebs.volume_id()) == Some(&volume.id));
            if let Some(device) = here.and_then(|one| one.device_name()) {
                return self.await_attached(&ec2, volume, instance_id, device).await;
            }
            let used = mappings.iter().filter_map(|one| one.device_name()).chain(machine.root_device_name());
            let device = free_name(&used.map(short).chain(refused.iter().map(|name| short(name))).collect())
                .ok_or_else(|| {
                    let message = format!("no name of a device is free on {}", instance.name);
                    Error::new(ErrorKind::Exhausted, message)
                })?;
            let call = ec2.api.attach_volume().volume_id(&volume.id).instance_id(instance_id).device(&device);
            match call.send().await {
                Ok(_) => return self.await_attached(&ec2, volume, instance_id, &device).await,
                // Another call was faster with this name; or an earlier attempt of ours has attached it, which shows now.
                Err(error) if code(&error) == Some("InvalidParameterValue") && refused.insert(device) => {}
                Err(error) if code(&error) == Some("VolumeInUse") => {
                    let found = by_id(&ec2, &volume.id).await?;
                    let here = found.as_ref().and_then(|found| attached_as(found, instance_id));
                    let doing = format!("attach volume {} to {}", volume.id, instance.name);
                    // A repetition by the SDK meets what the first attempt has done.
                    let device = here.ok_or_else(|| ec2.change("AttachVolume", doing).failed(error))?;
                    return self.await_attached(&ec2, volume, instance_id, device).await;
                }
                Err(error) => {
                    let doing = format!("attach volume {} to {}", volume.id, instance.name);
                    return Err(ec2.change("AttachVolume", doing).failed(error));
                }
            }
        }
    }

    async fn await_attached(
        &self,
        ec2: &Ec2,
        volume: &RestoredVolume,
        instance_id: &str,
        device: &str,
    ) -> Result<RestoredVolume> {
        let what = format!("volume {} at {instance_id}", volume.id);
        self.until(&what, PATIENCE, LONGEST_PAUSE, || async {
            let found = by_id(ec2, &volume.id).await?;
            let found = found.ok_or_else(|| Error::not_found(format!("there is no volume {}", volume.id)))?;
            let attached = found.attachments().iter().any(|one| {
                one.instance_id() == Some(instance_id) && one.state() == Some(&VolumeAttachmentState::Attached)
            });
            Ok(attached.then_some(()))
        })
        .await?;
        let mut attached = volume.clone();
        attached.attributes.insert(DEVICE.to_owned(), device.to_owned());
        attached.hints = DeviceHint::ebs(&volume.id, Some(device));
        Ok(attached)
    }

    /// Detaches, and waits until the volume is free.
    pub(super) async fn detach_volume(&self, volume: &RestoredVolume, instance: &Instance) -> Result<()> {
        let ec2 = self.clients.of(&volume.attributes)?;
        let call = ec2.api.detach_volume().volume_id(&volume.id).instance_id(instance::id(instance)?);
        match call.send().await {
            Ok(_) => {}
            Err(error) if is_gone(&error) => return Ok(()),
            // Not attached, or being detached.
            Err(error) if matches!(code(&error), Some("IncorrectState" | "InvalidParameterValue")) => {}
            Err(error) => {
                return Err(ec2.change("DetachVolume", format!("detach volume {}", volume.id)).failed(error));
            }
        }
        let instance_id = instance::id(instance)?;
        self.until(&format!("volume {} of {instance_id}", volume.id), PATIENCE, LONGEST_PAUSE, || async {
            let Some(found) = by_id(&ec2, &volume.id).await? else { return Ok(Some(())) };
            let gone = found.attachments().iter().all(|one| {
                one.instance_id() != Some(instance_id) || one.state() == Some(&VolumeAttachmentState::Detached)
            });
            Ok(gone.then_some(()))
        })
        .await
    }

    /// Deletes a volume that carries the token of its restore.
    pub(super) async fn remove_volume(&self, volume: &RestoredVolume) -> Result<()> {
        let not_ours = || {
            let message = format!("volume {} is not deleted: it does not carry the token of this restore", volume.id);
            Error::new(ErrorKind::Conflict, message)
        };
        let token = volume.attributes.get(RestoredVolume::TOKEN).ok_or_else(not_ours)?;
        let ec2 = self.clients.of(&volume.attributes)?;
        let Some(found) = by_id(&ec2, &volume.id).await? else { return Ok(()) };
        if matches!(found.state(), Some(VolumeState::Deleted | VolumeState::Deleting)) {
            return Ok(());
        }
        if names::tag(found.tags(), names::TOKEN) != Some(token) {
            return Err(not_ours());
        }
        match ec2.api.delete_volume().volume_id(&volume.id).send().await {
            Ok(_) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) => Err(ec2.change("DeleteVolume", format!("delete volume {}", volume.id)).failed(error)),
        }
    }

    /// Volumes of restores that are attached to nothing.
    pub(super) async fn left_volumes(&self, mark: &str) -> Result<Vec<RestoredVolume>> {
        let ec2 = self.clients.here()?;
        let found = ec2
            .api
            .describe_volumes()
            .filters(names::filter(&format!("tag:{}", names::MARK), mark))
            .filters(names::filter("status", "available"))
            .into_paginator()
            .items()
            .send()
            .collect::<Result<Vec<_>, _>>()
            .await
            .map_err(|error| ec2.look("DescribeVolumes", "look for volumes of restores").failed(error))?;
        let ours = found.iter().filter(|volume| names::tag(volume.tags(), names::MARK) == Some(mark));
        Ok(ours
            .filter_map(|volume| {
                let token = names::tag(volume.tags(), names::TOKEN)?;
                let found = restored(&ec2, volume.volume_id()?, volume.availability_zone(), Some(token));
                let created = volume.create_time().and_then(|time| DateTime::from_timestamp(time.secs(), 0));
                Some(found.born(created, names::tag(volume.tags(), names::USED).is_some()))
            })
            .collect())
    }
}

/// The name of the device as which a volume is attached to an instance.
fn attached_as<'a>(volume: &'a Ec2Volume, instance_id: &str) -> Option<&'a str> {
    volume.attachments().iter().find(|one| one.instance_id() == Some(instance_id))?.device()
}

/// The volume with this id, if there is one.
async fn by_id(ec2: &Ec2, id: &str) -> Result<Option<Ec2Volume>> {
    match ec2.api.describe_volumes().volume_ids(id).send().await {
        Ok(found) => Ok(found.volumes().first().cloned()),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(ec2.look("DescribeVolumes", format!("look for volume {id}")).failed(error)),
    }
}

fn restored(ec2: &Ec2, id: &str, zone: Option<&str>, token: Option<&str>) -> RestoredVolume {
    let attributes: BTreeMap<String, String> =
        [(REGION, Some(ec2.region.as_str())), (ZONE, zone), (RestoredVolume::TOKEN, token)]
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())))
            .collect();
    RestoredVolume { id: id.to_owned(), hints: DeviceHint::ebs(id, None), attributes, ..RestoredVolume::default() }
}

/// The snapshot, or its copy in the region of the instance.
fn nearest(ticket: &Ticket, region: &str) -> Result<String> {
    let all = copies::with_original(ticket)?;
    // A ticket of a stock tool may not tell its region; then it is this one, or EC2 will say that it is not.
    if !ticket.attributes.contains_key(REGION) {
        return Ok(ticket.snapshot.clone());
    }
    all.iter().find(|(there, _)| there == region).map(|(_, id)| id.clone()).ok_or_else(|| {
        let places: Vec<&str> = all.iter().map(|(there, _)| there.as_str()).collect();
        Error::precondition(format!("snapshot {} is in {}, the instance in {region}", ticket.name, places.join(", ")))
            .with_hint(format!(
                "copy it with aws ec2 copy-snapshot, or restore to an instance in {}",
                places.join(", ")
            ))
    })
}

/// What is left of the name of a device when `/dev/`, `sd` and `xvd` are taken away: `/dev/sdf` and `/dev/xvdf` are one.
fn short(name: &str) -> String {
    let name = name.trim_start_matches("/dev/");
    name.strip_prefix("xvd").or_else(|| name.strip_prefix("sd")).unwrap_or(name).to_owned()
}

/// A name that is not among the used ones (as [`short`] writes them): `/dev/sd[f-p]`, as recommended for data volumes, then
/// `/dev/xvd[b-c][a-z]` (<https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/device_naming.html>).
fn free_name(used: &BTreeSet<String>) -> Option<String> {
    let recommended = ('f'..='p').map(|letter| format!("/dev/sd{letter}"));
    let more = ('b'..='c').flat_map(|first| ('a'..='z').map(move |second| format!("/dev/xvd{first}{second}")));
    recommended.chain(more).find(|name| !used.contains(&short(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| short(name)).collect()
    }

    #[test]
    fn the_first_free_name_is_taken_under_either_spelling() {
        assert_eq!(free_name(&used(&["/dev/xvda"])).as_deref(), Some("/dev/sdf"));
        assert_eq!(free_name(&used(&["/dev/sdf", "/dev/xvdg", "sdh"])).as_deref(), Some("/dev/sdi"));
        let all: Vec<String> = ('f'..='p').map(|letter| format!("/dev/sd{letter}")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(free_name(&used(&all)).as_deref(), Some("/dev/xvdba"));
    }

    #[test]
    fn the_names_end() {
        let mut names = BTreeSet::new();
        while let Some(name) = free_name(&names) {
            names.insert(short(&name));
        }
        assert_eq!(names.len(), 11 + 52);
    }

    #[test]
    fn a_copy_in_the_region_of_the_instance_is_used() {
        let mut ticket: Ticket = serde_json::from_str(
            r#"{"snapshot":"snap-0","name":"n","volume":"v","root":"/","method":"ebs",
                "token":"0123456789abcdef0123456789abcdef",
                "attributes":{"region":"eu-west-1","copies":"us-east-1=snap-1"}}"#,
        )
        .unwrap();
        assert_eq!(nearest(&ticket, "eu-west-1").unwrap(), "snap-0");
        assert_eq!(nearest(&ticket, "us-east-1").unwrap(), "snap-1");
        let error = nearest(&ticket, "us-west-2").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        assert!(error.to_string().contains("us-east-1, eu-west-1"), "{error}");
        ticket.attributes.clear();
        assert_eq!(nearest(&ticket, "us-west-2").unwrap(), "snap-0");
    }
}
