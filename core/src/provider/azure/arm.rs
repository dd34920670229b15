//! Names of resources in the Resource Manager: `/subscriptions/S/resourceGroups/G/providers/Microsoft.Compute/KIND/NAME`.
//!
//! Case does not matter in any part, and the service does not keep the one that was used (groups come back in capitals), so
//! ids are compared by [`ResourceId::same`] and never as text. Pure.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::{Error, Result};

/// Attributes of instances, volumes and tickets. They are stored: the names are fixed.
pub(super) mod key {
    pub(in super::super) const SUBSCRIPTION: &str = "subscription_id";
    pub(in super::super) const GROUP: &str = "resource_group";
    pub(in super::super) const LOCATION: &str = "location";
    pub(in super::super) const ZONE: &str = "zone";
    pub(in super::super) const LUN: &str = "lun";
    pub(in super::super) const DISK: &str = "disk_id";
    pub(in super::super) const DISK_SKU: &str = "disk_sku";
    /// What the disk is like: see `shape`.
    pub(in super::super) const LIKE: &str = "disk_like";
    /// Minutes for which its snapshots are to be of use before all is copied.
    pub(in super::super) const INSTANT: &str = "instant_access_minutes";
    pub(in super::super) const KEY_SET: &str = "disk_encryption_set";
    pub(in super::super) const SECTOR: &str = "sector_size";
    pub(in super::super) const COPY: &str = "copy_id";
    pub(in super::super) const COPY_LOCATION: &str = "copy_location";
}

/// A subscription and a resource group in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Scope {
    pub(super) subscription: String,
    pub(super) group: String,
}

impl Scope {
    /// The scope that attributes of an instance, a volume or a ticket name.
    pub(super) fn of(attributes: &BTreeMap<String, String>) -> Option<Self> {
        Some(Self {
            subscription: attributes.get(key::SUBSCRIPTION)?.clone(),
            group: attributes.get(key::GROUP)?.clone(),
        })
    }

    /// Writes the scope into attributes.
    pub(super) fn put(&self, attributes: &mut BTreeMap<String, String>) {
        attributes.insert(key::SUBSCRIPTION.to_owned(), self.subscription.clone());
        attributes.insert(key::GROUP.to_owned(), self.group.clone());
    }

    /// A resource of Microsoft.Compute in this group.
    pub(super) fn id(&self, kind: &str, name: &str) -> ResourceId {
        ResourceId { scope: self.clone(), kind: kind.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/subscriptions/{}/resourceGroups/{}", self.subscription, self.group)
    }
}

/// The id of a disk, a snapshot or a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResourceId {
    pub(super) scope: Scope,
    /// `disks`, `snapshots`, `virtualMachines`.
    pub(super) kind: String,
    pub(super) name: String,
}

impl ResourceId {
    /// Reads an id; `None` if it is none of Microsoft.Compute.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.strip_prefix('/')?.split('/').collect();
        let [subscriptions, subscription, groups, group, providers, provider, kind, name] = parts.as_slice() else {
            return None;
        };
        let words = [
            (subscriptions, "subscriptions"),
            (groups, "resourceGroups"),
            (providers, "providers"),
            (provider, "Microsoft.Compute"),
        ];
        if !words.iter().all(|(found, wanted)| found.eq_ignore_ascii_case(wanted)) || name.is_empty() {
            return None;
        }
        let scope = Scope { subscription: (*subscription).to_owned(), group: (*group).to_owned() };
        Some(scope.id(kind, name))
    }

    /// Reads an id that this provider has stored.
    pub(super) fn stored(text: &str) -> Result<Self> {
        Self::parse(text).ok_or_else(|| Error::corrupt(format!("not the id of a resource of Azure: {text:?}")))
    }

    /// Whether two ids mean the same resource.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.to_string().eq_ignore_ascii_case(&other.to_string())
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/providers/Microsoft.Compute/{}/{}", self.scope, self.kind, self.name)
    }
}

/// A region in the one form that ids and comparisons need: `West Europe` is `westeurope`.
pub(super) fn location(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_in_any_case_and_compared_without_it() {
        let text = "/subscriptions/S1/resourceGroups/rg1/providers/Microsoft.Compute/disks/pg-data";
        let id = ResourceId::parse(text).unwrap();
        assert_eq!((id.scope.group.as_str(), id.kind.as_str(), id.name.as_str()), ("rg1", "disks", "pg-data"));
        assert_eq!(id.to_string(), text);
        let loud = "/subscriptions/s1/resourcegroups/RG1/providers/microsoft.compute/Disks/PG-DATA";
        assert!(ResourceId::parse(loud).unwrap().same(&id));
        for bad in ["", "pg-data", "/subscriptions/s/resourceGroups/g", "/a/b/c/d/e/f/g/h", &format!("{text}/x")] {
            assert!(ResourceId::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_region_has_one_form() {
        assert_eq!(location("West Europe"), "westeurope");
    }
}
