//! The disks of a cloud as a host sees them: which device each is, what is mounted from it, and which other disks lie under the
//! same file systems.
//!
//! Pure. Errors name every disk and every path that is wrong, with the device that was found instead.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::DeviceHint;
use super::description::HostDescription;
use super::graph::{Graph, Id};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{Mount, MountTable};
use crate::provider::{FileSystem, Findings, Volume};

/// A disk that its cloud says is attached to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedDisk {
    /// Its id, as [`Volume::id`].
    pub id: String,
    /// How it may show on the host.
    pub hints: Vec<DeviceHint>,
}

/// What lies on a disk and is not mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Where, as [`FileSystem::part`].
    pub part: String,
    /// The device.
    pub device: String,
    /// Whether it is used as swap space.
    pub is_swap: bool,
}

/// A disk and what the host makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskOnHost {
    /// Its id.
    pub id: String,
    /// Its device; `None` if none of the hints led to one.
    pub device: Option<String>,
    /// Every mount of every file system on it, the one with the least part of its file system hidden first.
    pub file_systems: Vec<FileSystem>,
    /// What is on it and not mounted.
    pub idle: Vec<Idle>,
    /// Devices that lie under the same file systems and are none of the disks that were asked about.
    pub outside: Vec<String>,
    /// Whether `/`, `/boot` or something below `/boot` lies on it.
    pub is_root: bool,
    hints: Vec<DeviceHint>,
}

impl DiskOnHost {
    /// The volume that this disk is: its root is the first of its file systems.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] if nothing of it is mounted.
    pub fn volume(&self, method: &str, attributes: BTreeMap<String, String>) -> Result<Volume> {
        let Some(first) = self.file_systems.first() else { return Err(Error::precondition(self.why_not_mounted())) };
        Ok(Volume {
            id: self.id.clone(),
            root: first.mount_point.clone(),
            mount_point: first.mount_point.clone(),
            mount_options: first.options.clone(),
            device: self.device.clone().unwrap_or_default(),
            method: method.to_owned(),
            attributes,
            file_systems: self.file_systems.clone(),
        })
    }

    /// Like [`volume`](Self::volume), but a disk of which nothing is mounted is a volume without file systems.
    pub fn volume_or_idle(&self, method: &str, attributes: BTreeMap<String, String>) -> Volume {
        self.volume(method, attributes.clone()).unwrap_or_else(|_| Volume {
            id: self.id.clone(),
            root: PathBuf::new(),
            mount_point: PathBuf::new(),
            mount_options: String::new(),
            device: self.device.clone().unwrap_or_default(),
            method: method.to_owned(),
            attributes,
            file_systems: Vec::new(),
        })
    }

    fn why_not_mounted(&self) -> String {
        let Some(device) = &self.device else {
            let tried: Vec<String> = self.hints.iter().map(ToString::to_string).collect();
            return format!("{} (looked for {})", self.id, tried.join(", "));
        };
        let parts: Vec<String> = self
            .idle
            .iter()
            .filter(|idle| idle.device != *device || idle.is_swap)
            .map(|idle| format!("{}{}", idle.device, if idle.is_swap { " is swap space" } else { "" }))
            .collect();
        match parts.is_empty() {
            true => format!("{} ({device})", self.id),
            false => format!("{} ({device}; on it: {})", self.id, parts.join(", ")),
        }
    }
}

/// All disks that are attached to a host. See the [module documentation](self).
#[derive(Clone, Debug)]
pub struct Disks {
    host: String,
    mounts: MountTable,
    disks: Vec<DiskOnHost>,
    /// Of each mount (by its number): the disks below it, and whether there are others, too.
    below: BTreeMap<u64, Below>,
}

#[derive(Clone, Debug, Default)]
struct Below {
    device: String,
    disks: Vec<usize>,
    outside: Vec<String>,
}

