//! Which disks of an instance are meant, and where they are mounted.
//!
//! A disk is found by the link that the instance has to it, compared part by part. Zonal and regional disks, persistent
//! disks and hyperdisks are all attached in the same way. Local SSDs have no link and cannot be snapshotted. The boot disk is
//! allowed, as stock Barman allows it.
//!
//! On the host a disk shows by its *device name*, chosen when it was attached and not the name of the disk
//! ([`DeviceHint::google`]).

use std::collections::{BTreeMap, BTreeSet};

use futures::future::try_join_all;
use google_cloud_compute_v1::model::attached_disk::Type;
use google_cloud_compute_v1::model::{AttachedDisk, Disk};

use super::Gcp;
use super::errors::{Call, failed};
use super::instance::place;
use super::link::{Link, Scope, last};
use crate::error::{Error, ErrorKind, Result};
use crate::host::devices::{AttachedDisk as Asked, DeviceHint, DiskOnHost, Disks, HostDescription};
use crate::provider::preflight::describe;
use crate::provider::{Findings, Instance, Preflight, SnapshotProvider, Ticket, Volume, VolumeSelection};

/// Attributes of a volume, kept in tickets too where they matter there.
pub(super) mod attribute {
    /// The disk: `projects/P/zones/Z/disks/D`.
    pub(in super::super) const DISK: &str = "disk";
    /// The name under which the instance shows it.
    pub(in super::super) const DEVICE_NAME: &str = "device_name";
    /// Its type: `pd-ssd`, `hyperdisk-balanced`, …
    pub(in super::super) const DISK_TYPE: &str = "disk_type";
    /// The Cloud KMS key that it is encrypted with, if it has its own.
    pub(in super::super) const DISK_KMS_KEY: &str = "disk_kms_key";
    /// The project in which its snapshots lie.
    pub(in super::super) const SNAPSHOT_PROJECT: &str = "snapshot_project";
    /// The consistency group policy that it belongs to.
    pub(in super::super) const CONSISTENCY_GROUP: &str = "consistency_group";
    /// Where its snapshots are stored.
    pub(in super::super) const STORAGE_LOCATION: &str = "storage_location";
    /// `archive` for archive snapshots.
    pub(in super::super) const SNAPSHOT_TYPE: &str = "snapshot_type";
    /// The Cloud KMS key for its snapshots.
    pub(in super::super) const SNAPSHOT_KMS_KEY: &str = "snapshot_kms_key";
    /// Its provisioned operations per second.
    pub(in super::super) const PROVISIONED_IOPS: &str = "provisioned_iops";
    /// Its provisioned MiB per second.
    pub(in super::super) const PROVISIONED_THROUGHPUT: &str = "provisioned_throughput";
    /// The zones of a regional disk, with commas between them.
    pub(in super::super) const REPLICA_ZONES: &str = "replica_zones";
    /// The storage pool that it is in.
    pub(in super::super) const STORAGE_POOL: &str = "storage_pool";
    /// It is encrypted with a key that only its owner has.
    pub(in super::super) const OWN_KEY: &str = "customer_supplied_key";
}
use attribute::{
    CONSISTENCY_GROUP, DEVICE_NAME, DISK, DISK_KMS_KEY, DISK_TYPE, OWN_KEY, PROVISIONED_IOPS, PROVISIONED_THROUGHPUT,
    REPLICA_ZONES, SNAPSHOT_KMS_KEY, SNAPSHOT_PROJECT, SNAPSHOT_TYPE, STORAGE_LOCATION, STORAGE_POOL,
};

/// A disk of the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attached {
    link: Link,
    device_name: String,
}

/// The link of a volume's disk.
pub(super) fn disk_of(volume: &Volume) -> Result<Link> {
    let link = volume.attributes.get(DISK).and_then(|text| Link::parse(text));
    link.ok_or_else(|| Error::invalid(format!("volume {} is no disk of Google Cloud", volume.id)))
}

fn attached(disk: &AttachedDisk) -> Option<Attached> {
    if disk.r#type == Some(Type::Scratch) {
        return None;
    }
    let link = Link::parse(disk.source.as_deref()?)?;
    Some(Attached { device_name: disk.device_name.clone().unwrap_or_else(|| link.name.clone()), link })
}

/// The disks that a user's name can mean: its name, `zones/Z/disks/D`, or a URL.
fn matching<'a>(disks: &'a [Attached], name: &str) -> Vec<&'a Attached> {
    let by_link = Link::parse(name);
    disks
        .iter()
        .filter(|disk| match &by_link {
            Some(link) => disk.link == *link,
            None => disk.link.name == name || disk.link.partial() == name,
        })
        .collect()
}

