//! From the disks of a cloud to block devices of a host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One way in which a disk of a cloud may show on a host. A provider gives all that apply; the first that leads to a device
/// wins.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceHint {
    /// The serial number of a block device, as the kernel tells it (`vol0123456789abcdef0` for EBS on NVMe).
    Serial(String),
    /// A link below `/dev`, absolute (`/dev/disk/by-id/google-data`).
    Link(PathBuf),
    /// The name of the device in the API of the cloud (`/dev/sdf`), which the kernel may have changed (`/dev/xvdf`).
    ApiName(String),
}
