//! Names and tags of snapshots and disks, and the rules that Azure has for them.
//!
//! * Names: 1 to 80 of `a-z A-Z 0-9 _ -` (Snapshots - Create Or Update,
//!   <https://learn.microsoft.com/rest/api/compute/snapshots/create-or-update>), beginning with a letter or digit and ending with
//!   one or `_` (<https://learn.microsoft.com/azure/azure-resource-manager/management/resource-name-rules>).
//! * Tags: at most 50; names at most 512 characters without `<>%&\?/` and the same in any case, values at most 256
//!   (<https://learn.microsoft.com/azure/azure-resource-manager/management/tag-resources>).
//!
//! The invariant: a [`Ticket`] is a function of a snapshot's id and tags alone, so that whoever finds a snapshot has the ticket
//! that its maker had. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::METHOD;
use super::arm::{ResourceId, Scope, key};
use super::volumes::network;
use crate::error::{Error, Result};
use crate::id::Token;
use crate::provider::names::{NameRules, hash, quoted};
use crate::provider::{CreateRequest, Ticket, VolumeSnapshot};

/// The rules for the name of a snapshot or a disk.
pub(super) const RULES: NameRules = NameRules {
    longest: 80,
    allowed: |c| c.is_ascii_alphanumeric() || c == '_' || c == '-',
    first: |c| c.is_ascii_alphanumeric(),
    last: |c| c.is_ascii_alphanumeric() || c == '_',
};

/// What the names of all our tags begin with.
const OURS: &str = "barman_snap_";
pub(super) const TOKEN: &str = "barman_snap_token";
pub(super) const MARK: &str = "barman_snap_mark";
const BACKUP: &str = "barman_snap_backup";
const VOLUME: &str = "barman_snap_volume";
const ROOT: &str = "barman_snap_root";
/// The id of the snapshot that a snapshot is a copy of.
pub(super) const COPY_OF: &str = "barman_snap_copy_of";
/// On a disk that a restore has made: the name of its snapshot.
pub(super) const RESTORED: &str = "barman_snap_restored_from";
/// Attributes of a volume that its snapshots keep.
const KEPT: [(&str, &str); 8] = [
    (key::LOCATION, "barman_snap_location"),
    (key::LUN, "barman_snap_lun"),
    (key::DISK, "barman_snap_disk"),
    (key::DISK_SKU, "barman_snap_disk_sku"),
    (key::SECTOR, "barman_snap_sector_size"),
    (key::LIKE, "barman_snap_disk_like"),
    (key::KEY_SET, "barman_snap_disk_encryption_set"),
    (network::ACCESS, "barman_snap_disk_access"),
];
/// The most tags of a resource, and how many of ours there can be at once.
const MOST_TAGS: usize = 50;
const MOST_OURS: usize = 14;
const LONGEST_NAME: usize = 512;
const LONGEST_VALUE: usize = 256;

/// The tags of a snapshot: those of the user and ours.
pub(super) fn tags(request: &CreateRequest, snapshot: &VolumeSnapshot) -> BTreeMap<String, String> {
    let volume = &snapshot.volume;
    let mut tags = request.tags.clone();
    let mut put = |name: &str, value: &str| {
        // What does not fit is found again by the volume's name, see `ticket`.
        if value.chars().count() <= LONGEST_VALUE {
            tags.insert(name.to_owned(), value.to_owned());
        }
    };
    put(TOKEN, request.token.as_str());
    put(MARK, &request.mark);
    put(BACKUP, &request.backup_id.to_string());
    put(VOLUME, &volume.id);
    put(ROOT, volume.root.to_str().unwrap_or_default());
    for (attribute, tag) in KEPT {
        if let Some(value) = volume.attributes.get(attribute) {
            put(tag, value);
        }
    }
    tags
}

/// The ticket of a snapshot with these tags; `None` if it is none of ours.
pub(super) fn ticket(id: &ResourceId, tags: &BTreeMap<String, String>) -> Option<Ticket> {
    let token: Token = tags.get(TOKEN)?.parse().ok()?;
    let mut attributes = BTreeMap::new();
    id.scope.put(&mut attributes);
    for (attribute, tag) in KEPT {
        if let Some(value) = tags.get(tag) {
            attributes.insert(attribute.to_owned(), value.clone());
        }
    }
    Some(Ticket {
        snapshot: id.to_string(),
        name: id.name.clone(),
        volume: tags.get(VOLUME)?.clone(),
        root: PathBuf::from(tags.get(ROOT).map_or("", String::as_str)),
        method: METHOD.to_owned(),
        token,
        attributes,
    })
}

