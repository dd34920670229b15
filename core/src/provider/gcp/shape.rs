//! Kind, performance, key and place of a disk that is made of a snapshot: those of the original, unless the user wants others.
//!
//! A number of the original goes with its type: whoever asks for another type gets that one's defaults. A regional disk is made
//! again in its two zones if the instance is in one of them; elsewhere the new disk is a zonal one. Pure.

use google_cloud_compute_v1::model::{CustomerEncryptionKey, Disk};

use super::link::{Link, Scope};
use super::volumes::attribute::{
    DISK_KMS_KEY, DISK_TYPE, PROVISIONED_IOPS, PROVISIONED_THROUGHPUT, REPLICA_ZONES, STORAGE_POOL,
};
use crate::error::{Error, Result};
use crate::provider::options::GcpOptions;
use crate::provider::{Outlook, Ticket};

/// What a disk is made like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    kind: Option<String>,
    iops: Option<i64>,
    throughput: Option<i64>,
    key: Option<String>,
    /// The two zones of a regional disk; empty for a zonal one.
    pub(super) zones: Vec<String>,
}

/// Checks the options that need no cloud for it.
pub(super) fn check(options: &GcpOptions) -> Result<()> {
    match options.disk_replica_zones.len() {
        0 | 2 => Ok(()),
        many => Err(Error::invalid(format!("a regional disk has two zones, not {many}"))
            .with_hint("give --gcp-disk-replica-zone twice")),
    }
}

/// `europe-west1` of `europe-west1-b`.
fn region_of(zone: &str) -> &str {
    zone.rsplit_once('-').map_or(zone, |(region, _)| region)
}

/// Whether operations per second can be asked for (<https://cloud.google.com/compute/docs/disks/hyperdisks>).
fn takes_iops(kind: &str) -> bool {
    kind == "pd-extreme" || (kind.starts_with("hyperdisk-") && !matches!(kind, "hyperdisk-throughput" | "hyperdisk-ml"))
}

fn takes_throughput(kind: &str) -> bool {
    kind.starts_with("hyperdisk-") && kind != "hyperdisk-extreme"
}

impl Shape {
    /// The shape of a disk of this snapshot for an instance in `zone`.
    pub(super) fn of(ticket: &Ticket, options: &GcpOptions, zone: &str) -> Self {
        let recorded = |key: &str| ticket.attributes.get(key);
        let original = recorded(DISK_TYPE);
        let kind = options.disk_type.as_ref().or(original).cloned();
        let is_same = kind.as_ref() == original;
        let number = |asked: Option<u32>, key: &str, takes: fn(&str) -> bool| {
            let of_original = || recorded(key).filter(|_| is_same)?.parse::<i64>().ok();
            let takes_it = kind.as_deref().is_some_and(takes);
            asked.map(i64::from).or_else(of_original).filter(|_| takes_it)
        };
        let zones = match options.disk_replica_zones.as_slice() {
            [] => {
                recorded(REPLICA_ZONES).map(|zones| zones.split(',').map(str::to_owned).collect()).unwrap_or_default()
            }
            asked => asked.to_vec(),
        };
        Self {
            iops: number(options.disk_iops, PROVISIONED_IOPS, takes_iops),
            throughput: number(options.disk_throughput, PROVISIONED_THROUGHPUT, takes_throughput),
            key: options.disk_kms_key.as_ref().or(recorded(DISK_KMS_KEY)).cloned(),
            zones: if zones.iter().any(|one| one == zone) { zones } else { Vec::new() },
            kind,
        }
    }

    /// Where the disk will lie.
    pub(super) fn scope(&self, zone: &str) -> Scope {
        if self.zones.is_empty() { Scope::Zone(zone.to_owned()) } else { Scope::Region(region_of(zone).to_owned()) }
    }

    /// The body of a disk in this project and place.
    pub(super) fn apply(&self, mut body: Disk, project: &str, scope: &Scope) -> Disk {
        if let Some(kind) = &self.kind {
            body = body.set_type(Link::new(project, scope, "diskTypes", kind).to_string());
        }
        if let Some(iops) = self.iops {
            body = body.set_provisioned_iops(iops);
        }
        if let Some(throughput) = self.throughput {
            body = body.set_provisioned_throughput(throughput);
        }
        if let Some(key) = &self.key {
            body = body.set_disk_encryption_key(CustomerEncryptionKey::new().set_kms_key_name(key));
        }
        match self.zones.is_empty() {
            true => body,
            false => body.set_replica_zones(self.zones.iter().map(|zone| format!("projects/{project}/zones/{zone}"))),
        }
    }

