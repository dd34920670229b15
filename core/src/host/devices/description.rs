//! What a host tells of its disks and mounts, as it is stored: `docs/format/host-description.md`.
//!
//! Plain data. What is in it was said by the host and is believed as far as it goes: missing numbers, dangling names and circles
//! in what lies on what are all possible, and must do no harm to whoever reads it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::host::{MountTable, PgPaths, ServerFiles};
use crate::postgres::ServerIdentity;

/// A block device: a disk, a partition, or what the kernel makes of others (LVM, md, dm-crypt, multipath).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockDevice {
    /// The name of the kernel: `nvme1n1`, `xvdf1`, `dm-0`.
    pub name: String,
    /// Major and minor number, `259:1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    /// Size in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Serial number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// World-wide id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wwid: Option<String>,
    /// Model of the disk or of its controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Number of the NVMe namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nsid: Option<u32>,
    /// The number of a partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// The disk that a partition is of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The devices that this one lies on, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slaves: Vec<String>,
    /// The devices that lie on this one, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<String>,
    /// Name in the device mapper.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dm_name: Option<String>,
    /// UUID in the device mapper; its beginning tells the kind: `LVM-`, `CRYPT-`, `mpath-`, `part1-mpath-`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dm_uuid: Option<String>,
    /// Level of an md array: `raid1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub md_level: Option<String>,
}

/// A host, as far as disks and mounts go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDescription {
    /// Version of the format, see [`VERSION`](Self::VERSION).
    pub version: u32,
    /// The name of the host.
    pub host: String,
    /// The content of `/proc/self/mountinfo`.
    pub mountinfo: String,
    /// The content of `/proc/swaps`.
    #[serde(default)]
    pub swaps: String,
    /// The block devices of `/sys/block`, partitions included.
    #[serde(default)]
    pub block_devices: Vec<BlockDevice>,
    /// Nodes of block devices below `/dev`, with their major and minor numbers. There may be some under names that `/sys` does
    /// not know.
    #[serde(default)]
    pub nodes: BTreeMap<String, String>,
    /// Links below `/dev` to block devices: link to node, both absolute.
    #[serde(default)]
    pub links: BTreeMap<String, String>,
    /// The devices of each btrfs file system: UUID to names of block devices.
    #[serde(default)]
    pub btrfs: BTreeMap<String, Vec<String>>,
    /// Where directories really lie: as they are named, to the path without symbolic links.
    #[serde(default)]
    pub real_paths: BTreeMap<String, String>,
    /// The servers: data directory as the server names it, to what tells that server from others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub servers: BTreeMap<String, DescribedServer>,
}

/// A server of a described host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescribedServer {
    /// What its data directory says.
    #[serde(flatten)]
    pub files: ServerFiles,
    /// What the server said of itself, after it had proved that this is its data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<ServerIdentity>,
}

impl HostDescription {
    /// The version that this program writes, and the highest it reads.
    pub const VERSION: u32 = 1;

    /// Reads a stored description.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if it is none; [`ErrorKind::Unsupported`] if a newer program wrote it.
    pub fn from_json(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let bad = |error| Error::corrupt("this is no description of a host").with_source(error);
        let Version { version } = serde_json::from_str(text).map_err(bad)?;
        if version == 0 || version > Self::VERSION {
            let message = format!(
                "the description of the host has version {version}, this program reads up to {}",
                Self::VERSION
            );
            return Err(Error::new(ErrorKind::Unsupported, message).with_hint("use the same version on both hosts"));
        }
        let description: Self = serde_json::from_str(text).map_err(bad)?;
        description.mounts()?;
        Ok(description)
    }

    /// Reads the description in a file.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json), and if the file cannot be read.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::io("read", path, source))?;
        Self::from_json(&text).map_err(|error| error.with_context("file", path.display().to_string()))
    }

    /// As it is stored.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`], which does not happen.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string_pretty(self)
            .map_err(|error| Error::internal("cannot write the description of a host").with_source(error))
    }

    /// The mounts.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] with the line that is not one of `mountinfo`.
    pub fn mounts(&self) -> Result<MountTable> {
        MountTable::parse(self.mountinfo.as_bytes())
    }

    /// Notes where the directories of a cluster really lie, so that the description can stand for its host.
    pub fn add_paths(&mut self, paths: &PgPaths) {
        for path in paths.iter() {
            self.add_path(&path.named, &path.real);
        }
    }

    /// Notes where a directory really lies. A path that is not UTF-8 is left out; such a cluster cannot be backed up.
    pub fn add_path(&mut self, named: &Path, real: &Path) {
        if let (Some(named), Some(real)) = (named.to_str(), real.to_str()) {
            self.real_paths.insert(named.to_owned(), real.to_owned());
        }
    }

    /// The server with this data directory.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] if the description does not say.
    pub fn server(&self, data_directory: &Path) -> Result<&DescribedServer> {
        data_directory.to_str().and_then(|named| self.servers.get(named)).ok_or_else(|| {
            let message = format!(
                "the description of host {} does not say which server runs on {}",
                self.host,
                data_directory.display()
            );
            Error::precondition(message).with_hint(
                "describe the host anew, with this version and a connection to the server (describe-host -d)",
            )
        })
    }

    /// Where a directory really lies.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] if the description does not say.
    pub fn real_path(&self, named: &Path) -> Result<PathBuf> {
        named.to_str().and_then(|named| self.real_paths.get(named)).map(PathBuf::from).ok_or_else(|| {
            let message = format!("the description of host {} does not say where {} lies", self.host, named.display());
            Error::precondition(message)
                .with_hint("describe the host anew, with a connection to the server (describe-host -d)")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_of_a_newer_program_is_refused_before_it_is_misread() {
        let error = HostDescription::from_json(r#"{"version": 2, "disks": []}"#).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!(HostDescription::from_json(r#"{"version": 0}"#).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn what_is_no_description_is_said_to_be_none() {
        for text in ["", "[]", "{}", r#"{"version": 1}"#, r#"{"version": 1, "host": "h", "mountinfo": "x y"}"#] {
            assert_eq!(HostDescription::from_json(text).unwrap_err().kind(), ErrorKind::Corrupt, "{text}");
        }
    }

    #[test]
    fn a_path_that_was_not_asked_for_is_an_error_that_says_what_to_do() {
        let mut host = HostDescription::from_json(r#"{"version": 1, "host": "db1", "mountinfo": ""}"#).unwrap();
        host.add_path(Path::new("/srv/pg"), Path::new("/mnt/1/pg"));
        assert_eq!(host.real_path(Path::new("/srv/pg")).unwrap(), Path::new("/mnt/1/pg"));
        let error = host.real_path(Path::new("/srv/ts")).unwrap_err().to_string();
        assert!(error.contains("db1") && error.contains("/srv/ts") && error.contains("describe-host"), "{error}");
    }
}
