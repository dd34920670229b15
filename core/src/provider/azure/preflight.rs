//! What can be told before a backup starts: names, tags, limits of each disk, permissions.
//!
//! Limits of incremental snapshots: 500 of a disk, 7 of a disk in 5 minutes; of Ultra disks and Premium SSD v2 at most 3 whose
//! data is still being copied
//! (<https://learn.microsoft.com/azure/virtual-machines/disks-incremental-snapshots>, "Restrictions").
//!
//! Permissions are those that the service itself says the caller has in a group (`Permissions - List For Resource Group`,
//! <https://learn.microsoft.com/rest/api/authorization/permissions>). Who may not ask this is not refused: the first call tells.

use std::time::Duration;

use azure_mgmt_compute::package_2024_07_01::models;
use serde_json::Value;

use super::arm::{ResourceId, Scope, key};
use super::errors::Call;
use super::snapshots::{self, DELETE, READ, WRITE};
use super::volumes::{READ_DISK, is_slow};
use super::{AzureProvider, names};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::provider::{CreateRequest, Findings, VolumeSnapshot};

const MOST: usize = 500;
const MOST_LATELY: usize = 7;
const LATELY: i64 = 300;
const MOST_PENDING: usize = 3;
/// What reading the data of a disk into a snapshot needs.
const READ_DATA: &str = "Microsoft.Compute/disks/beginGetAccess/action";
const PERMISSIONS: &str = "Microsoft.Authorization/permissions/read";

/// All checks; the first error.
pub(super) async fn check_requests(azure: &AzureProvider, requests: &[CreateRequest]) -> Result<()> {
    grouping(requests)?;
    names::check(requests)?;
    permissions(azure, requests).await?;
    limits(azure, requests).await
}

/// All checks, a line for each.
pub(super) async fn findings(azure: &AzureProvider, requests: &[CreateRequest]) -> Findings {
    let mut findings = Findings::default();
    let count = requests.iter().map(|request| request.volumes.len()).sum::<usize>();
    let named = grouping(requests).and_then(|()| names::check(requests));
    findings.take("names and tags", named, |()| format!("{count} snapshots"));
    findings.take("permissions", permissions(azure, requests).await, |known| match known {
        true => "snapshots can be made and deleted".to_owned(),
        false => format!("not known, as the role lacks {PERMISSIONS}"),
    });
    findings.take("snapshot limits", limits(azure, requests).await, |()| "room for one more of each disk".to_owned());
    findings
}

fn grouping(requests: &[CreateRequest]) -> Result<()> {
    if requests.iter().any(|request| request.volumes.len() != 1) { Err(super::group::refused()) } else { Ok(()) }
}

fn wanted(requests: &[CreateRequest]) -> impl Iterator<Item = &VolumeSnapshot> {
    requests.iter().flat_map(|request| &request.volumes)
}

async fn limits(azure: &AzureProvider, requests: &[CreateRequest]) -> Result<()> {
    let mut scopes = wanted(requests).map(names::scope).collect::<Result<Vec<_>>>()?;
    scopes.sort();
    scopes.dedup();
    let now = azure.clients.clock().now().timestamp();
    for scope in scopes {
        let existing = snapshots::list_group(azure, &scope).await?;
        for snapshot in wanted(requests).filter(|snapshot| names::scope(snapshot).is_ok_and(|own| own == scope)) {
            limit(snapshot, &existing, now)?;
        }
    }
    Ok(())
}