impl Disks {
    /// Finds the disks on a host. One that shows nowhere is no error yet: it is one when it is wanted.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if the mounts of the description cannot be read.
    pub fn on(host: &HostDescription, attached: &[AttachedDisk]) -> Result<Self> {
        let mounts = host.mounts()?;
        let graph = Graph::new(host);
        let found: Vec<Option<(Id, String)>> = attached.iter().map(|disk| graph.find(&disk.hints)).collect();
        let ids: Vec<Option<Id>> = found.iter().map(|found| Some(graph.one_of_paths(found.as_ref()?.0))).collect();
        let mut disks: Vec<DiskOnHost> = attached
            .iter()
            .zip(&found)
            .map(|(disk, found)| DiskOnHost {
                id: disk.id.clone(),
                device: found.as_ref().map(|(_, name)| name.clone()),
                file_systems: Vec::new(),
                idle: Vec::new(),
                outside: Vec::new(),
                is_root: false,
                hints: disk.hints.clone(),
            })
            .collect();
        let mut below = BTreeMap::new();
        let mut used = BTreeSet::new();
        for mount in mounts.iter().filter(|mount| mounts.of_path(&mount.mount_point) == Some(mount)) {
            let devices = graph.of_mount(mount);
            used.extend(&devices);
            let under: BTreeSet<Id> = devices.iter().flat_map(|id| graph.disks_below(*id)).collect();
            let here: Vec<usize> =
                (0..disks.len()).filter(|at| ids[*at].is_some_and(|id| under.contains(&id))).collect();
            let outside: Vec<String> =
                under.iter().filter(|id| !ids.contains(&Some(**id))).map(|id| graph.path(*id)).collect();
            for at in &here {
                let part = own_part(&graph, &devices, ids[*at]);
                let file_system = FileSystem {
                    part: part.map(|id| graph.part(id)).unwrap_or_default(),
                    fs_type: mount.fs_type.clone(),
                    uuid: part.and_then(|id| graph.uuid(id)),
                    mount_point: mount.mount_point.clone(),
                    fs_root: mount.fs_root.clone(),
                    options: mount.options.clone(),
                    shared_with: here
                        .iter()
                        .filter(|other| *other != at)
                        .map(|other| disks[*other].id.clone())
                        .collect(),
                };
                let disk = &mut disks[*at];
                disk.is_root |= mount.mount_point == Path::new("/") || mount.mount_point.starts_with("/boot");
                disk.file_systems.push(file_system);
                let new: Vec<String> = outside.iter().filter(|path| !disk.outside.contains(path)).cloned().collect();
                disk.outside.extend(new);
            }
            let device = devices.first().map_or_else(|| mount.source.clone(), |id| graph.path(*id));
            below.insert(mount.id, Below { device, disks: here, outside });
        }
        let swaps = swaps(host, &graph);
        for (disk, id) in disks.iter_mut().zip(&ids) {
            disk.file_systems.sort_by_key(|file_system| file_system.fs_root.as_os_str().len());
            let Some(id) = id else { continue };
            disk.idle = idle(&graph, *id, &used, &swaps);
        }
        Ok(Self { host: host.host.clone(), mounts, disks, below })
    }

    /// All of them, in the order in which they were asked about.
    pub fn all(&self) -> &[DiskOnHost] {
        &self.disks
    }

    /// The mounts of the host.
    pub fn mounts(&self) -> &MountTable {
        &self.mounts
    }

