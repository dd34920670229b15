//! Disks made from snapshots.
//!
//! A restored disk is as [`shape`](super::shape) says, in the zone of the instance or in its region. It carries the labels of the restore; nothing without them is ever deleted here.

use std::collections::BTreeMap;
use std::time::Duration;

use google_cloud_compute_v1::model::attached_disk::{Mode, Type};
use google_cloud_compute_v1::model::{AttachedDisk, Disk, Instance as Machine};

use super::Gcp;
use super::client::once;
use super::errors::{Call, failed};
use super::instance::place;
use super::link::{Link, Scope};
use super::names::{self, Description};
use super::shape::Shape;
use super::volumes::attribute::{DEVICE_NAME, DISK};
use crate::error::{Error, ErrorKind, Result};
use crate::host::devices::DeviceHint;
use crate::provider::{CreateVolumeRequest, Instance, RestoredVolume};

/// How long making a disk may take: data is loaded later, this is short.
const MAKING: Duration = Duration::from_secs(900);
/// How long attaching and detaching may take.
const MOVING: Duration = Duration::from_secs(300);

fn link_of(volume: &RestoredVolume) -> Result<Link> {
    let link = volume.attributes.get(DISK).and_then(|link| Link::parse(link));
    link.filter(|link| link.kind == "disks")
        .ok_or_else(|| Error::invalid(format!("not a disk of Google Cloud: {}", volume.id)))
}

/// The device name of a disk that we attach: its own name.
fn device_name(volume: &RestoredVolume, link: &Link) -> String {
    volume.attributes.get(DEVICE_NAME).cloned().unwrap_or_else(|| link.name.clone())
}

/// How the instance has a disk attached, if it does.
fn on<'a>(machine: &'a Machine, link: &Link) -> Option<&'a AttachedDisk> {
    machine.disks.iter().find(|disk| disk.source.as_deref().and_then(Link::parse).as_ref() == Some(link))
}