/// The ticket that [`create`](super::snapshots::create) makes.
pub(super) fn planned(request: &CreateRequest, snapshot: &VolumeSnapshot) -> Result<Ticket> {
    let scope = scope(snapshot)?;
    ticket(&scope.id("snapshots", &snapshot.name), &tags(request, snapshot))
        .ok_or_else(|| Error::invalid(format!("the name of the disk is too long for a tag: {}", snapshot.volume.id)))
}

/// A name that fits, made of one that may be too long: its beginning, and a hash of the whole.
pub(super) fn fitted(name: &str) -> String {
    if RULES.fits(name) {
        return name.to_owned();
    }
    let head: String = name.chars().filter(|c| (RULES.allowed)(*c)).take(RULES.longest - 9).collect();
    format!("{head}-{:08x}", hash(name))
}

/// The name of the disk that a restore makes of a snapshot.
pub(super) fn disk_name(snapshot: &str, token: &Token) -> String {
    fitted(&format!("{snapshot}-restore-{}", &token.as_str()[..8]))
}

/// Where the snapshot of a volume is put: as stock does, into the resource group of the virtual machine, whatever group its
/// disk is in. (Azure wants it in the subscription of the disk, which is that of the machine.)
pub(super) fn scope(snapshot: &VolumeSnapshot) -> Result<Scope> {
    Scope::of(&snapshot.volume.attributes)
        .ok_or_else(|| Error::corrupt(format!("volume {} has no resource group", snapshot.volume.id)))
}

/// Tags as the API gives them.
pub(super) fn read_tags(tags: Option<&Value>) -> BTreeMap<String, String> {
    let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    tags.and_then(Value::as_object).map(|tags| tags.iter().filter_map(text).collect()).unwrap_or_default()
}

/// Tags as the API takes them.
pub(super) fn write_tags(tags: &BTreeMap<String, String>) -> Value {
    Value::Object(tags.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect::<Map<_, _>>())
}

/// Checks names and tags of all requests; the error names all that is wrong.
pub(super) fn check(requests: &[CreateRequest]) -> Result<()> {
    let mut wrong = Vec::new();
    let mut names = BTreeSet::new();
    for snapshot in requests.iter().flat_map(|request| &request.volumes) {
        if !RULES.fits(&snapshot.name) {
            wrong.push(format!("{:?} is no name for a snapshot", snapshot.name));
        } else if !names.insert(snapshot.name.to_lowercase()) {
            wrong.push(format!("two snapshots would have the name {}", snapshot.name));
        }
    }
    for request in requests {
        wrong.extend(wrong_tags(&request.tags));
    }
    wrong.dedup();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::invalid(format!("Azure would refuse: {}", wrong.join("; "))))
}

