//! Which disks of an instance are meant, and where they are mounted.
//!
//! A disk is named by its id or by its tag `Name`, among those that are attached to the instance (barman.md 5.2); the same one
//! named twice is one volume. Everything that is wrong with any of them is in one error. The root volume is refused, by name as
//! well as when a path lies on it: it holds more than a cluster, and the stock tools do not find it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use aws_sdk_ec2::types::{Volume as Ec2Volume, VolumeAttachmentState};
use futures::future::join_all;

use super::client::Ec2;
use super::errors::is_gone;
use super::{
    ACCOUNT, AwsProvider, DATA_VOLUMES, DEVICE, INSTANCE_ID, IOPS, KMS_KEY, METHOD, MULTI_ATTACH, REGION, THROUGHPUT,
    VOLUME_ID, VOLUME_TYPE, ZONE, copies, instance, names,
};
use crate::error::{Error, ErrorKind, Result};
use crate::host::devices::{AttachedDisk, DeviceHint, DiskOnHost, Disks, HostDescription};
use crate::provider::{Findings, Instance, Preflight, Ticket, Volume, VolumeSelection, preflight};

/// A volume that EC2 says is attached to the instance.
#[derive(Clone, Debug)]
pub(super) struct Attached {
    pub(super) id: String,
    /// The name of the device in the API.
    device: String,
    is_root: bool,
    found: Ec2Volume,
}

impl AwsProvider {
    /// The volumes that are meant.
    pub(super) async fn find_volumes(&self, instance: &Instance, selection: &VolumeSelection) -> Result<Vec<Volume>> {
        let ec2 = self.clients.of(&instance.attributes)?;
        let attached = self.attached(&ec2, instance).await?;
        match selection {
            VolumeSelection::Named(wanted) => {
                let named = resolve(&ec2, instance, &attached, wanted).await?;
                let disks = self.on_host(&attached, &named).await?;
                let ids: Vec<String> = named.into_iter().map(|(name, _)| name).collect();
                self.volumes_of(instance, &attached, &disks, &disks.named(&ids)?)
            }
            VolumeSelection::Holding(paths) => {
                let disks = self.on_host(&attached, &[]).await?;
                let holding = disks.holding(paths)?;
                refuse_root(instance, &attached, &disks, &holding, paths)?;
                self.volumes_of(instance, &attached, &disks, &holding)
            }
        }
    }

    /// For `check`: the same, line by line.
    pub(super) async fn look_before(&self, name: Option<&str>, selection: &VolumeSelection) -> Preflight {
        let mut findings = Findings::default();
        let found = instance::find(&self.clients, name).await;
        let tell = |instance: &Instance| {
            let id = instance::id(instance).unwrap_or_default();
            let zone = instance.attributes.get(ZONE).map(String::as_str).unwrap_or_default();
            format!("{id} in {zone}")
        };
        let Some(instance) = findings.take("instance", found, tell) else {
            return Preflight { findings, instance: None, volumes: None };
        };
        let volumes = self.look_at_volumes(&mut findings, &instance, selection).await;
        Preflight { findings, instance: Some(instance), volumes }
    }

    async fn look_at_volumes(
        &self,
        findings: &mut Findings,
        instance: &Instance,
        selection: &VolumeSelection,
    ) -> Option<Vec<Volume>> {
        if let VolumeSelection::Named(wanted) = selection {
            let looked = async {
                let ec2 = self.clients.of(&instance.attributes)?;
                let attached = self.attached(&ec2, instance).await?;
                let named = resolve(&ec2, instance, &attached, wanted).await?;
                Ok((self.on_host(&attached, &named).await?, named))
            };
            let tell = |(_, named): &(Disks, Vec<(String, String)>)| {
                named.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>().join(", ")
            };
            let (disks, named) = findings.take("disks attached", looked.await, tell)?;
            let ids: Vec<String> = named.into_iter().map(|(name, _)| name).collect();
            findings.extend(disks.findings(&ids));
            if !findings.is_ok() {
                return None;
            }
        }
        match self.find_volumes(instance, selection).await {
            Ok(volumes) if matches!(selection, VolumeSelection::Named(_)) => Some(volumes),
            found => findings.take("disks that hold the cluster", found, |volumes| preflight::describe(volumes)),
        }
    }

