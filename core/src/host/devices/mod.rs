//! From the disks of a cloud to block devices, file systems and mounts of a host, and back.
//!
//! A cloud knows its disks by ids and says at best how one *might* show on the host ([`DeviceHint`]). Which block device it is,
//! what lies on it through partitions, LVM, md, dm-crypt and multipath, and where that is mounted, only the host can tell. It is
//! asked once ([`HostDescription::capture`]: `/sys`, `/proc/self/mountinfo`, `/proc/swaps`, nodes and links below `/dev`; no
//! program is run), and everything else is arithmetic on what it said ([`Disks`]). A description can be stored, and so stand
//! for another host (`docs/format/host-description.md`).
//!
//! The invariant: a block device is what has one major and minor number. Names come and go (`/dev/sdf`, `/dev/xvdf`,
//! `/dev/nvme1n1`, a link of udev), so names only ever lead to a number. btrfs alone hides the number of its device in
//! `mountinfo`; it is followed by the name of its source and by `/sys/fs/btrfs`.

mod appearance;
mod capture;
mod description;
mod disks;
mod graph;

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::appearance::Appearance;
pub use self::description::{BlockDevice, HostDescription};
pub use self::disks::{AttachedDisk, DiskOnHost, Disks, Idle};

/// One way in which a disk of a cloud may show on a host. A provider gives all that apply; the first that leads to a device
/// wins.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceHint {
    /// The serial number of a block device, as the kernel tells it (`vol0123456789abcdef0` for EBS on NVMe). Dashes and
    /// blanks do not count. A device that is found by its name and has *another* serial number is not taken.
    Serial(String),
    /// A link below `/dev`, absolute (`/dev/disk/by-id/google-data`).
    Link(PathBuf),
    /// The name of the device in the API of the cloud (`/dev/sdf`), which the kernel may have changed (`/dev/xvdf`).
    ApiName(String),
    /// The number of a namespace of an NVMe controller of this model.
    Namespace {
        /// The model of the controller, as the kernel tells it.
        model: String,
        /// The number, from 1.
        id: u32,
    },
    /// What a SCSI disk calls itself on its vital product data page 0x83 (`wwid` in sysfs: `t10.Google  PersistentDisk
    /// data`): words separated by blanks, all of which have to be equal.
    ScsiName(String),
}

impl DeviceHint {
    /// How an EBS volume shows: on Nitro by its serial number, which is the id of the volume without its dash; on Xen by the
    /// name it was attached under, or a changed one.
    ///
    /// Sources: Amazon EBS User Guide, "Map Amazon EBS volumes to NVMe device names"; Amazon EC2 User Guide, "Device names
    /// for volumes on Amazon EC2 instances".
    pub fn ebs(volume_id: &str, attached_as: Option<&str>) -> Vec<Self> {
        let serial: String = volume_id.replace('-', "");
        let by_id = format!("/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_{serial}");
        let mut hints = vec![Self::Serial(serial), Self::Link(by_id.into())];
        hints.extend(attached_as.map(|name| Self::ApiName(name.to_owned())));
        hints
    }

    /// How a Persistent Disk or Hyperdisk shows, by the *device name* of its attachment (not the name of the disk): Google's
    /// udev rules make `google-<name>` for SCSI and NVMe alike, the rules of udev itself `scsi-0Google_PersistentDisk_<name>`
    /// for SCSI, and without any rules a SCSI disk still tells its name.
    ///
    /// Sources: GoogleCloudPlatform/guest-configs, `65-gce-disk-naming.rules` and `google_nvme_id`; Compute Engine
    /// documentation, "Symbolic links for disks attached to a VM".
    pub fn google(device_name: &str) -> Vec<Self> {
        let link = |name: String| Self::Link(PathBuf::from("/dev/disk/by-id").join(name));
        vec![
            link(format!("google-{device_name}")),
            link(format!("scsi-0Google_PersistentDisk_{device_name}")),
            link(format!("nvme-Google_PersistentDisk_{device_name}")),
            Self::ScsiName(format!("t10.Google PersistentDisk {device_name}")),
        ]
    }

    /// How a data disk of Azure shows, by its logical unit number: the links of the Azure Linux agent (SCSI) and of
    /// azure-vm-utils (both), and without any rules the namespace with the number `lun + 2` of the NVMe controller for remote
    /// disks (the first one is the disk of the operating system). Local disks have other controllers.
    ///
    /// Sources: Azure/azure-vm-utils, `doc/disk-identification.md` and `src/identify_disks.c`; Azure documentation,
    /// "Azure virtual machine utilities".
    pub fn azure(lun: u32) -> Vec<Self> {
        vec![
            Self::Link(format!("/dev/disk/azure/data/by-lun/{lun}").into()),
            Self::Link(format!("/dev/disk/azure/scsi1/lun{lun}").into()),
            Self::Namespace { model: "MSFT NVMe Accelerator v1.0".to_owned(), id: lun.saturating_add(2) },
        ]
    }
}

impl fmt::Display for DeviceHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(serial) => write!(f, "serial number {serial}"),
            Self::Link(link) => write!(f, "{}", link.display()),
            Self::ApiName(name) => write!(f, "{name} or what the kernel makes of it"),
            Self::Namespace { model, id } => write!(f, "namespace {id} of {model:?}"),
            Self::ScsiName(name) => write!(f, "SCSI name {name:?}"),
        }
    }
}