    /// In words, and what the original had beyond it.
    pub(super) fn outlook(&self, ticket: &Ticket, zone: &str) -> Outlook {
        let mut like: Vec<String> = self.kind.iter().cloned().collect();
        like.extend(self.iops.map(|iops| format!("{iops} IOPS")));
        like.extend(self.throughput.map(|throughput| format!("{throughput} MiB/s")));
        like.extend(self.key.as_ref().map(|key| format!("key {key}")));
        like.extend((!self.zones.is_empty()).then(|| format!("regional in {}", self.zones.join(" and "))));
        let mut lost = Vec::new();
        if let Some(zones) = ticket.attributes.get(REPLICA_ZONES).filter(|_| self.zones.is_empty()) {
            let zones = zones.replace(',', " and ");
            lost.push(format!(
                "it is in {zone} only; the original was replicated in {zones} (see --gcp-disk-replica-zone)"
            ));
        }
        if let Some(pool) = ticket.attributes.get(STORAGE_POOL) {
            lost.push(format!("it is in no storage pool; the original was in {pool}"));
        }
        Outlook { like: like.join(", "), lost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(attributes: &[(&str, &str)]) -> Ticket {
        let attributes: std::collections::BTreeMap<_, _> = attributes.iter().copied().collect();
        let json = serde_json::json!({
            "snapshot": "projects/p/global/snapshots/s", "name": "s", "volume": "v", "root": "/", "method": "pd",
            "token": "0".repeat(32), "attributes": attributes,
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_disk_is_as_the_original_unless_asked_otherwise() {
        let hyper = ticket(&[
            (DISK_TYPE, "hyperdisk-balanced"),
            (PROVISIONED_IOPS, "6000"),
            (PROVISIONED_THROUGHPUT, "400"),
            (DISK_KMS_KEY, "k"),
        ]);
        let none = GcpOptions::default();
        let shape = Shape::of(&hyper, &none, "r-a");
        assert_eq!(shape.outlook(&hyper, "r-a").like, "hyperdisk-balanced, 6000 IOPS, 400 MiB/s, key k");
        let body = shape.apply(Disk::new(), "p", &shape.scope("r-a"));
        assert_eq!((body.provisioned_iops, body.provisioned_throughput), (Some(6000), Some(400)));
        assert_eq!(body.r#type.as_deref(), Some("projects/p/zones/r-a/diskTypes/hyperdisk-balanced"));
        let ssd = GcpOptions { disk_type: Some("pd-ssd".into()), disk_iops: Some(9), ..none };
        let shape = Shape::of(&hyper, &ssd, "r-a");
        assert_eq!((shape.iops, shape.throughput), (None, None), "a kind without them gets none");
    }

    #[test]
    fn a_regional_disk_stays_one_where_the_instance_is_in_one_of_its_zones() {
        let regional = ticket(&[(DISK_TYPE, "pd-ssd"), (REPLICA_ZONES, "r1-a,r1-b")]);
        let none = GcpOptions::default();
        let shape = Shape::of(&regional, &none, "r1-b");
        assert_eq!(shape.scope("r1-b"), Scope::Region("r1".into()));
        let body = shape.apply(Disk::new(), "p", &shape.scope("r1-b"));
        assert_eq!(body.replica_zones, ["projects/p/zones/r1-a", "projects/p/zones/r1-b"]);
        assert!(shape.outlook(&regional, "r1-b").lost.is_empty());
        let shape = Shape::of(&regional, &none, "r1-c");
        assert_eq!(shape.scope("r1-c"), Scope::Zone("r1-c".into()));
        assert!(shape.outlook(&regional, "r1-c").lost[0].contains("replicated in r1-a and r1-b"));
        let asked = GcpOptions { disk_replica_zones: vec!["r1-c".into(), "r1-d".into()], ..none };
        assert_eq!(Shape::of(&regional, &asked, "r1-c").zones, ["r1-c", "r1-d"]);
    }

    #[test]
    fn a_regional_disk_has_two_zones() {
        let check = |zones: &[&str]| {
            let disk_replica_zones = zones.iter().map(|&zone| zone.to_owned()).collect();
            check(&GcpOptions { disk_replica_zones, ..GcpOptions::default() })
        };
        assert!(check(&[]).is_ok() && check(&["a", "b"]).is_ok() && check(&["a"]).is_err());
    }
}