    /// All volumes of the instance.
    pub(super) async fn attached(&self, ec2: &Ec2, instance: &Instance) -> Result<Vec<Attached>> {
        let id = instance::id(instance)?;
        let volumes = async {
            ec2.api
                .describe_volumes()
                .filters(names::filter("attachment.instance-id", id))
                .into_paginator()
                .items()
                .send()
                .collect::<Result<Vec<_>, _>>()
                .await
                .map_err(|error| ec2.look("DescribeVolumes", format!("list the volumes of {id}")).failed(error))
        };
        let (machine, volumes) = futures::future::try_join(instance::by_id(ec2, id), volumes).await?;
        let root = machine.as_ref().and_then(|machine| machine.root_device_name());
        Ok(volumes.into_iter().filter_map(|found| attached_to(id, root, found)).collect())
    }

    /// What the host makes of all attached disks. The named ones go by their names, the others by their ids.
    async fn on_host(&self, attached: &[Attached], named: &[(String, String)]) -> Result<Disks> {
        let file = self.host.clone();
        let host = tokio::task::spawn_blocking(move || match file {
            Some(file) => HostDescription::from_file(&file),
            None => HostDescription::here(),
        })
        .await
        .map_err(|error| Error::internal("the look at the disks of the host has died").with_source(error))??;
        let disks: Vec<AttachedDisk> = attached
            .iter()
            .map(|one| AttachedDisk {
                id: named.iter().find(|(_, id)| *id == one.id).map_or(&one.id, |(name, _)| name).clone(),
                hints: DeviceHint::ebs(&one.id, Some(&one.device)),
            })
            .collect();
        Disks::on(&host, &disks)
    }

    /// For each ticket the attached volume that was made of it, or of a copy of it.
    pub(super) async fn made_of(&self, instance: &Instance, tickets: &[Ticket]) -> Result<Vec<Option<Volume>>> {
        let ec2 = self.clients.of(&instance.attributes)?;
        let attached = self.attached(&ec2, instance).await?;
        let disks = self.on_host(&attached, &[]).await?;
        let one = |ticket: &Ticket| {
            let sources = copies::with_original(ticket)?;
            let is_of =
                |one: &&Attached| one.found.snapshot_id().is_some_and(|id| sources.iter().any(|(_, of)| of == id));
            let Some(one) = attached.iter().find(is_of) else { return Ok(None) };
            let seen = disks.all().iter().find(|disk| disk.id == one.id);
            match seen.filter(|disk| !disk.file_systems.is_empty()) {
                Some(disk) => Ok(self.volumes_of(instance, &attached, &disks, std::slice::from_ref(disk))?.pop()),
                None => Ok(Some(idle(one, seen.and_then(|disk| disk.device.clone())))),
            }
        };
        tickets.iter().map(one).collect()
    }

    /// These disks as volumes.
    fn volumes_of(
        &self,
        instance: &Instance,
        attached: &[Attached],
        all: &Disks,
        wanted: &[DiskOnHost],
    ) -> Result<Vec<Volume>> {
        let data_volumes = attached.iter().filter(|one| !one.is_root).count();
        let volume = |disk: &DiskOnHost| {
            let one = which(attached, all, disk)?;
            let mut attributes = attributes(one);
            for key in [REGION, INSTANCE_ID, ACCOUNT] {
                attributes.extend(instance.attributes.get(key).map(|value| (key.to_owned(), value.clone())));
            }
            attributes.insert(DATA_VOLUMES.to_owned(), data_volumes.to_string());
            attributes.extend(self.wanted.attribute()?);
            disk.volume(METHOD, attributes)
        };
        wanted.iter().map(volume).collect()
    }
}

/// What EC2 tells of a volume that a later process may need.
fn attributes(one: &Attached) -> BTreeMap<String, String> {
    let found = &one.found;
    let number = |number: Option<i32>| number.map(|number| number.to_string());
    [
        (VOLUME_ID, Some(one.id.clone())),
        (DEVICE, Some(one.device.clone())),
        (ZONE, found.availability_zone().map(str::to_owned)),
        (VOLUME_TYPE, found.volume_type().map(|kind| kind.as_str().to_owned())),
        (IOPS, number(found.iops())),
        (THROUGHPUT, number(found.throughput())),
        (KMS_KEY, found.kms_key_id().map(str::to_owned)),
        (MULTI_ATTACH, found.multi_attach_enabled().filter(|enabled| *enabled).map(|_| "true".to_owned())),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_owned(), value?)))
    .collect()
}