/// The id of a disk: its name, or with zone or region where the instance has two of that name.
fn id(disks: &[Attached], disk: &Attached) -> String {
    match matching(disks, &disk.link.name).len() {
        1 => disk.link.name.clone(),
        _ => disk.link.partial(),
    }
}

impl Gcp {
    /// The volumes of an instance that are meant.
    pub(super) async fn find_volumes(&self, instance: &Instance, selection: &VolumeSelection) -> Result<Vec<Volume>> {
        let disks = self.attached(instance).await?;
        let wanted: Vec<&Attached> = match selection {
            VolumeSelection::Named(names) => self.named(instance, &disks, names).await?,
            VolumeSelection::Holding(_) => disks.iter().collect(),
        };
        let ids: Vec<String> = wanted.iter().map(|disk| id(&disks, disk)).collect();
        let on_host = self.on_host(&disks)?;
        let found = match selection {
            VolumeSelection::Named(_) => on_host.named(&ids)?,
            VolumeSelection::Holding(paths) => on_host.holding(paths)?,
        };
        let by_id = |wanted: &DiskOnHost| disks.iter().find(|disk| id(&disks, disk) == wanted.id);
        let found: Vec<(&Attached, DiskOnHost)> =
            found.into_iter().filter_map(|disk| Some((by_id(&disk)?, disk))).collect();
        let details = try_join_all(found.iter().map(|(disk, _)| self.disk(&disk.link))).await?;
        let groups = self.consistency_groups(&details).await;
        let volumes = found
            .iter()
            .zip(&details)
            .map(|((disk, on_host), details)| on_host.volume(super::METHOD, self.attributes(disk, details, &groups)));
        volumes.collect()
    }

    /// For `check`: instance and volumes, line by line.
    pub(super) async fn look_before(&self, name: Option<&str>, selection: &VolumeSelection) -> Preflight {
        let mut findings = Findings::default();
        let found = self.instance(name).await;
        let instance = findings.take("instance", found, |instance| instance.name.clone());
        let volumes = match &instance {
            Some(instance) => self.look_at_volumes(&mut findings, instance, selection).await,
            None => None,
        };
        Preflight { findings, instance, volumes }
    }

    async fn look_at_volumes(
        &self,
        findings: &mut Findings,
        instance: &Instance,
        selection: &VolumeSelection,
    ) -> Option<Vec<Volume>> {
        if let VolumeSelection::Named(names) = selection {
            let looked = async {
                let disks = self.attached(instance).await?;
                let wanted = self.named(instance, &disks, names).await?;
                let ids: Vec<String> = wanted.iter().map(|disk| id(&disks, disk)).collect();
                Ok((self.on_host(&disks)?, ids))
            };
            let (disks, ids) = findings.take("disks attached", looked.await, |(_, ids)| ids.join(", "))?;
            findings.extend(disks.findings(&ids));
            if !findings.is_ok() {
                return None;
            }
        }
        match self.find_volumes(instance, selection).await {
            Ok(volumes) if matches!(selection, VolumeSelection::Named(_)) => Some(volumes),
            found => findings.take("disks that hold the cluster", found, |volumes| describe(volumes)),
        }
    }

    /// The disks of an instance.
    async fn attached(&self, instance: &Instance) -> Result<Vec<Attached>> {
        Ok(self.machine(instance).await?.disks.iter().filter_map(attached).collect())
    }

    /// What this host, or the described one, makes of the disks.
    fn on_host(&self, disks: &[Attached]) -> Result<Disks> {
        let host = HostDescription::of(self.host_description.as_deref())?;
        let asked: Vec<Asked> = disks
            .iter()
            .map(|disk| Asked { id: id(disks, disk), hints: DeviceHint::google(&disk.device_name) })
            .collect();
        Disks::on(&host, &asked)
    }

    /// For each ticket the attached disk that was made of its snapshot.
    pub(super) async fn made_of(&self, instance: &Instance, tickets: &[Ticket]) -> Result<Vec<Option<Volume>>> {
        let disks = self.attached(instance).await?;
        let details = try_join_all(disks.iter().map(|disk| self.disk(&disk.link))).await?;
        let on_host = self.on_host(&disks)?;
        let made_of = |ticket: &Ticket| {
            let wanted = Link::parse(&ticket.snapshot)?;
            let is_of =
                |details: &&Disk| details.source_snapshot.as_deref().and_then(Link::parse).as_ref() == Some(&wanted);
            let at = details.iter().position(|details| is_of(&details))?;
            let attributes = self.attributes(&disks[at], &details[at], &BTreeSet::new());
            let disk = on_host.all().get(at)?;
            Some(disk.volume_or_idle(super::METHOD, attributes))
        };
        Ok(tickets.iter().map(made_of).collect())
    }