fn wrong_tags(tags: &BTreeMap<String, String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    if tags.len() + MOST_OURS > MOST_TAGS {
        wrong.push(format!("{} tags, and there is room for {}", tags.len(), MOST_TAGS - MOST_OURS));
    }
    for (key, value) in tags {
        let (lower, name) = (key.to_lowercase(), quoted(key));
        if key.is_empty() || key.chars().count() > LONGEST_NAME {
            wrong.push(format!("the name of tag {name} has not 1 to {LONGEST_NAME} characters"));
        }
        if let Some(bad) = key.chars().find(|c| "<>%&\\?/".contains(*c) || c.is_control()) {
            wrong.push(format!("the name of tag {name} has a {bad:?}"));
        }
        if ["microsoft", "azure", "windows"].iter().any(|reserved| lower.starts_with(reserved)) {
            wrong.push(format!("the name of tag {name} is reserved by Azure"));
        }
        if lower.starts_with(OURS) {
            wrong.push(format!("the name of tag {name} is reserved for this program"));
        }
        if value.chars().count() > LONGEST_VALUE {
            wrong.push(format!("the value of tag {name} has more than {LONGEST_VALUE} characters"));
        }
        if !seen.insert(lower) {
            wrong.push(format!("tag {name} is there twice; case does not count"));
        }
    }
    wrong
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::provider::{Instance, Volume};

    /// A volume on LUN 10 in a resource group `rg1`.
    pub(in super::super) fn volume(id: &str) -> Volume {
        let attributes = [
            (key::SUBSCRIPTION, "s1"),
            (key::GROUP, "rg1"),
            (key::LOCATION, "westeurope"),
            (key::LUN, "10"),
            (key::DISK, "/subscriptions/s1/resourceGroups/rg2/providers/Microsoft.Compute/disks/pg-data"),
            (key::DISK_SKU, "Premium_LRS"),
        ];
        Volume {
            id: id.into(),
            root: "/var/lib/pgsql".into(),
            mount_point: "/var/lib/pgsql".into(),
            mount_options: "rw,noatime".into(),
            device: "/dev/sdc".into(),
            method: METHOD.into(),
            attributes: attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            file_systems: Vec::new(),
        }
    }

    /// A request for one volume.
    pub(in super::super) fn request(volume: Volume, tags: &[(&str, &str)]) -> CreateRequest {
        let backup_id = "20260529T101112".parse().unwrap();
        CreateRequest {
            token: Token::from_bits(7),
            mark: "main.0123456789abcdef".into(),
            instance: Instance { name: "vm1".into(), attributes: BTreeMap::new() },
            volumes: vec![VolumeSnapshot { name: RULES.snapshot_name(&volume.id, &backup_id), volume }],
            tags: tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            backup_id,
        }
    }

    fn error(tags: &[(&str, &str)]) -> String {
        check(&[request(volume("pg-data"), tags)]).unwrap_err().message().to_owned()
    }

    #[test]
    fn who_finds_a_snapshot_has_the_ticket_of_its_maker() {
        let request = request(volume("pg-data"), &[("team", "db")]);
        let snapshot = &request.volumes[0];
        let made = planned(&request, snapshot).unwrap();
        assert_eq!(made.name, "pg-data-20260529t101112");
        assert_eq!((made.volume.as_str(), made.root.to_str()), ("pg-data", Some("/var/lib/pgsql")));
        assert_eq!(made.attributes[key::LUN], "10");
        let tags = read_tags(Some(&write_tags(&tags(&request, snapshot))));
        assert_eq!(tags["team"], "db");
        let found = ticket(&scope(snapshot).unwrap().id("snapshots", &snapshot.name), &tags).unwrap();
        assert_eq!(found, made);
        assert!(ticket(&scope(snapshot).unwrap().id("snapshots", "x"), &BTreeMap::new()).is_none());
    }

    #[test]
    fn names_are_those_of_stock_where_they_fit() {
        let id = "20260529T101112".parse().unwrap();
        assert_eq!(RULES.snapshot_name("PG_data-1", &id), "PG_data-1-20260529t101112");
        for odd in ["pg.data", "rg2/pg-data", &"x".repeat(80), "_x"] {
            let name = RULES.snapshot_name(odd, &id);
            assert!(RULES.fits(&name) && name != format!("{odd}-20260529t101112"), "{name}");
        }
    }

    #[test]
    fn names_of_copies_and_disks_fit_and_stay_apart() {
        assert_eq!(disk_name("pg-data-x", &Token::from_bits(7)), "pg-data-x-restore-00000000");
        let long = [format!("{}a", "x".repeat(80)), format!("{}b", "x".repeat(80))].map(|name| fitted(&name));
        assert!(long.iter().all(|name| RULES.fits(name)) && long[0] != long[1], "{long:?}");
    }

    #[test]
    fn what_azure_would_refuse_is_refused_before_and_named() {
        assert!(check(&[request(volume("pg-data"), &[("Team", "DB"), ("a b", "")])]).is_ok());
        assert!(error(&[("a/b", "x")]).contains("\"a/b\" has a '/'"));
        assert!(error(&[("a", "x"), ("A", "y")]).contains("case does not count"));
        assert!(error(&[("azure-x", "")]).contains("reserved by Azure"));
        assert!(error(&[("barman_snap_token", "")]).contains("reserved for this program"));
        assert!(error(&[("a", &"x".repeat(257))]).contains("more than 256"));
        assert!(error(&[("", "x")]).contains("1 to 512"));
        let many: Vec<(String, String)> = (0..40).map(|i| (format!("t{i}"), String::new())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert!(error(&many).contains(&format!("40 tags, and there is room for {}", MOST_TAGS - MOST_OURS)));
        let mut twice = request(volume("pg-data"), &[]);
        twice.volumes.push(twice.volumes[0].clone());
        assert!(check(&[twice]).unwrap_err().message().contains("two snapshots would have the name"));
    }
}