/// A volume of which nothing is mounted.
fn idle(one: &Attached, device: Option<String>) -> Volume {
    Volume {
        id: one.id.clone(),
        root: PathBuf::new(),
        mount_point: PathBuf::new(),
        mount_options: String::new(),
        device: device.unwrap_or_default(),
        method: METHOD.to_owned(),
        attributes: attributes(one),
        file_systems: Vec::new(),
    }
}

/// The volume that a disk of the host is; both lists are in the same order.
fn which<'a>(attached: &'a [Attached], all: &Disks, disk: &DiskOnHost) -> Result<&'a Attached> {
    let at = all.all().iter().position(|one| one.id == disk.id);
    at.and_then(|at| attached.get(at)).ok_or_else(|| Error::internal(format!("disk {} came from nowhere", disk.id)))
}

/// A volume as it is attached to this instance (it may be attached to others, too).
fn attached_to(instance_id: &str, root: Option<&str>, found: Ec2Volume) -> Option<Attached> {
    let id = found.volume_id()?.to_owned();
    let here = found
        .attachments()
        .iter()
        .find(|one| one.instance_id() == Some(instance_id) && one.state() != Some(&VolumeAttachmentState::Detached))?;
    let device = here.device().unwrap_or_default().to_owned();
    Some(Attached { is_root: root == Some(device.as_str()), id, device, found })
}

/// The names that were given, without repetitions of the same disk, and the ids of the volumes.
async fn resolve(
    ec2: &Ec2,
    instance: &Instance,
    attached: &[Attached],
    wanted: &[String],
) -> Result<Vec<(String, String)>> {
    let mut chosen: Vec<(String, String)> = Vec::new();
    let mut troubles = Troubles::default();
    let mut strange = Vec::new();
    for name in wanted {
        match choose(attached, name).as_slice() {
            [] => strange.push(name.as_str()),
            [one] if one.is_root => troubles.root.push(name.clone()),
            [one] if chosen.iter().any(|(_, id)| *id == one.id) => {}
            [one] => chosen.push((name.clone(), one.id.clone())),
            several => {
                let ids: Vec<&str> = several.iter().map(|one| one.id.as_str()).collect();
                troubles.ambiguous.push(format!("{name} ({})", ids.join(", ")));
            }
        }
    }
    let looked = join_all(strange.iter().map(|name| elsewhere(ec2, name))).await;
    for (name, found) in strange.iter().zip(looked) {
        match found?.as_slice() {
            [] => troubles.unknown.push((*name).to_owned()),
            found => {
                let at = found.iter().flat_map(Ec2Volume::attachments).find_map(|one| one.instance_id());
                match at {
                    Some(other) => troubles.elsewhere.push(format!("{name} (it is at {other})")),
                    None => troubles.loose.push((*name).to_owned()),
                }
            }
        }
    }
    troubles.check(instance, &ec2.region).map(|()| chosen)
}

/// The attached volumes of that id, else of that name.
fn choose<'a>(attached: &'a [Attached], name: &str) -> Vec<&'a Attached> {
    let by_id: Vec<&Attached> = attached.iter().filter(|one| one.id == name).collect();
    if !by_id.is_empty() {
        return by_id;
    }
    attached.iter().filter(|one| names::tag(one.found.tags(), names::NAME) == Some(name)).collect()
}

/// The volumes of that id or name that are not attached to the instance.
async fn elsewhere(ec2: &Ec2, name: &str) -> Result<Vec<Ec2Volume>> {
    let call = ec2.api.describe_volumes();
    let is_id = name.strip_prefix("vol-").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let call = if is_id { call.volume_ids(name) } else { call.filters(names::filter("tag:Name", name)) };
    match call.send().await {
        Ok(found) => Ok(found.volumes().to_vec()),
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => {
            let error = ec2.look("DescribeVolumes", format!("look for disk {name}")).failed(error);
            // An id that is none.
            if error.kind() == ErrorKind::InvalidInput { Ok(Vec::new()) } else { Err(error) }
        }
    }
}

/// What is wrong with names that were given.
#[derive(Debug, Default)]
struct Troubles {
    unknown: Vec<String>,
    loose: Vec<String>,
    elsewhere: Vec<String>,
    root: Vec<String>,
    ambiguous: Vec<String>,
}

