//! Looks at a host and describes it. Runs nothing, changes nothing.
//!
//! All is read below a root directory, so that the same code can be pointed at a made-up tree. What vanishes while it is read,
//! or may not be read, is left out: a description is never complete, and a disk that is not in it is reported as not found.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use super::description::{BlockDevice, DescribedServer, HostDescription};
use crate::clock::SystemClock;
use crate::error::{Error, Result};
use crate::host::{HostView, PgPaths, ServerFiles, sight};
use crate::postgres::BackupControl;

/// How disks are called in `/dev`; the same beginnings in every cloud.
const DISK_NAMES: [&str; 8] = ["sd", "xvd", "hd", "vd", "nvme", "loop", "dm-", "md"];

/// Directories below `/dev` whose links lead to block devices, and how deep they go.
const LINK_DIRECTORIES: [(&str, usize); 5] =
    [("dev/disk/by-id", 1), ("dev/disk/by-uuid", 1), ("dev/disk/azure", 3), ("dev/mapper", 1), ("dev/md", 1)];

impl HostDescription {
    /// Describes the host whose `/` is at `root`, as this process sees it, and where each of `paths` (absolute) really lies.
    ///
    /// # Errors
    /// If the mounts cannot be read, or one of the paths does not exist.
    pub fn capture(root: &Path, paths: &[PathBuf]) -> Result<Self> {
        let mountinfo = root.join("proc/self/mountinfo");
        let mountinfo = std::fs::read(&mountinfo).map_err(|source| Error::io("read", &mountinfo, source))?;
        let mut description = Self {
            version: Self::VERSION,
            host: line(&root.join("proc/sys/kernel/hostname")).unwrap_or_default(),
            mountinfo: String::from_utf8_lossy(&mountinfo).into_owned(),
            swaps: std::fs::read_to_string(root.join("proc/swaps")).unwrap_or_default(),
            block_devices: block_devices(&root.join("sys/block")),
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            btrfs: btrfs(&root.join("sys/fs/btrfs")),
            real_paths: BTreeMap::new(),
            servers: BTreeMap::new(),
        };
        names_in_dev(root, &mut description);
        for (directory, depth) in LINK_DIRECTORIES {
            links(root, &root.join(directory), depth, &mut description.links);
        }
        for path in paths {
            description.add_directory(root, path)?;
        }
        Ok(description)
    }

    /// The host that a file describes, or without one this host, now. What a provider with this option asks first.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file) and [`capture`](Self::capture).
    pub fn of(file: Option<&Path>) -> Result<Self> {
        file.map_or_else(Self::here, Self::from_file)
    }

    /// Describes this host.
    ///
    /// # Errors
    /// As [`capture`](Self::capture).
    pub fn here() -> Result<Self> {
        Self::capture(Path::new("/"), &[])
    }

    /// Describes this host with the directories of the server that answers `control`, and those of `paths`.
    ///
    /// # Errors
    /// As [`capture`](Self::capture); if the directories of the server are not here, or are those of another server.
    pub async fn with_server(control: Option<&mut dyn BackupControl>, paths: &[PathBuf]) -> Result<Self> {
        let mut description = Self::capture(Path::new("/"), paths)?;
        let Some(control) = control else { return Ok(description) };
        let facts = control.facts().await?;
        let found = PgPaths::resolve(&facts)?;
        let seen = sight(control, &SystemClock::new(), HostView::Here, &facts, &found).await?;
        description.add_paths(&found);
        if let (Some(named), Some(data), Some(seen)) = (facts.data_directory.to_str(), found.data(), seen) {
            let server = DescribedServer { files: ServerFiles::read(&data.real)?, identity: Some(seen.identity) };
            description.servers.insert(named.to_owned(), server);
        }
        Ok(description)
    }

    /// Notes where a directory really lies; of a data directory also `pg_wal` and the tablespaces.
    fn add_directory(&mut self, root: &Path, path: &Path) -> Result<()> {
        let real = real_path(root, path)?;
        self.add_path(path, &real);
        if !below(root, &real).join("PG_VERSION").exists() {
            return Ok(());
        }
        // As all else that cannot be read, it is left out; a backup then refuses the description.
        if let (Some(named), Ok(files)) = (path.to_str(), ServerFiles::read(&below(root, &real))) {
            let files = ServerFiles { directory: real.clone(), ..files };
            self.servers.insert(named.to_owned(), DescribedServer { files, identity: None });
        }
        let wal = real.join("pg_wal");
        if let Ok(place) = real_path(root, &wal) {
            self.add_path(&wal, &place);
        }
        for entry in entries(&below(root, &real.join("pg_tblspc"))) {
            // The server names a tablespace by what its link says; one without a link lies in the data directory.
            let Ok(named) = std::fs::read_link(&entry) else { continue };
            let place = real_path(root, &named)?;
            self.add_path(&named, &place);
        }
        Ok(())
    }
}