/// Whether one more snapshot of a disk can be made. Counts what is in the group of the machine; there may be others.
fn limit(wanted: &VolumeSnapshot, existing: &[models::Snapshot], now: i64) -> Result<()> {
    let name = |snapshot: &models::Snapshot| snapshot.resource.name.clone().unwrap_or_default();
    if existing.iter().any(|snapshot| name(snapshot).eq_ignore_ascii_case(&wanted.name)) {
        return Err(Error::new(ErrorKind::Conflict, format!("there is a snapshot {} already", wanted.name)));
    }
    let attributes = &wanted.volume.attributes;
    let Some(disk) = attributes.get(key::DISK).and_then(|id| ResourceId::parse(id)) else { return Ok(()) };
    let of_disk: Vec<&models::SnapshotProperties> = existing
        .iter()
        .filter_map(|snapshot| snapshot.properties.as_ref())
        .filter(|properties| {
            let source = properties.creation_data.source_resource_id.as_deref().and_then(ResourceId::parse);
            properties.incremental == Some(true) && source.is_some_and(|source| source.same(&disk))
        })
        .collect();
    let full = |text: String| Error::new(ErrorKind::Exhausted, format!("disk {}: {text}", wanted.volume.id));
    if of_disk.len() >= MOST {
        return Err(full(format!("it has {} snapshots, the most that Azure allows", of_disk.len()))
            .with_hint("delete old backups"));
    }
    let mut lately: Vec<i64> = of_disk
        .iter()
        .filter_map(|properties| Some(properties.time_created?.unix_timestamp()))
        .filter(|made| now - made < LATELY)
        .collect();
    if lately.len() >= MOST_LATELY {
        lately.sort_unstable();
        let wait = lately[lately.len() - MOST_LATELY] + LATELY - now;
        let wait = Duration::from_secs(u64::try_from(wait.max(1)).unwrap_or(1));
        return Err(full(format!(
            "{} snapshots were made of it in 5 minutes, the most that Azure allows",
            lately.len()
        ))
        .with_retry(Retry::After(wait))
        .with_hint(format!("wait {} s", wait.as_secs())));
    }
    if attributes.get(key::DISK_SKU).is_some_and(|sku| is_slow(sku)) {
        let pending = of_disk.iter().filter(|properties| properties.completion_percent.is_none_or(|done| done < 100.0));
        let pending = pending.count();
        if pending >= MOST_PENDING {
            return Err(full(format!(
                "the data of {pending} snapshots is still being copied, the most that Azure allows"
            ))
            .with_retry(Retry::After(Duration::from_secs(60)))
            .with_hint("wait until they are complete"));
        }
    }
    Ok(())
}