    /// The attached disks of these names, each once, in their order.
    async fn named<'a>(
        &self,
        instance: &Instance,
        disks: &'a [Attached],
        names: &[String],
    ) -> Result<Vec<&'a Attached>> {
        let mut wanted: Vec<&Attached> = Vec::new();
        let (mut unknown, mut elsewhere, mut ambiguous) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            match matching(disks, name).as_slice() {
                [disk] if wanted.contains(disk) => {}
                [disk] => wanted.push(disk),
                [] => match self.not_attached(instance, name).await? {
                    Some(where_it_is) => elsewhere.push(format!("{name} ({where_it_is})")),
                    None => unknown.push(name.clone()),
                },
                several => {
                    let links: Vec<String> = several.iter().map(|disk| disk.link.partial()).collect();
                    ambiguous.push(format!("{name} ({})", links.join(" or ")));
                }
            }
        }
        let mut problems = Vec::new();
        for (what, which) in
            [("no such disk", &unknown), ("not attached to this instance", &elsewhere), ("ambiguous", &ambiguous)]
        {
            if !which.is_empty() {
                problems.push(format!("{what}: {}", which.join(", ")));
            }
        }
        let kind = match (unknown.is_empty(), elsewhere.is_empty()) {
            (false, _) => ErrorKind::NotFound,
            (true, false) => ErrorKind::Precondition,
            (true, true) => ErrorKind::InvalidInput,
        };
        match problems.is_empty() {
            true => Ok(wanted),
            false => {
                let attached: Vec<String> = disks.iter().map(|disk| id(disks, disk)).collect();
                Err(Error::new(kind, problems.join("; ")).with_hint(format!(
                    "instance {} has {}",
                    instance.name,
                    attached.join(", ")
                )))
            }
        }
    }

    /// Where a disk is that this instance does not have: in words, `None` if it does not exist.
    async fn not_attached(&self, instance: &Instance, name: &str) -> Result<Option<String>> {
        let (project, zone) = place(instance)?;
        let region = zone.rsplit_once('-').map_or(zone, |(region, _)| region);
        let candidates = match Link::parse(name).or_else(|| Link::parse(&format!("projects/{project}/{name}"))) {
            Some(link) => vec![link],
            None if name.is_empty() || name.contains('/') => return Ok(None),
            None => [Scope::Zone(zone.to_owned()), Scope::Region(region.to_owned())]
                .map(|scope| Link::new(project, &scope, "disks", name))
                .into(),
        };
        for link in candidates {
            match self.disk(&link).await {
                Ok(disk) if disk.users.is_empty() => return Ok(Some("attached to nothing".to_owned())),
                Ok(disk) => {
                    let users: Vec<&str> = disk.users.iter().map(|user| last(user)).collect();
                    return Ok(Some(format!("attached to {}", users.join(", "))));
                }
                // What is no possible name is refused by the API.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// A disk as the API knows it.
    pub(super) async fn disk(&self, link: &Link) -> Result<Disk> {
        let asked = match &link.scope {
            Scope::Region(region) => {
                let client = self.clients.region_disks().await?;
                client.get().set_project(&link.project).set_region(region).set_disk(&link.name).send().await
            }
            Scope::Zone(zone) => {
                let client = self.clients.disks().await?;
                client.get().set_project(&link.project).set_zone(zone).set_disk(&link.name).send().await
            }
            Scope::Global => return Err(Error::invalid(format!("not a disk: {link}"))),
        };
        asked.map_err(failed(&format!("look at disk {}", link.name), Call::Read))
    }

    /// Which of the resource policies of these disks are consistency groups. Nothing if that cannot be seen: then there is
    /// just no group call.
    async fn consistency_groups(&self, disks: &[Disk]) -> BTreeSet<String> {
        let policies: BTreeSet<&String> = disks.iter().flat_map(|disk| &disk.resource_policies).collect();
        let looked = try_join_all(policies.into_iter().map(async |url| {
            let Some(Link { project, scope: Scope::Region(region), name, .. }) = Link::parse(url) else {
                return Ok(None);
            };
            let client = self.clients.resource_policies().await?;
            let asked = client.get().set_project(&project).set_region(region).set_resource_policy(name).send().await;
            let policy = asked.map_err(failed("look at a resource policy", Call::Read))?;
            Ok::<_, Error>(policy.disk_consistency_group_policy.is_some().then(|| url.clone()))
        }));
        match looked.await {
            Ok(found) => found.into_iter().flatten().collect(),
            Err(error) => {
                tracing::warn!(error = %error.chain(), "consistency groups are not used");
                BTreeSet::new()
            }
        }
    }

    /// What a later process has to know about a disk.
    fn attributes(&self, disk: &Attached, details: &Disk, groups: &BTreeSet<String>) -> BTreeMap<String, String> {
        let options = &self.options;
        let kms_key =
            details.disk_encryption_key.as_ref().and_then(|key| key.kms_key_name.as_deref()).map(without_version);
        let own_key = details.disk_encryption_key.is_some() && kms_key.is_none();
        let mut mine = details.resource_policies.iter().filter(|url| groups.contains(*url));
        let group = match (mine.next(), mine.next()) {
            (Some(url), None) => Link::parse(url).map(|link| link.to_string()),
            // In two groups it is in none that we could choose.
            _ => None,
        };
        let replicas: Vec<&str> = details.replica_zones.iter().map(|zone| last(zone)).collect();
        let attributes: BTreeMap<&str, Option<String>> = [
            (DISK, Some(disk.link.to_string())),
            (DEVICE_NAME, Some(disk.device_name.clone())),
            (DISK_TYPE, details.r#type.as_deref().map(last).map(str::to_owned)),
            (DISK_KMS_KEY, kms_key),
            (PROVISIONED_IOPS, details.provisioned_iops.map(|number| number.to_string())),
            (PROVISIONED_THROUGHPUT, details.provisioned_throughput.map(|number| number.to_string())),
            (REPLICA_ZONES, Some(replicas.join(",")).filter(|zones| !zones.is_empty())),
            (STORAGE_POOL, details.storage_pool.as_deref().map(last).map(str::to_owned)),
            (OWN_KEY, own_key.then(|| "true".to_owned())),
            (CONSISTENCY_GROUP, group),
            (SNAPSHOT_PROJECT, Some(options.snapshot_project.clone().unwrap_or_else(|| disk.link.project.clone()))),
            (STORAGE_LOCATION, options.storage_location.clone()),
            (SNAPSHOT_TYPE, options.snapshot_type.clone()),
            (SNAPSHOT_KMS_KEY, options.kms_key_name.clone()),
        ]
        .into();
        attributes.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}

/// A key without `/cryptoKeyVersions/N`: new data is encrypted with the newest version.
fn without_version(key: &str) -> String {
    key.split("/cryptoKeyVersions/").next().unwrap_or(key).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disks() -> Vec<Attached> {
        let disk = |link: &str, device_name: &str| Attached {
            link: Link::parse(link).unwrap(),
            device_name: device_name.to_owned(),
        };
        vec![
            disk("projects/p/zones/z-a/disks/my-data", "my-data"),
            disk("projects/p/zones/z-a/disks/data", "other"),
            disk("projects/p/zones/z-a/disks/wal", "wal"),
            disk("projects/p/regions/z/disks/wal", "wal-regional"),
        ]
    }

    #[test]
    fn a_name_never_means_a_disk_that_only_ends_like_it() {
        let disks = disks();
        let names =
            |name: &str| matching(&disks, name).iter().map(|disk| disk.device_name.as_str()).collect::<Vec<_>>();
        assert_eq!(names("data"), ["other"]);
        assert_eq!(names("my-data"), ["my-data"]);
        assert_eq!(names("ata"), [""; 0]);
        assert_eq!(names("wal"), ["wal", "wal-regional"]);
        assert_eq!(names("regions/z/disks/wal"), ["wal-regional"]);
        assert_eq!(names("https://www.googleapis.com/compute/v1/projects/p/zones/z-a/disks/wal"), ["wal"]);
        assert_eq!(names("projects/q/zones/z-a/disks/wal"), [""; 0]);
    }

    #[test]
    fn the_id_is_the_name_where_that_is_enough() {
        let disks = disks();
        let ids: Vec<String> = disks.iter().map(|disk| id(&disks, disk)).collect();
        assert_eq!(ids, ["my-data", "data", "zones/z-a/disks/wal", "regions/z/disks/wal"]);
    }

    #[test]
    fn a_local_ssd_is_no_disk_to_snapshot() {
        let local = AttachedDisk::new().set_type(Type::Scratch).set_device_name("local-ssd-0");
        assert_eq!(attached(&local), None);
        let disk =
            AttachedDisk::new().set_source("https://x/compute/v1/projects/p/zones/z/disks/d").set_device_name("n");
        assert_eq!(attached(&disk).map(|disk| disk.device_name).as_deref(), Some("n"));
    }

    #[test]
    fn a_key_is_noted_without_its_version() {
        assert_eq!(
            without_version("projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/3"),
            "projects/p/locations/l/keyRings/r/cryptoKeys/k"
        );
    }
}