fn real_path(root: &Path, path: &Path) -> Result<PathBuf> {
    if !path.is_absolute() {
        return Err(Error::invalid(format!("not an absolute path: {}", path.display())));
    }
    let real = below(root, path).canonicalize().map_err(|source| Error::io("find", path, source))?;
    let root = root.canonicalize().map_err(|source| Error::io("find", root, source))?;
    Ok(Path::new("/").join(real.strip_prefix(root).unwrap_or(&real)))
}

/// An absolute path, in the tree at `root`.
fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The entries of a directory, sorted; none if it cannot be read.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// The content of a small file without blanks around it; `None` if there is nothing in it.
fn line(path: &Path) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    line(path)?.parse().ok()
}

fn names(directory: &Path) -> Vec<String> {
    entries(directory).iter().filter_map(|path| name(path).map(str::to_owned)).collect()
}

fn block_devices(sys_block: &Path) -> Vec<BlockDevice> {
    let mut found = Vec::new();
    for directory in entries(sys_block) {
        let Some(disk) = block_device(&directory) else { continue };
        let parts: Vec<BlockDevice> = entries(&directory)
            .iter()
            .filter(|path| path.join("partition").exists())
            .filter_map(|path| Some(BlockDevice { parent: Some(disk.name.clone()), ..block_device(path)? }))
            .collect();
        found.push(disk);
        found.extend(parts);
    }
    found
}

fn block_device(directory: &Path) -> Option<BlockDevice> {
    let first = |names: &[&str]| names.iter().find_map(|name| line(&directory.join(name)));
    Some(BlockDevice {
        name: name(directory)?.to_owned(),
        number: line(&directory.join("dev")),
        // Always in units of 512 bytes, whatever the sectors of the disk are (kernel: Documentation/ABI/stable/sysfs-block).
        size: number::<u64>(&directory.join("size")).map(|sectors| sectors.saturating_mul(512)),
        serial: first(&["serial", "device/serial"]),
        wwid: first(&["wwid", "device/wwid"]),
        model: first(&["device/model"]),
        nsid: number(&directory.join("nsid")),
        partition: number(&directory.join("partition")),
        parent: None,
        slaves: names(&directory.join("slaves")),
        holders: names(&directory.join("holders")),
        dm_name: first(&["dm/name"]),
        dm_uuid: first(&["dm/uuid"]),
        md_level: first(&["md/level"]),
    })
}

fn btrfs(sys_btrfs: &Path) -> BTreeMap<String, Vec<String>> {
    let file_systems = entries(sys_btrfs).into_iter().filter(|path| path.join("devices").is_dir());
    file_systems.filter_map(|path| Some((name(&path)?.to_owned(), names(&path.join("devices"))))).collect()
}

/// Nodes and links right below `/dev`: also `/dev/sdf`, which Amazon's udev rules make a link to `/dev/nvme1n1`.
fn names_in_dev(root: &Path, description: &mut HostDescription) {
    for path in entries(&root.join("dev")) {
        let Some(name) = name(&path).filter(|name| DISK_NAMES.iter().any(|begin| name.starts_with(begin))) else {
            continue;
        };
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.file_type().is_block_device() {
            let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
            description.nodes.insert(format!("/dev/{name}"), format!("{major}:{minor}"));
        } else if metadata.is_symlink() {
            link(root, &path, &mut description.links);
        }
    }
    // Where there is no udev, the device mapper makes nodes instead of links.
    for path in entries(&root.join("dev/mapper")) {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if let Some(name) = name(&path).filter(|_| metadata.file_type().is_block_device()) {
            let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
            description.nodes.insert(format!("/dev/mapper/{name}"), format!("{major}:{minor}"));
        }
    }
}

/// The links in a directory and in those below it.
fn links(root: &Path, directory: &Path, depth: usize, found: &mut BTreeMap<String, String>) {
    for path in entries(directory) {
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_symlink() => link(root, &path, found),
            Ok(metadata) if metadata.is_dir() && depth > 1 => links(root, &path, depth - 1, found),
            _ => {}
        }
    }
}

/// Notes a link, if it leads to something below `/dev`. It is followed by its text, because the nodes of a made-up tree need
/// not be there.
fn link(root: &Path, path: &Path, found: &mut BTreeMap<String, String>) {
    let place = |path: &Path| path.strip_prefix(root).map(|path| Path::new("/").join(path)).ok();
    let (Some(from), Ok(to)) = (place(path), std::fs::read_link(path)) else { return };
    let to = normal(&from.parent().unwrap_or(Path::new("/")).join(to));
    if let (Some(from), Some(to)) = (from.to_str(), to.to_str().filter(|to| to.starts_with("/dev/"))) {
        found.insert(from.to_owned(), to.to_owned());
    }
}

/// Without `.` and `..`, by the text alone.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::ParentDir => {
                out.pop();
            }
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}
