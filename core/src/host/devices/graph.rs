//! What lies on what: the block devices of a description as a graph.
//!
//! Pure. Devices are told apart by their numbers; a device under two names (`/dev/xvdf` made by hand for `loop3`) is one. A
//! description may be wrong, so every walk remembers where it has been.

use std::collections::{BTreeSet, HashMap};

use super::DeviceHint;
use super::description::{BlockDevice, HostDescription};
use crate::host::Mount;

/// One device, by its place in the graph.
pub(super) type Id = usize;

/// Links that lead to links are followed this far.
const LINK_DEPTH: usize = 8;

#[derive(Debug, Default)]
struct Device<'a> {
    /// What `/sys` says, under each of its names.
    sys: Vec<&'a BlockDevice>,
    /// A node of it; for one that `/sys` does not know.
    node: Option<&'a str>,
    /// What lies on it.
    above: BTreeSet<Id>,
    /// What it lies on.
    below: BTreeSet<Id>,
}

/// See the [module documentation](self).
#[derive(Debug)]
pub(super) struct Graph<'a> {
    host: &'a HostDescription,
    devices: Vec<Device<'a>>,
    by_number: HashMap<&'a str, Id>,
    by_name: HashMap<&'a str, Id>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(host: &'a HostDescription) -> Self {
        let mut graph = Self { host, devices: Vec::new(), by_number: HashMap::new(), by_name: HashMap::new() };
        for device in &host.block_devices {
            let number =
                device.number.as_deref().or_else(|| host.nodes.get(&node_of(&device.name)).map(String::as_str));
            let id = graph.device(number);
            graph.devices[id].sys.push(device);
            graph.by_name.insert(&device.name, id);
        }
        for (node, number) in &host.nodes {
            let id = graph.device(Some(number));
            graph.devices[id].node.get_or_insert(node);
        }
        for device in &host.block_devices {
            let Some(&id) = graph.by_name.get(device.name.as_str()) else { continue };
            for below in device.slaves.iter().chain(&device.parent) {
                graph.lies_on(Some(id), graph.by_name.get(below.as_str()).copied());
            }
            for above in &device.holders {
                graph.lies_on(graph.by_name.get(above.as_str()).copied(), Some(id));
            }
        }
        graph
    }

    /// The device with a number, or a new one.
    fn device(&mut self, number: Option<&'a str>) -> Id {
        if let Some(id) = number.and_then(|number| self.by_number.get(number)) {
            return *id;
        }
        let id = self.devices.len();
        self.devices.push(Device::default());
        if let Some(number) = number {
            self.by_number.insert(number, id);
        }
        id
    }

    fn lies_on(&mut self, above: Option<Id>, below: Option<Id>) {
        if let (Some(above), Some(below)) = (above, below)
            && above != below
        {
            self.devices[below].above.insert(above);
            self.devices[above].below.insert(below);
        }
    }

    /// The device that a disk with these hints is, and the name to call it by.
    pub(super) fn find(&self, hints: &[DeviceHint]) -> Option<(Id, String)> {
        let serials: Vec<String> = hints
            .iter()
            .filter_map(|hint| match hint {
                DeviceHint::Serial(serial) => Some(plain(serial)),
                _ => None,
            })
            .collect();
        // A name may have gone over to another disk; a serial number never does.
        let is_other = |id: &Id| {
            let own = self.sys(*id).find_map(|device| device.serial.as_deref().map(plain));
            !serials.is_empty() && own.is_some_and(|own| !serials.contains(&own))
        };
        hints.iter().find_map(|hint| {
            let (id, name) = self.whole(self.follow(hint)?);
            (!is_other(&id)).then_some((id, name))
        })
    }

    /// The disk, where a partition was found: `/dev/sda1` is what the API calls the root volume, and `/dev/xvda1` its first
    /// partition, except on very old machines, where the volume is there under that name and has no partitions.
    fn whole(&self, found: (Id, String)) -> (Id, String) {
        let parent = self.sys(found.0).find_map(|device| self.by_name.get(device.parent.as_deref()?).copied());
        parent.map_or(found, |id| (id, self.path(id)))
    }

    fn follow(&self, hint: &DeviceHint) -> Option<(Id, String)> {
        let named = |id| (id, self.path(id));
        let disk = |is: &dyn Fn(&BlockDevice) -> bool| {
            let mut found = self.host.block_devices.iter().filter(|device| device.partition.is_none() && is(device));
            Some((self.by_name.get(found.next()?.name.as_str()).copied()?, found.next().is_some()))
        };
        match hint {
            DeviceHint::Serial(serial) => {
                let wanted = plain(serial);
                let (id, _) = disk(&|device| device.serial.as_deref().is_some_and(|own| plain(own) == wanted))?;
                Some(named(id))
            }
            DeviceHint::Link(link) => self.at(link.to_str()?).map(named),
            DeviceHint::ApiName(name) => api_names(name).into_iter().find_map(|path| Some((self.at(&path)?, path))),
            DeviceHint::Namespace { model, id } => {
                let is = |device: &BlockDevice| {
                    device.model.as_deref().map(str::trim) == Some(model.trim()) && namespace(device) == Some(*id)
                };
                // With two such controllers the number alone says nothing.
                disk(&is).filter(|(_, more)| !more).map(|(id, _)| named(id))
            }
            DeviceHint::ScsiName(name) => {
                let is = |device: &BlockDevice| {
                    device.wwid.as_deref().is_some_and(|wwid| wwid.split_whitespace().eq(name.split_whitespace()))
                };
                disk(&is).map(|(id, _)| named(id))
            }
        }
    }

    /// The device at a path below `/dev`: a node, a link, or a name that only `/sys` knows.
    pub(super) fn at(&self, path: &str) -> Option<Id> {
        let mut path = path;
        for _ in 0..LINK_DEPTH {
            if let Some(id) = self.host.nodes.get(path).and_then(|number| self.by_number.get(number.as_str())) {
                return Some(*id);
            }
            match self.host.links.get(path) {
                Some(target) => path = target,
                None => break,
            }
        }
        let mapped = |name: &str| self.host.block_devices.iter().find(|device| device.dm_name.as_deref() == Some(name));
        match path.strip_prefix("/dev/mapper/") {
            Some(name) => mapped(name).and_then(|device| self.by_name.get(device.name.as_str())).copied(),
            None => self.by_name.get(path.strip_prefix("/dev/")?).copied(),
        }
    }

    /// The devices of a mount: none if its file system lies on no block device, several for btrfs.
    pub(super) fn of_mount(&self, mount: &Mount) -> Vec<Id> {
        if let Some(id) = self.by_number.get(mount.device_number.as_str()) {
            return vec![*id];
        }
        let source = mount.source.split('[').next().unwrap_or_default();
        let Some(id) = self.at(source) else { return Vec::new() };
        if mount.fs_type == "btrfs"
            && let Some((_, ids)) = self.btrfs().find(|(_, ids)| ids.contains(&id))
        {
            return ids;
        }
        vec![id]
    }

    /// The btrfs file systems: UUID and devices.
    fn btrfs(&self) -> impl Iterator<Item = (&'a str, Vec<Id>)> {
        let ids =
            |names: &'a [String]| names.iter().filter_map(|name| self.by_name.get(name.as_str()).copied()).collect();
        self.host.btrfs.iter().map(move |(uuid, names)| (uuid.as_str(), ids(names)))
    }

    /// The UUID of the file system on a device.
    pub(super) fn uuid(&self, id: Id) -> Option<String> {
        let btrfs = self.btrfs().find(|(_, ids)| ids.contains(&id)).map(|(uuid, _)| uuid);
        let links = || {
            let by_uuid =
                self.host.links.keys().filter_map(|link| Some((link, link.strip_prefix("/dev/disk/by-uuid/")?)));
            by_uuid.into_iter().find(|(link, _)| self.at(link) == Some(id)).map(|(_, uuid)| uuid)
        };
        btrfs.or_else(links).map(str::to_owned)
    }

    /// A device and all that lies on it, in an order in which nothing comes before what it lies on.
    pub(super) fn lying_on(&self, id: Id) -> Vec<Id> {
        self.walk(id, |id| &self.devices[id].above)
    }

    /// Whether nothing lies on a device.
    pub(super) fn is_top(&self, id: Id) -> bool {
        self.devices[id].above.is_empty()
    }

    /// The disks that a device lies on. Several paths to one disk (multipath) count as one.
    pub(super) fn disks_below(&self, id: Id) -> BTreeSet<Id> {
        let none = BTreeSet::new();
        let below = |id: Id| if self.is_multipath(id) { &none } else { &self.devices[id].below };
        let all = self.walk(id, below);
        all.into_iter().filter(|id| below(*id).is_empty()).map(|id| self.one_of_paths(id)).collect()
    }

    /// The device that stands for a disk: where there are several paths to it, what binds them together.
    pub(super) fn one_of_paths(&self, id: Id) -> Id {
        self.devices[id].above.iter().copied().find(|above| self.is_multipath(*above)).unwrap_or(id)
    }

    fn is_multipath(&self, id: Id) -> bool {
        self.sys(id).any(|device| device.dm_uuid.as_deref().is_some_and(|uuid| uuid.starts_with("mpath-")))
    }

    fn walk<'s>(&'s self, from: Id, next: impl Fn(Id) -> &'s BTreeSet<Id>) -> Vec<Id> {
        let mut found = vec![from];
        let mut seen = BTreeSet::from([from]);
        let mut at = 0;
        while at < found.len() {
            found.extend(next(found[at]).iter().copied().filter(|id| seen.insert(*id)));
            at += 1;
        }
        found
    }

    fn sys(&self, id: Id) -> impl Iterator<Item = &'a BlockDevice> {
        self.devices[id].sys.iter().copied()
    }

    /// The path of a device, for people and for programs on that host.
    pub(super) fn path(&self, id: Id) -> String {
        let Some(device) = self.sys(id).next() else { return self.devices[id].node.unwrap_or("?").to_owned() };
        match &device.dm_name {
            Some(name) => format!("/dev/mapper/{name}"),
            None => node_of(&device.name),
        }
    }

    /// Where on its disks a device lies, as [`FileSystem::part`](crate::provider::FileSystem::part) says it.
    pub(super) fn part(&self, id: Id) -> String {
        let Some(device) = self.sys(id).next() else { return String::new() };
        if let Some(name) = &device.dm_name {
            return match device.dm_uuid.as_deref().unwrap_or_default() {
                uuid if uuid.starts_with("LVM-") => format!("lvm:{}", logical_volume(name)),
                uuid if uuid.starts_with("CRYPT-") => format!("crypt:{name}"),
                uuid if uuid.starts_with("mpath-") => String::new(),
                uuid => match uuid.strip_prefix("part").and_then(|rest| rest.split_once('-')) {
                    Some((number, _)) => number.to_owned(),
                    None => format!("dm:{name}"),
                },
            };
        }
        let of_md =
            |name: &str| self.by_name.get(name).is_some_and(|id| self.sys(*id).any(|parent| parent.md_level.is_some()));
        match (&device.md_level, device.partition, &device.parent) {
            (Some(_), _, _) => format!("md:{}", device.name),
            (None, Some(_), Some(parent)) if of_md(parent) => format!("md:{}", device.name),
            (None, Some(number), _) => number.to_string(),
            (None, None, _) => String::new(),
        }
    }
}