    /// The disks that hold these paths (absolute, without symbolic links), in the order in which they are needed; all disks
    /// under a file system that lies on several. The file system with the first of the paths comes first on each.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] that names every path that lies on none of the disks, with the device it lies on.
    pub fn holding(&self, paths: &[PathBuf]) -> Result<Vec<DiskOnHost>> {
        let mut wanted: Vec<usize> = Vec::new();
        let mut first: BTreeMap<usize, PathBuf> = BTreeMap::new();
        let mut elsewhere: Vec<String> = Vec::new();
        for path in paths {
            let mount = self.mounts.of_path(path);
            let under = mount.and_then(|mount| self.below.get(&mount.id));
            match (mount, under) {
                (Some(mount), Some(under)) if !under.disks.is_empty() && under.outside.is_empty() => {
                    for at in &under.disks {
                        first.entry(*at).or_insert_with(|| mount.mount_point.clone());
                        if !wanted.contains(at) {
                            wanted.push(*at);
                        }
                    }
                }
                _ => elsewhere.push(describe(path, mount, under)),
            }
        }
        if !elsewhere.is_empty() {
            let message = format!("not on any of the disks attached to {}: {}", self.host, elsewhere.join("; "));
            let attached: Vec<String> = self.disks.iter().map(DiskOnHost::why_not_mounted).collect();
            let hint = match attached.is_empty() {
                true => "the cloud says that no data disk is attached".to_owned(),
                false => format!("attached are {}", attached.join(", ")),
            };
            return Err(Error::precondition(message).with_hint(hint));
        }
        let ordered = |at: &usize| {
            let mut disk = self.disks[*at].clone();
            let main = first.get(at);
            disk.file_systems.sort_by_key(|file_system| Some(&file_system.mount_point) != main);
            disk
        };
        Ok(wanted.iter().map(ordered).collect())
    }

    /// The disks with these ids, in this order.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for ids that are not attached; [`ErrorKind::Precondition`] for disks that show nowhere, are not
    /// mounted, or bear only a part of a file system whose other disks are not in the list.
    pub fn named(&self, ids: &[String]) -> Result<Vec<DiskOnHost>> {
        let find = |id: &String| self.disks.iter().find(|disk| disk.id == *id);
        let absent: Vec<&str> = ids.iter().filter(|id| find(id).is_none()).map(String::as_str).collect();
        if !absent.is_empty() {
            let attached: Vec<&str> = self.disks.iter().map(|disk| disk.id.as_str()).collect();
            return Err(Error::not_found(format!("not attached to {}: {}", self.host, absent.join(", ")))
                .with_hint(format!("attached are {}", attached.join(", "))));
        }
        let disks: Vec<&DiskOnHost> = ids.iter().filter_map(find).collect();
        self.check_visible(&disks)?;
        self.check_mounted(&disks)?;
        self.check_whole(&disks)?;
        Ok(disks.into_iter().cloned().collect())
    }

    /// What [`named`](Self::named) would say, or what is the matter with each, line by line.
    pub fn findings(&self, ids: &[String]) -> Findings {
        let disks: Vec<&DiskOnHost> = self.disks.iter().filter(|disk| ids.contains(&disk.id)).collect();
        let list =
            |what: &dyn Fn(&DiskOnHost) -> String| disks.iter().map(|disk| what(disk)).collect::<Vec<_>>().join(", ");
        let mut findings = Findings::default();
        findings.take("disks on the host", self.check_visible(&disks), |()| {
            list(&|disk| format!("{} is {}", disk.id, disk.device.as_deref().unwrap_or_default()))
        });
        let seen: Vec<&DiskOnHost> = disks.iter().filter(|disk| disk.device.is_some()).copied().collect();
        findings.take("disks mounted", self.check_mounted(&seen), |()| list(&|disk| places(disk)));
        findings.take("disks complete", self.check_whole(&seen), |()| "no file system is left out in part".to_owned());
        findings
    }

    fn check_visible(&self, disks: &[&DiskOnHost]) -> Result<()> {
        let hidden: Vec<String> =
            disks.iter().filter(|disk| disk.device.is_none()).map(|disk| disk.why_not_mounted()).collect();
        if hidden.is_empty() {
            return Ok(());
        }
        let message = format!("attached, but there is no such device on {}: {}", self.host, hidden.join("; "));
        Err(Error::precondition(message).with_hint(
            "is this the host that the disks are attached to? From another one give --host-description; in a container, \
             /dev and /sys of the host have to be seen",
        ))
    }