/// Whether the service says that all is permitted; `false` if it does not say.
async fn permissions(azure: &AzureProvider, requests: &[CreateRequest]) -> Result<bool> {
    let mut needed: Vec<(Scope, &'static str)> = Vec::new();
    for snapshot in wanted(requests) {
        let scope = names::scope(snapshot)?;
        needed.extend([READ, WRITE, DELETE].map(|action| (scope.clone(), action)));
        if let Some(disk) = snapshot.volume.attributes.get(key::DISK).and_then(|id| ResourceId::parse(id)) {
            needed.extend([READ_DISK, READ_DATA].map(|action| (disk.scope.clone(), action)));
        }
    }
    needed.sort();
    needed.dedup();
    let mut missing = Vec::new();
    let mut known: Option<(Scope, Value)> = None;
    for (scope, action) in needed {
        let held = match known.take() {
            Some((of, held)) if of == scope => held,
            _ => {
                let subject = format!("the permissions in resource group {}", scope.group);
                let address = format!("{scope}/providers/Microsoft.Authorization/permissions?api-version=2022-04-01");
                match azure.clients.get(Call { action: PERMISSIONS, subject: &subject }, &address).await {
                    Ok(held) => held,
                    Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(false),
                    Err(error) => return Err(error),
                }
            }
        };
        if !permits(&held, action) {
            missing.push(format!("{action} in resource group {}", scope.group));
        }
        known = Some((scope, held));
    }
    if missing.is_empty() {
        return Ok(true);
    }
    Err(Error::new(ErrorKind::PermissionDenied, format!("Azure would not permit: {}", missing.join(", ")))
        .with_hint("give the identity a role with these actions; see docs/permissions/azure.md"))
}

/// Whether one of the roles permits an action and does not take it back.
fn permits(held: &Value, action: &str) -> bool {
    let matches = |role: &Value, list: &str| {
        let patterns = role.get(list).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        patterns.into_iter().any(|pattern| fits(&pattern.to_lowercase(), &action.to_lowercase()))
    };
    let roles = held.get("value").and_then(Value::as_array).into_iter().flatten();
    roles.into_iter().any(|role| matches(role, "actions") && !matches(role, "notActions"))
}

/// Whether a text fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text
            .strip_prefix(head)
            .is_some_and(|tail| (0..=tail.len()).any(|at| tail.is_char_boundary(at) && fits(rest, &tail[at..]))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::tests;
    use super::*;

    const NOW: i64 = 1_780_000_000;

    fn snapshot(name: &str, age: i64, percent: Option<f64>) -> models::Snapshot {
        let volume = tests::volume("pg-data");
        let mut snapshot: models::Snapshot = serde_json::from_value(serde_json::json!({
            "name": name, "location": "westeurope",
            "properties": {
                "incremental": true,
                "creationData": {"createOption": "Copy", "sourceResourceId": volume.attributes[key::DISK].to_uppercase()
                    .replace("SUBSCRIPTIONS", "subscriptions")},
                "completionPercent": percent,
            },
        }))
        .unwrap();
        let properties = snapshot.properties.as_mut().unwrap();
        let made = chrono::DateTime::from_timestamp(NOW - age, 0).unwrap().to_rfc3339();
        properties.time_created = azure_core::date::parse_rfc3339(&made).ok();
        snapshot
    }

    fn check(sku: &str, existing: &[models::Snapshot]) -> Result<()> {
        let mut volume = tests::volume("pg-data");
        volume.attributes.insert(key::DISK_SKU.into(), sku.into());
        limit(&tests::request(volume, &[]).volumes[0], existing, NOW)
    }

    #[test]
    fn seven_snapshots_of_a_disk_in_five_minutes_are_the_most() {
        let six: Vec<_> = (0..6).map(|i| snapshot(&format!("s{i}"), 10 * i, Some(100.0))).collect();
        assert!(check("Premium_LRS", &six).is_ok());
        let mut seven = six.clone();
        seven.push(snapshot("s6", 290, Some(100.0)));
        let error = check("Premium_LRS", &seven).unwrap_err();
        assert_eq!(error.retry(), Retry::After(Duration::from_secs(10)), "{error}");
        seven[6] = snapshot("s6", 301, Some(100.0));
        assert!(check("Premium_LRS", &seven).is_ok());
    }

    #[test]
    fn three_snapshots_of_a_slow_disk_may_be_pending() {
        let pending: Vec<_> = (0..3).map(|i| snapshot(&format!("s{i}"), 1000, Some(40.0))).collect();
        assert!(check("Premium_LRS", &pending).is_ok());
        assert!(check("UltraSSD_LRS", &pending[..2]).is_ok());
        assert_eq!(check("PremiumV2_LRS", &pending).unwrap_err().kind(), ErrorKind::Exhausted);
    }

    #[test]
    fn a_name_that_is_taken_is_a_conflict() {
        let taken = [snapshot("PG-data-20260529T101112", 1000, None)];
        assert_eq!(check("Premium_LRS", &taken).unwrap_err().kind(), ErrorKind::Conflict);
    }

    #[test]
    fn permissions_are_read_as_the_service_means_them() {
        let held = |actions: &[&str], not: &[&str]| serde_json::json!({"value": [{"actions": ["Microsoft.Network/*"], "notActions": []}, {"actions": actions, "notActions": not}]});
        for (actions, not, expected) in [
            (vec!["*"], vec![], true),
            (vec!["*/read"], vec![], false),
            (vec!["Microsoft.Compute/*"], vec!["Microsoft.Compute/snapshots/*"], false),
            (vec!["microsoft.compute/snapshots/Write"], vec![], true),
            (vec!["Microsoft.Compute/*/write"], vec!["Microsoft.Compute/snapshots/delete"], true),
            (vec![], vec![], false),
        ] {
            assert_eq!(permits(&held(&actions, &not), WRITE), expected, "{actions:?} {not:?}");
        }
    }
}
