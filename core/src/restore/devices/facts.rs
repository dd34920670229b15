//! What must be known of this host and of the instance before a restore to devices can be planned.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::provider::{Instance, Outlook, Volume};

/// `CAP_SYS_ADMIN`, the right to mount (capabilities(7)).
const CAP_SYS_ADMIN: u32 = 21;

/// See the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// The instance that the volumes are attached to: this host.
    pub instance: Instance,
    /// The mark of the catalog; new volumes carry it.
    pub mark: String,
    /// Whether this process may mount. Root in a container often may not.
    pub may_mount: bool,
    /// UUIDs of the btrfs file systems that are mounted on this host.
    pub btrfs: BTreeSet<String>,
    /// With volumes that the user has attached and mounted: for each snapshot of the record the volume made of it.
    pub attached: Option<Vec<Option<Volume>>>,
    /// What a new volume of each snapshot of the record will be like; empty where that is not known.
    pub outlook: Vec<Outlook>,
}

impl DeviceFacts {
    /// The facts of this host; nothing is attached yet.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn here(instance: Instance, mark: String) -> Result<Self> {
        Ok(Self {
            instance,
            mark,
            may_mount: may_mount()?,
            btrfs: mounted_btrfs(),
            attached: None,
            outlook: Vec::new(),
        })
    }
}

fn may_mount() -> Result<bool> {
    let path = PathBuf::from("/proc/self/status");
    let status = std::fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
    Ok(has_capability(&status, CAP_SYS_ADMIN))
}

/// Whether the effective capabilities in a `/proc/<pid>/status` have this one.
fn has_capability(status: &str, number: u32) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> number & 1 == 1)
}

/// `/sys/fs/btrfs` has a directory for each file system that is mounted.
pub(super) fn mounted_btrfs() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/sys/fs/btrfs").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.len() == 36).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_without_the_capability_may_not_mount() {
        assert!(has_capability("Name:\tx\nCapEff:\t000001ffffffffff\n", CAP_SYS_ADMIN));
        // What Docker leaves to root.
        assert!(!has_capability("CapEff:\t00000000a80425fb\n", CAP_SYS_ADMIN));
        assert!(!has_capability("Name:\tx\n", CAP_SYS_ADMIN));
    }
}