fn node_of(name: &str) -> String {
    // In the names of `/sys`, `!` stands for `/`.
    format!("/dev/{}", name.replace('!', "/"))
}

/// A serial number as it is compared: EBS writes `vol-0123` in its API and `vol0123` on the device.
fn plain(serial: &str) -> String {
    serial.chars().filter(|c| !c.is_whitespace() && *c != '-').collect()
}

/// What the kernel may call a device that was attached as `name`: `xvd` instead of `sd` with the drivers of Xen, `hd` with very
/// old ones; and the whole disk where the name is that of a partition (`/dev/sda1`, the usual root device).
fn api_names(name: &str) -> Vec<String> {
    let name = name.strip_prefix("/dev/").unwrap_or(name);
    let variants = |name: &str| match name.strip_prefix("sd") {
        Some(rest) => vec![format!("/dev/{name}"), format!("/dev/xvd{rest}"), format!("/dev/hd{rest}")],
        None => vec![format!("/dev/{name}")],
    };
    let mut names = variants(name);
    let disk = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if disk != name && (disk.starts_with("sd") || disk.starts_with("xvd")) {
        names.extend(variants(disk));
    }
    names
}

/// The number of the NVMe namespace; in its name, where `/sys` does not tell.
fn namespace(device: &BlockDevice) -> Option<u32> {
    let of_name = || device.name.strip_prefix("nvme")?.split_once('n')?.1.parse().ok();
    device.nsid.or_else(of_name)
}

