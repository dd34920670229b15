//! What stock Barman writes and reads about snapshots on Azure, `snapshots_info`. Pure.

use super::METHOD;
use super::arm::{Scope, key};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, Token};
use crate::model::{CloudSnapshot, CloudSnapshots, Literal, ProviderInfo, SnapshotDetails, SnapshotRecord};
use crate::provider::{Instance, Ticket};

/// The field as stock writes it. A stock reader looks for all snapshots in one resource group, the one that they are put in.
pub(super) fn snapshots_info(instance: &Instance, snapshots: &[SnapshotRecord]) -> Literal {
    let scope = snapshots
        .first()
        .and_then(|record| Scope::of(&record.ticket.attributes))
        .or_else(|| Scope::of(&instance.attributes));
    let one = |record: &SnapshotRecord| CloudSnapshot {
        mount_options: Some(record.mount_options.clone()),
        mount_point: Some(record.mount_point.clone()),
        details: SnapshotDetails::Azure {
            location: record.ticket.attributes.get(key::LOCATION).cloned(),
            lun: record.ticket.attributes.get(key::LUN).and_then(|lun| lun.parse().ok()),
            snapshot_name: Some(record.ticket.name.clone()),
        },
    };
    CloudSnapshots {
        provider_info: ProviderInfo::Azure {
            subscription_id: scope.as_ref().map(|scope| scope.subscription.clone()),
            resource_group: scope.map(|scope| scope.group),
        },
        snapshots: snapshots.iter().map(one).collect(),
    }
    .to_literal()
}

/// The snapshots of a backup that stock has made. What is not in the metadata is taken from the options.
pub(super) fn adopt(
    backup_id: &BackupId,
    cloud: &CloudSnapshots,
    subscription: Option<&str>,
    group: Option<&str>,
) -> Result<Vec<SnapshotRecord>> {
    let ProviderInfo::Azure { subscription_id, resource_group } = &cloud.provider_info else {
        let message = format!("the snapshots of this backup are of {}, not of azure", cloud.provider_info.provider());
        return Err(Error::new(ErrorKind::Unsupported, message));
    };
    let absent = |what: &str, option: &str| {
        Error::invalid(format!("the metadata of backup {backup_id} name no {what}")).with_hint(format!("give {option}"))
    };
    let scope = Scope {
        subscription: subscription_id
            .as_deref()
            .or(subscription)
            .ok_or_else(|| absent("subscription", "--azure-subscription-id"))?
            .to_owned(),
        group: resource_group
            .as_deref()
            .or(group)
            .ok_or_else(|| absent("resource group", "--azure-resource-group"))?
            .to_owned(),
    };
    cloud.snapshots.iter().map(|snapshot| record(backup_id, &scope, snapshot)).collect()
}

fn record(backup_id: &BackupId, scope: &Scope, snapshot: &CloudSnapshot) -> Result<SnapshotRecord> {
    let SnapshotDetails::Azure { location, lun, snapshot_name: Some(name) } = &snapshot.details else {
        return Err(Error::corrupt(format!("the metadata of backup {backup_id} have a snapshot without a name")));
    };
    let mut attributes = [(Ticket::STOCK.to_owned(), "true".to_owned())].into();
    scope.put(&mut attributes);
    if let Some(location) = location {
        attributes.insert(key::LOCATION.to_owned(), location.clone());
    }
    if let Some(lun) = lun {
        attributes.insert(key::LUN.to_owned(), lun.to_string());
    }
    let volume = name.strip_suffix(&format!("-{}", backup_id.lower())).unwrap_or(name).to_owned();
    let mount_point = snapshot.mount_point.clone().unwrap_or_default();
    Ok(SnapshotRecord {
        ticket: Ticket {
            snapshot: scope.id("snapshots", name).to_string(),
            name: name.clone(),
            volume,
            root: mount_point.clone().into(),
            method: METHOD.to_owned(),
            // Of nobody: a random token is never zero.
            token: Token::from_bits(0),
            attributes,
        },
        mount_point,
        mount_options: snapshot.mount_options.clone().unwrap_or_default(),
        file_systems: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::names::{self, tests};
    use super::*;

    /// As barman-cloud-backup 3.19.1 writes it (barman.md 3.3).
    const STOCK: &str = "{'provider': 'azure', 'provider_info': {'subscription_id': 's1', 'resource_group': 'rg1'}, \
        'snapshots': [{'mount': {'mount_options': 'rw,noatime', 'mount_point': '/var/lib/pgsql'}, \
        'provider': {'location': 'westeurope', 'lun': 10, 'snapshot_name': 'pg-data-20260529t101112'}}]}";

    #[test]
    fn the_field_is_that_of_stock_byte_for_byte() {
        let request = tests::request(tests::volume("pg-data"), &[]);
        let record = SnapshotRecord {
            ticket: names::planned(&request, &request.volumes[0]).unwrap(),
            mount_point: "/var/lib/pgsql".into(),
            mount_options: "rw,noatime".into(),
            file_systems: Vec::new(),
        };
        assert_eq!(snapshots_info(&request.instance, &[record]).to_string(), STOCK);
    }

    #[test]
    fn a_backup_of_stock_is_adopted_and_stays_what_it_was() {
        let cloud = CloudSnapshots::from_literal(&Literal::parse(STOCK).unwrap()).unwrap();
        let id: BackupId = "20260529T101112".parse().unwrap();
        let records = adopt(&id, &cloud, None, None).unwrap();
        let ticket = &records[0].ticket;
        assert!(ticket.is_stock());
        assert_eq!(ticket.volume, "pg-data");
        assert!(
            ticket
                .snapshot
                .ends_with("/resourceGroups/rg1/providers/Microsoft.Compute/snapshots/pg-data-20260529t101112")
        );
        let instance = Instance { name: "vm1".into(), attributes: Default::default() };
        assert_eq!(snapshots_info(&instance, &records).to_string(), STOCK);
    }

    #[test]
    fn what_the_metadata_lack_comes_from_the_options() {
        let cloud =
            Literal::parse("{'provider': 'azure', 'snapshots': [{'provider': {'snapshot_name': 'x'}}]}").unwrap();
        let cloud = CloudSnapshots::from_literal(&cloud).unwrap();
        let id: BackupId = "20260529T101112".parse().unwrap();
        assert!(adopt(&id, &cloud, Some("s1"), None).unwrap_err().hint().unwrap().contains("--azure-resource-group"));
        assert_eq!(adopt(&id, &cloud, Some("s1"), Some("rg9")).unwrap()[0].ticket.attributes[key::GROUP], "rg9");
    }
}
