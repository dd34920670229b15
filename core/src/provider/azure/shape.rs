//! Kind, performance, key and network access of a disk that is made of a snapshot: those of the original, unless the user wants
//! others.
//!
//! Azure gives a new disk none of it by itself: an Ultra disk gets the least performance, and any disk a key of the platform and
//! access from everywhere. What the original had is kept in [`Like`], one tag of its snapshots. Sets of keys and disk accesses
//! are of one region. Pure.

use std::collections::BTreeMap;

use azure_mgmt_compute::package_2024_07_01::models;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::arm::{key, location};
use super::volumes::{api_name, is_slow, network};
use crate::provider::options::AzureOptions;
use crate::provider::{Instance, Outlook, Ticket};

/// What is kept of a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Like {
    #[serde(skip_serializing_if = "Option::is_none")]
    iops: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mbps: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public: Option<String>,
    /// Attached to several machines at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    shares: Option<i32>,
}

/// Writes down what a disk is like.
pub(super) fn keep(disk: &models::Disk, sku: Option<&str>, attributes: &mut BTreeMap<String, String>) {
    let Some(properties) = &disk.properties else { return };
    let can_be_set = sku.is_some_and(is_slow);
    let mut closed = BTreeMap::new();
    network::keep(properties, &mut closed);
    let like = Like {
        iops: properties.disk_iops_read_write.filter(|_| can_be_set),
        mbps: properties.disk_m_bps_read_write.filter(|_| can_be_set),
        tier: properties.tier.clone(),
        zone: disk.zones.first().cloned(),
        network: closed.remove(network::POLICY),
        public: closed.remove(network::PUBLIC),
        shares: properties.max_shares.filter(|shares| *shares > 1),
    };
    if like != Like::default()
        && let Ok(text) = serde_json::to_string(&like)
    {
        attributes.insert(key::LIKE.to_owned(), text);
    }
    let set = properties.encryption.as_ref().and_then(|encryption| encryption.disk_encryption_set_id.clone());
    attributes.extend(set.map(|set| (key::KEY_SET.to_owned(), set)));
}

/// What a disk is made like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) sku: String,
    iops: Option<i64>,
    mbps: Option<i64>,
    tier: Option<String>,
    key_set: Option<String>,
    network: Option<String>,
    public: Option<String>,
    access: Option<String>,
    lost: Vec<String>,
}

impl Shape {
    /// The shape of a disk of this snapshot for this machine. `sku`: that of the source, where the ticket does not know it.
    pub(super) fn of(ticket: &Ticket, options: &AzureOptions, instance: &Instance, sku: Option<String>) -> Self {
        let recorded = |key: &str| ticket.attributes.get(key);
        let original = recorded(key::DISK_SKU).cloned().or(sku);
        let like: Like = recorded(key::LIKE).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let sku = options.disk_sku.clone().or_else(|| original.clone()).unwrap_or_else(|| ANY_SKU.to_owned());
        let is_same = original.as_deref() == Some(&sku);
        let place = instance.attributes.get(key::LOCATION).map(|place| location(place));
        let is_here = recorded(key::LOCATION).map(|place| location(place)) == place;
        let mut lost = Vec::new();
        let mut here = |what: &str, value: Option<&String>| {
            if let Some(value) = value.filter(|_| !is_here) {
                lost.push(format!("{what} {value} is of another region"));
            }
            value.filter(|_| is_here).cloned()
        };
        let key_set = match &options.restored_disk_encryption_set {
            Some(asked) => Some(asked.clone()),
            None => here("the disk encryption set", recorded(key::KEY_SET)),
        };
        let access = here("the disk access", recorded(network::ACCESS));
        let private = like.network.as_deref() == Some("AllowPrivate");
        let network = match &like.network {
            // Private access needs the disk access; without it nobody gets any.
            Some(_) if private && access.is_none() => Some("DenyAll".to_owned()),
            policy => policy.clone(),
        };
        if private && access.is_none() {
            lost.push("it can be read over no network, as its private access cannot be given back".to_owned());
        }
        let zone = instance.attributes.get(key::ZONE);
        if let Some(was) = like.zone.as_ref().filter(|was| Some(*was) != zone && !sku.ends_with("_ZRS")) {
            let now = zone.map_or_else(|| "no zone".to_owned(), |zone| format!("zone {zone}"));
            lost.push(format!("it is in {now}, where the machine is; the original was in zone {was}"));
        }
        if let Some(shares) = like.shares {
            lost.push(format!("it cannot be attached to {shares} machines at once (maxShares)"));
        }
        let asked = |number: Option<u32>, of_original: Option<i64>| {
            number.map(i64::from).or(of_original.filter(|_| is_same)).filter(|_| is_slow(&sku))
        };
        Self {
            iops: asked(options.disk_iops, like.iops),
            mbps: asked(options.disk_mbps, like.mbps),
            tier: options.disk_tier.clone().or(like.tier.filter(|_| is_same)),
            key_set,
            network,
            public: like.public,
            access,
            lost,
            sku,
        }
    }

    /// The properties of the new disk.
    pub(super) fn apply(&self, properties: &mut models::DiskProperties) {
        let text = |value: &Option<String>| value.clone().map(Value::String);
        properties.disk_iops_read_write = self.iops;
        properties.disk_m_bps_read_write = self.mbps;
        properties.tier.clone_from(&self.tier);
        properties.encryption = self.key_set.as_ref().map(|set| models::Encryption {
            disk_encryption_set_id: Some(set.clone()),
            type_: Some(models::EncryptionType::EncryptionAtRestWithCustomerKey),
        });
        properties.network_access_policy = text(&self.network).and_then(|value| serde_json::from_value(value).ok());
        properties.public_network_access = text(&self.public).and_then(|value| serde_json::from_value(value).ok());
        properties.disk_access_id = self.access.clone().filter(|_| self.network.as_deref() == Some("AllowPrivate"));
    }