/// `VG/LV` of a name in the device mapper, in which dashes of the names are doubled.
fn logical_volume(name: &str) -> String {
    let single = name.char_indices().find(|(at, c)| {
        *c == '-' && {
            let run = name[..*at].chars().rev().take_while(|c| *c == '-').count();
            run % 2 == 0 && !name[at + 1..].starts_with('-')
        }
    });
    let undouble = |text: &str| text.replace("--", "-");
    match single {
        Some((at, _)) => format!("{}/{}", undouble(&name[..at]), undouble(&name[at + 1..])),
        None => undouble(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_logical_volumes_are_taken_apart_at_the_single_dash() {
        assert_eq!(logical_volume("vg-lv"), "vg/lv");
        assert_eq!(logical_volume("pg--data-my--lv"), "pg-data/my-lv");
        assert_eq!(logical_volume("vg--x"), "vg-x");
        assert_eq!(logical_volume(""), "");
    }

    #[test]
    fn a_device_may_have_been_renamed_by_the_kernel() {
        assert_eq!(api_names("/dev/sdf"), ["/dev/sdf", "/dev/xvdf", "/dev/hdf"]);
        assert_eq!(api_names("xvdba"), ["/dev/xvdba"]);
        assert_eq!(api_names("/dev/sda1").last().unwrap(), "/dev/hda");
        assert_eq!(api_names("/dev/nvme0n1"), ["/dev/nvme0n1"]);
    }

    #[test]
    fn a_circle_ends() {
        let device = |name: &str, slave: &str| BlockDevice {
            name: name.into(),
            slaves: vec![slave.into()],
            ..BlockDevice::default()
        };
        let mut host = HostDescription::from_json(r#"{"version": 1, "host": "h", "mountinfo": ""}"#).unwrap();
        host.block_devices = vec![device("a", "b"), device("b", "a"), device("c", "c")];
        host.links = [("/dev/x".to_owned(), "/dev/y".to_owned()), ("/dev/y".to_owned(), "/dev/x".to_owned())].into();
        let graph = Graph::new(&host);
        assert_eq!(graph.lying_on(0), [0, 1]);
        assert!(graph.disks_below(0).is_empty());
        assert_eq!(graph.at("/dev/x"), None);
    }
}
