//! Barman's `snapshots_info`, written and read. Pure.
//!
//! Stock knows a snapshot by its id (barman.md 3.4); that of an original, never of a copy.

use std::collections::BTreeMap;

use super::lock::LOCK_MODE;
use super::{ACCOUNT, DEVICE, METHOD, REGION};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, Token};
use crate::model::{CloudSnapshot, CloudSnapshots, ProviderInfo, SnapshotDetails, SnapshotRecord};
use crate::provider::Ticket;

/// What stock would have written for these snapshots.
pub(super) fn of_records(records: &[SnapshotRecord]) -> CloudSnapshots {
    let attribute = |ticket: &Ticket, key: &str| ticket.attributes.get(key).cloned();
    let first = |key: &str| records.iter().find_map(|record| attribute(&record.ticket, key));
    let snapshot = |record: &SnapshotRecord| CloudSnapshot {
        mount_options: Some(record.mount_options.clone()),
        mount_point: Some(record.mount_point.clone()),
        details: SnapshotDetails::Aws {
            device_name: attribute(&record.ticket, DEVICE),
            snapshot_id: Some(record.ticket.snapshot.clone()),
            snapshot_name: Some(record.ticket.name.clone()),
            snapshot_lock_mode: attribute(&record.ticket, LOCK_MODE),
        },
    };
    CloudSnapshots {
        provider_info: ProviderInfo::Aws { account_id: first(ACCOUNT), region: first(REGION) },
        snapshots: records.iter().map(snapshot).collect(),
    }
}

/// The snapshots of a backup that stock has made.
pub(super) fn adopt(backup_id: &BackupId, snapshots: &CloudSnapshots) -> Result<Vec<SnapshotRecord>> {
    let ProviderInfo::Aws { account_id, region } = &snapshots.provider_info else {
        let other = snapshots.provider_info.provider();
        return Err(Error::new(ErrorKind::Unsupported, format!("the snapshots of backup {backup_id} are of {other}")));
    };
    let record = |snapshot: &CloudSnapshot| {
        let SnapshotDetails::Aws { device_name, snapshot_id, snapshot_name, snapshot_lock_mode } = &snapshot.details
        else {
            return Err(Error::corrupt(format!("a snapshot of backup {backup_id} is not of AWS as the others")));
        };
        let id =
            snapshot_id.clone().ok_or_else(|| Error::corrupt(format!("a snapshot of backup {backup_id} has no id")))?;
        let mount_point = snapshot.mount_point.clone().unwrap_or_default();
        let attributes: BTreeMap<String, String> = [
            (Ticket::STOCK, Some("true".to_owned())),
            (REGION, region.clone()),
            (ACCOUNT, account_id.clone()),
            (DEVICE, device_name.clone()),
            (LOCK_MODE, snapshot_lock_mode.clone()),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect();
        Ok(SnapshotRecord {
            ticket: Ticket {
                name: snapshot_name.clone().unwrap_or_else(|| id.clone()),
                volume: volume_name(snapshot_name.as_deref(), backup_id).unwrap_or(&id).to_owned(),
                snapshot: id,
                root: mount_point.clone().into(),
                method: METHOD.to_owned(),
                token: Token::from_bits(0),
                attributes,
            },
            mount_point,
            mount_options: snapshot.mount_options.clone().unwrap_or_default(),
            file_systems: Vec::new(),
        })
    };
    snapshots.snapshots.iter().map(record).collect()
}

/// The disk that a stock name tells: `<disk>-<backup id in lower case>`.
fn volume_name<'a>(name: Option<&'a str>, backup_id: &BackupId) -> Option<&'a str> {
    name?.strip_suffix(&backup_id.lower())?.strip_suffix('-').filter(|disk| !disk.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Literal;

    /// As Barman 3.19.1 writes it (barman.md 3.3).
    const STOCK: &str = "{'provider': 'aws', 'provider_info': {'account_id': '123456789012', 'region': 'eu-west-1'}, \
        'snapshots': [{'mount': {'mount_options': 'rw,noatime', 'mount_point': '/var/lib/pgsql'}, 'provider': \
        {'device_name': '/dev/sdf', 'snapshot_id': 'snap-0aa', 'snapshot_name': 'pg-data-20260529t101112', \
        'snapshot_lock_mode': None}}, {'mount': {'mount_options': 'rw,noatime', 'mount_point': '/srv/tbs1'}, 'provider': \
        {'device_name': '/dev/sdg', 'snapshot_id': 'snap-0bb', 'snapshot_name': \
        'vol-0123456789abcdef0-20260529t101112', 'snapshot_lock_mode': 'governance'}}]}";

    fn adopted() -> Vec<SnapshotRecord> {
        let stock = CloudSnapshots::from_literal(&Literal::parse(STOCK).unwrap()).unwrap();
        adopt(&"20260529T101112".parse().unwrap(), &stock).unwrap()
    }

    #[test]
    fn what_stock_wrote_is_written_back_to_the_byte() {
        assert_eq!(of_records(&adopted()).to_literal().to_string(), STOCK);
    }

    #[test]
    fn an_adopted_snapshot_carries_the_token_of_nobody() {
        let records = adopted();
        assert!(records.iter().all(|record| record.ticket.is_stock()));
        assert_eq!(records[0].ticket.volume, "pg-data");
        assert_eq!(records[1].ticket.volume, "vol-0123456789abcdef0");
        assert_eq!(records[1].ticket.attributes[REGION], "eu-west-1");
    }

    #[test]
    fn snapshots_of_another_cloud_are_refused() {
        let other = CloudSnapshots { provider_info: ProviderInfo::Gcp { project: None }, snapshots: Vec::new() };
        let error = adopt(&"20260529T101112".parse().unwrap(), &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