    /// In words, and what the original had beyond it.
    pub(super) fn outlook(self) -> Outlook {
        let mut like = vec![self.sku];
        like.extend(self.iops.map(|iops| format!("{iops} IOPS")));
        like.extend(self.mbps.map(|mbps| format!("{mbps} MB/s")));
        like.extend(self.tier.map(|tier| format!("tier {tier}")));
        let last = |id: &str| id.rsplit('/').next().unwrap_or_default().to_owned();
        like.extend(self.key_set.map(|set| format!("disk encryption set {}", last(&set))));
        like.extend(self.network.map(|network| format!("network access {network}")));
        Outlook { like: like.join(", "), lost: self.lost }
    }
}

/// The kind of disk where nothing says which: every size of machine takes it.
const ANY_SKU: &str = "StandardSSD_LRS";

/// The name of the kind of a disk.
pub(super) fn sku_name(disk: &models::Disk) -> Option<String> {
    disk.sku.as_ref().and_then(|sku| sku.name.as_ref()).and_then(api_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(disk: Value) -> BTreeMap<String, String> {
        let disk: models::Disk = serde_json::from_value(disk).unwrap();
        let sku = sku_name(&disk);
        let mut attributes: BTreeMap<String, String> = [(key::LOCATION.to_owned(), "westeurope".to_owned())].into();
        attributes.extend(sku.clone().map(|sku| (key::DISK_SKU.to_owned(), sku)));
        keep(&disk, sku.as_deref(), &mut attributes);
        network::keep(disk.properties.as_ref().unwrap(), &mut attributes);
        attributes
    }

    fn ticket(attributes: &BTreeMap<String, String>) -> Ticket {
        let json = serde_json::json!({
            "snapshot": "/s", "name": "s", "volume": "v", "root": "/", "method": "managed-disk",
            "token": "0".repeat(32), "attributes": attributes,
        });
        serde_json::from_value(json).unwrap()
    }

    fn machine(place: &str, zone: &str) -> Instance {
        let attributes = [(key::LOCATION, place), (key::ZONE, zone)].map(|(key, value)| (key.into(), value.into()));
        Instance { name: "vm".into(), attributes: attributes.into() }
    }

    #[test]
    fn a_disk_is_as_the_original_unless_asked_otherwise() {
        let ultra = ticket(&kept(serde_json::json!({
            "location": "westeurope", "sku": {"name": "UltraSSD_LRS"}, "zones": ["1"],
            "properties": {
                "creationData": {"createOption": "Empty"}, "diskIOPSReadWrite": 9000, "diskMBpsReadWrite": 300,
                "encryption": {"diskEncryptionSetId": "/x/des1"}, "networkAccessPolicy": "AllowPrivate",
                "diskAccessId": "/x/access1",
            },
        })));
        let none = AzureOptions::default();
        let shape = Shape::of(&ultra, &none, &machine("westeurope", "1"), None);
        let mut properties =
            models::DiskProperties::new(models::CreationData::new(models::creation_data::CreateOption::Copy));
        shape.apply(&mut properties);
        assert_eq!((properties.disk_iops_read_write, properties.disk_m_bps_read_write), (Some(9000), Some(300)));
        assert_eq!(properties.disk_access_id.as_deref(), Some("/x/access1"));
        assert_eq!(properties.encryption.unwrap().disk_encryption_set_id.as_deref(), Some("/x/des1"));
        let outlook = shape.outlook();
        assert_eq!(
            outlook.like,
            "UltraSSD_LRS, 9000 IOPS, 300 MB/s, disk encryption set des1, network access AllowPrivate"
        );
        assert_eq!(outlook.lost, [""; 0]);
        // Another region and another zone.
        let shape = Shape::of(&ultra, &none, &machine("northeurope", "2"), None);
        assert_eq!(shape.network.as_deref(), Some("DenyAll"), "never more open than the original");
        assert_eq!(shape.outlook().lost.len(), 4);
        let asked = AzureOptions {
            disk_sku: Some("Premium_LRS".into()),
            disk_tier: Some("P40".into()),
            restored_disk_encryption_set: Some("/x/des2".into()),
            ..none
        };
        let shape = Shape::of(&ultra, &asked, &machine("westeurope", "1"), None);
        assert_eq!((shape.iops, shape.tier.as_deref(), shape.key_set.as_deref()), (None, Some("P40"), Some("/x/des2")));
    }

    #[test]
    fn of_an_ordinary_disk_nothing_but_its_tier_and_zone_is_kept() {
        let attributes = kept(serde_json::json!({
            "location": "westeurope", "sku": {"name": "Premium_LRS"}, "zones": ["1"],
            "properties": {
                "creationData": {"createOption": "Empty"}, "diskIOPSReadWrite": 120, "tier": "P4",
                "networkAccessPolicy": "AllowAll", "publicNetworkAccess": "Enabled", "maxShares": 1,
            },
        }));
        assert_eq!(attributes[key::LIKE], r#"{"tier":"P4","zone":"1"}"#);
        let outlook =
            Shape::of(&ticket(&attributes), &AzureOptions::default(), &machine("westeurope", "1"), None).outlook();
        assert_eq!((outlook.like.as_str(), outlook.lost.len()), ("Premium_LRS, tier P4", 0));
        let stock = Shape::of(&ticket(&BTreeMap::new()), &AzureOptions::default(), &machine("westeurope", "1"), None);
        assert_eq!(stock.outlook().like, ANY_SKU);
    }
}