impl Gcp {
    /// Makes a disk of a snapshot and waits until it can be attached. Repeated, it finds the one it has made.
    pub(super) async fn make_disk(&self, request: &CreateVolumeRequest) -> Result<RestoredVolume> {
        let ticket = &request.ticket;
        let instance = request
            .instance
            .as_ref()
            .ok_or_else(|| Error::invalid("a disk is made for an instance; none was given"))?;
        let (project, zone) = place(instance)?;
        let shape = Shape::of(ticket, &self.options, zone);
        let scope = shape.scope(zone);
        let source = Link::parse(&ticket.snapshot).filter(|link| link.kind == "snapshots");
        let source = source.ok_or_else(|| Error::invalid(format!("cannot make a disk of {}", ticket.snapshot)))?;
        if self.snapshot(&source).await?.is_none() {
            return Err(Error::not_found(format!("no such snapshot: {}", ticket.snapshot)));
        }
        let link = Link::new(project, &scope, "disks", &names::restored_name(&ticket.snapshot, &request.token));
        let description =
            Description { mark: request.mark.clone(), volume: ticket.volume.clone(), ..Description::default() };
        let body = Disk::new()
            .set_name(&link.name)
            .set_source_snapshot(source.to_string())
            .set_description(description.text())
            .set_labels(names::own_labels(&request.token, &request.mark));
        let body = shape.apply(body, project, &scope);
        let what = format!("create disk {} of snapshot {}", link.name, ticket.name);
        let id = names::request_id(&request.token, &link.to_string());
        let sent = match &scope {
            Scope::Region(region) => {
                let client = self.clients.region_disks().await?;
                let call = client.insert().set_project(project).set_region(region).set_request_id(id).set_body(body);
                once(call).send().await
            }
            _ => {
                let client = self.clients.disks().await?;
                let call = client.insert().set_project(project).set_zone(zone).set_request_id(id).set_body(body);
                once(call).send().await
            }
        };
        match sent.map_err(failed(&what, Call::Write)) {
            Ok(operation) => self.wait(&what, project, &scope, operation, MAKING).await?,
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let found = self.disk(&link).await?;
                if found.labels.get(names::TOKEN).map(String::as_str) != Some(request.token.as_str()) {
                    return Err(error.with_hint("another disk has that name; it is left alone"));
                }
            }
            Err(error) => return Err(error),
        }
        Ok(restored(&link, &request.token.to_string()))
    }

    /// Attaches a disk and waits until it is.
    pub(super) async fn attach_disk(&self, volume: &RestoredVolume, instance: &Instance) -> Result<RestoredVolume> {
        let link = link_of(volume)?;
        let (project, zone) = place(instance)?;
        let machine = self.machine(instance).await?;
        let name = match on(&machine, &link) {
            Some(there) => there.device_name.clone().unwrap_or_else(|| link.name.clone()),
            None => {
                let name = free_name(&machine, &device_name(volume, &link));
                let what = format!("attach disk {} to {}", link.name, instance.name);
                let disk = AttachedDisk::new()
                    .set_source(link.to_string())
                    .set_device_name(&name)
                    .set_mode(Mode::ReadWrite)
                    .set_type(Type::Persistent)
                    .set_auto_delete(false)
                    .set_boot(false);
                let client = self.clients.instances().await?;
                let call = client.attach_disk().set_project(project).set_zone(zone).set_instance(&instance.name);
                let sent = once(call.set_body(disk)).send().await.map_err(failed(&what, Call::Write))?;
                self.wait(&what, project, &Scope::Zone(zone.to_owned()), sent, MOVING).await?;
                name
            }
        };
        let mut attached = volume.clone();
        attached.hints = DeviceHint::google(&name);
        attached.attributes.insert(DEVICE_NAME.to_owned(), name);
        Ok(attached)
    }

    /// Detaches a disk and waits until it is. Not attached is success.
    pub(super) async fn detach_disk(&self, volume: &RestoredVolume, instance: &Instance) -> Result<()> {
        let link = link_of(volume)?;
        let (project, zone) = place(instance)?;
        let machine = match self.machine(instance).await {
            Ok(machine) => machine,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(there) = on(&machine, &link) else { return Ok(()) };
        let name = there.device_name.clone().unwrap_or_else(|| link.name.clone());
        let what = format!("detach disk {} from {}", link.name, instance.name);
        let client = self.clients.instances().await?;
        let call = client.detach_disk().set_project(project).set_zone(zone).set_instance(&instance.name);
        let sent = once(call.set_device_name(&name)).send().await.map_err(failed(&what, Call::Write))?;
        self.wait(&what, project, &Scope::Zone(zone.to_owned()), sent, MOVING).await
    }

    /// Deletes a disk that a restore made. Gone already is success.
    pub(super) async fn delete_disk(&self, volume: &RestoredVolume) -> Result<()> {
        let link = link_of(volume)?;
        let found = match self.disk(&link).await {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let token = volume.attributes.get(RestoredVolume::TOKEN);
        if token.is_none() || found.labels.get(names::TOKEN) != token {
            let message = format!("disk {} was not made by this restore; it is left alone", link.name);
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        let what = format!("delete disk {}", link.name);
        let sent = match &link.scope {
            Scope::Zone(zone) => {
                let client = self.clients.disks().await?;
                client.delete().set_project(&link.project).set_zone(zone).set_disk(&link.name).send().await
            }
            Scope::Region(region) => {
                let client = self.clients.region_disks().await?;
                client.delete().set_project(&link.project).set_region(region).set_disk(&link.name).send().await
            }
            Scope::Global => return Err(Error::invalid(format!("not a disk: {link}"))),
        };
        let ended = match sent.map_err(failed(&what, Call::Write)) {
            Ok(operation) => self.wait(&what, &link.project, &link.scope, operation, MOVING).await,
            Err(error) => Err(error),
        };
        match ended {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            ended => ended,
        }
    }

    /// The disks that restores made for a mark and that nothing has attached.
    pub(super) async fn left_disks(&self, mark: &str) -> Result<Vec<RestoredVolume>> {
        let project = self.home().await?;
        let client = self.clients.disks().await?;
        let value = names::label_value(mark);
        let mut left = Vec::new();
        let mut page: Option<String> = None;
        loop {
            let call =
                client.aggregated_list().set_project(&project).set_filter(format!("labels.{}={value}", names::MARK));
            let answer = call.set_or_clear_page_token(page.take()).send().await;
            let answer = answer.map_err(failed("list disks", Call::Read))?;
            for disk in answer.items.values().flat_map(|scoped| &scoped.disks) {
                let exactly = Description::parse(disk.description.as_deref()).is_some_and(|found| found.mark == mark);
                let link = disk.self_link.as_deref().and_then(Link::parse);
                if let (true, Some(link), Some(token)) =
                    (exactly && disk.users.is_empty(), link, disk.labels.get(names::TOKEN))
                {
                    let created = disk.creation_timestamp.as_deref().and_then(|time| time.parse().ok());
                    left.push(restored(&link, token).born(created, disk.last_attach_timestamp.is_some()));
                }
            }
            page = answer.next_page_token.filter(|token| !token.is_empty());
            if page.is_none() {
                left.sort_by(|a, b| a.id.cmp(&b.id));
                return Ok(left);
            }
        }
    }
}

fn restored(link: &Link, token: &str) -> RestoredVolume {
    let attributes: BTreeMap<String, String> = [
        (RestoredVolume::TOKEN.to_owned(), token.to_owned()),
        (DISK.to_owned(), link.to_string()),
        (DEVICE_NAME.to_owned(), link.name.clone()),
    ]
    .into();
    RestoredVolume { id: link.name.clone(), attributes, ..RestoredVolume::default() }
}

/// A device name that the instance has not, as near to the wanted one as possible.
fn free_name(machine: &Machine, wanted: &str) -> String {
    let taken = |name: &str| machine.disks.iter().any(|disk| disk.device_name.as_deref() == Some(name));
    let numbered = (1..).map(|number| format!("{}-{number}", wanted.chars().take(58).collect::<String>()));
    std::iter::once(wanted.to_owned()).chain(numbered).find(|name| !taken(name)).unwrap_or_else(|| wanted.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_name_is_used_once() {
        let disk = |name: &str| AttachedDisk::new().set_device_name(name);
        let machine = Machine::new().set_disks([disk("a"), disk("a-1")]);
        assert_eq!(free_name(&machine, "b"), "b");
        assert_eq!(free_name(&machine, "a"), "a-2");
    }

    #[test]
    fn a_disk_is_attached_if_the_whole_link_is_the_same() {
        let disk = AttachedDisk::new().set_source("https://x/compute/v1/projects/p/zones/z/disks/my-data");
        let machine = Machine::new().set_disks([disk]);
        let link = |text: &str| Link::parse(text).unwrap();
        assert!(on(&machine, &link("projects/p/zones/z/disks/my-data")).is_some());
        assert!(on(&machine, &link("projects/p/zones/z/disks/data")).is_none());
        assert!(on(&machine, &link("projects/p/regions/z/disks/my-data")).is_none());
    }
}