impl Troubles {
    fn check(&self, instance: &Instance, region: &str) -> Result<()> {
        let Self { unknown, loose, elsewhere, root, ambiguous } = self;
        let at = &instance.name;
        let texts: Vec<String> = [
            (unknown, format!("no such disk in {region}")),
            (loose, format!("not attached to {at}, nor to any other instance")),
            (elsewhere, format!("attached to another instance than {at}")),
            (root, format!("the root volume of {at} cannot be chosen")),
            (ambiguous, "more than one disk of that name".to_owned()),
        ]
        .into_iter()
        .filter(|(names, _)| !names.is_empty())
        .map(|(names, text)| format!("{text}: {}", names.join(", ")))
        .collect();
        if texts.is_empty() {
            return Ok(());
        }
        let kind = match (unknown.is_empty(), ambiguous.is_empty()) {
            (false, _) => ErrorKind::NotFound,
            (true, false) => ErrorKind::InvalidInput,
            (true, true) => ErrorKind::Precondition,
        };
        Err(Error::new(kind, texts.join("; ")).with_hint(
            "a disk is named by its volume id or by its tag Name, and has to be a data disk of the instance",
        ))
    }
}

/// Refuses paths on the root volume.
fn refuse_root(
    instance: &Instance,
    attached: &[Attached],
    disks: &Disks,
    holding: &[DiskOnHost],
    paths: &[PathBuf],
) -> Result<()> {
    for disk in holding {
        let one = which(attached, disks, disk)?;
        if !one.is_root {
            continue;
        }
        let on_it: Vec<String> = paths
            .iter()
            .filter(|path| {
                let mount = disks.mounts().of_path(path);
                mount.is_some_and(|mount| disk.file_systems.iter().any(|one| one.mount_point == mount.mount_point))
            })
            .map(|path| path.display().to_string())
            .collect();
        let message = format!("on the root volume {} of {}: {}", one.id, instance.name, on_it.join(", "));
        return Err(Error::precondition(message)
            .with_hint("root volumes are not snapshotted; move the cluster to a data volume"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_sdk_ec2::types::VolumeAttachment;

    use super::*;

    fn volume(id: &str, name: &str, device: &str) -> Ec2Volume {
        Ec2Volume::builder()
            .volume_id(id)
            .tags(names::new_tag(names::NAME, name))
            .attachments(VolumeAttachment::builder().instance_id("i-1").device(device).build())
            .build()
    }

    fn attached() -> Vec<Attached> {
        [volume("vol-0", "os", "/dev/xvda"), volume("vol-1", "data", "/dev/sdf"), volume("vol-2", "data", "/dev/sdg")]
            .into_iter()
            .filter_map(|volume| attached_to("i-1", Some("/dev/xvda"), volume))
            .collect()
    }

    #[test]
    fn an_id_comes_before_a_name_and_all_of_one_name_are_found() {
        let attached = attached();
        let ids = |name: &str| choose(&attached, name).iter().map(|one| one.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids("vol-1"), ["vol-1"]);
        assert_eq!(ids("data"), ["vol-1", "vol-2"]);
        assert_eq!(ids("dat"), Vec::<String>::new());
        assert!(choose(&attached, "os")[0].is_root && !choose(&attached, "vol-1")[0].is_root);
    }

    #[test]
    fn a_volume_of_another_instance_is_not_attached_here() {
        assert!(attached_to("i-2", None, volume("vol-1", "data", "/dev/sdf")).is_none());
    }

    #[test]
    fn all_that_is_wrong_is_in_one_error() {
        let instance = Instance { name: "db-1".into(), attributes: BTreeMap::new() };
        let troubles = Troubles {
            unknown: vec!["a".into(), "b".into()],
            loose: vec!["c".into()],
            elsewhere: vec!["d (it is at i-2)".into()],
            root: vec!["e".into()],
            ambiguous: vec!["f (vol-1, vol-2)".into()],
        };
        let error = troubles.check(&instance, "eu-west-1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        for text in ["no such disk in eu-west-1: a, b", "i-2", "root volume of db-1", "vol-1, vol-2"] {
            assert!(error.message().contains(text), "{error}");
        }
        assert!(Troubles::default().check(&instance, "eu-west-1").is_ok());
        let root = Troubles { root: vec!["e".into()], ..Troubles::default() };
        assert_eq!(root.check(&instance, "x").unwrap_err().kind(), ErrorKind::Precondition);
    }
}