    fn check_mounted(&self, disks: &[&DiskOnHost]) -> Result<()> {
        let idle: Vec<String> =
            disks.iter().filter(|disk| disk.file_systems.is_empty()).map(|disk| disk.why_not_mounted()).collect();
        if idle.is_empty() {
            return Ok(());
        }
        Err(Error::precondition(format!("not mounted on {}: {}", self.host, idle.join("; ")))
            .with_hint("mount it, or leave it out of --snapshot-disk"))
    }

    /// A snapshot of one of two disks under a file system is worth nothing.
    fn check_whole(&self, disks: &[&DiskOnHost]) -> Result<()> {
        let mut wrong: Vec<String> = Vec::new();
        let mut missing: Vec<String> = Vec::new();
        for disk in disks {
            for file_system in &disk.file_systems {
                let left_out: Vec<&String> = file_system
                    .shared_with
                    .iter()
                    .filter(|other| !disks.iter().any(|disk| disk.id == **other))
                    .collect();
                let others: Vec<&str> =
                    left_out.iter().map(|id| id.as_str()).chain(disk.outside.iter().map(String::as_str)).collect();
                if !others.is_empty() {
                    let place = file_system.mount_point.display();
                    wrong.push(format!("{place} lies on {} and {}", disk.id, others.join(", ")));
                }
                missing.extend(left_out.into_iter().map(|id| format!("--snapshot-disk {id}")));
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        missing.sort();
        missing.dedup();
        let hint = match missing.is_empty() {
            true => {
                "it lies in part on a device that is none of the attached disks, and cannot be snapshotted".to_owned()
            }
            false => format!("add {}", missing.join(" ")),
        };
        wrong.dedup();
        Err(Error::new(
            ErrorKind::Precondition,
            format!("a file system would be in the snapshots only in part: {}", wrong.join("; ")),
        )
        .with_hint(hint))
    }
}

/// The one of the devices of a mount that lies on a disk.
fn own_part(graph: &Graph<'_>, devices: &[Id], disk: Option<Id>) -> Option<Id> {
    let on_disk = graph.lying_on(disk?);
    devices.iter().copied().find(|id| on_disk.contains(id)).or_else(|| devices.first().copied())
}

fn swaps(host: &HostDescription, graph: &Graph<'_>) -> Vec<Id> {
    host.swaps.lines().skip(1).filter_map(|line| graph.at(line.split_whitespace().next()?)).collect()
}

/// The devices on a disk that nothing lies on and nothing is mounted from.
fn idle(graph: &Graph<'_>, disk: Id, used: &BTreeSet<Id>, swaps: &[Id]) -> Vec<Idle> {
    let mut idle: Vec<Idle> = graph
        .lying_on(disk)
        .into_iter()
        .filter(|id| graph.is_top(*id) && !used.contains(id))
        .map(|id| Idle { part: graph.part(id), device: graph.path(id), is_swap: swaps.contains(&id) })
        .collect();
    idle.sort_by(|a, b| a.device.cmp(&b.device));
    idle
}

fn places(disk: &DiskOnHost) -> String {
    let places: Vec<String> = disk.file_systems.iter().map(|one| one.mount_point.display().to_string()).collect();
    format!("{} on {}", disk.id, places.join(" and "))
}

fn describe(path: &Path, mount: Option<&Mount>, under: Option<&Below>) -> String {
    let Some(mount) = mount else { return format!("{} (on no mounted file system)", path.display()) };
    let device = under.map_or(mount.source.as_str(), |under| under.device.as_str());
    let place = mount.mount_point.display();
    match under.filter(|under| !under.disks.is_empty()) {
        Some(under) => {
            format!(
                "{} (in part: {device}, mounted on {place}, lies also on {})",
                path.display(),
                under.outside.join(", ")
            )
        }
        None => format!("{} (on {device}, mounted on {place})", path.display()),
    }
}
