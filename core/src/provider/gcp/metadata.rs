//! `snapshots_info` as stock Barman writes and reads it.

use super::instance::PROJECT;
use super::link::Link;
use super::volumes::attribute::DEVICE_NAME;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, Token};
use crate::model::{CloudSnapshot, CloudSnapshots, Literal, ProviderInfo, SnapshotDetails, SnapshotRecord};
use crate::provider::{Instance, Ticket};

/// The field for these snapshots.
pub(super) fn snapshots_info(instance: &Instance, snapshots: &[SnapshotRecord]) -> Literal {
    let entry = |record: &SnapshotRecord| CloudSnapshot {
        mount_options: Some(record.mount_options.clone()),
        mount_point: Some(record.mount_point.clone()),
        details: SnapshotDetails::Gcp {
            device_name: record.ticket.attributes.get(DEVICE_NAME).cloned(),
            snapshot_name: Some(record.ticket.name.clone()),
            snapshot_project: Link::parse(&record.ticket.snapshot).map(|link| link.project),
        },
    };
    CloudSnapshots {
        provider_info: ProviderInfo::Gcp { project: instance.attributes.get(PROJECT).cloned() },
        snapshots: snapshots.iter().map(entry).collect(),
    }
    .to_literal()
}

/// The snapshots that a stock tool has made.
pub(super) fn adopt(backup_id: &BackupId, snapshots: &CloudSnapshots) -> Result<Vec<SnapshotRecord>> {
    let ProviderInfo::Gcp { project } = &snapshots.provider_info else {
        let cloud = snapshots.provider_info.provider();
        return Err(Error::new(ErrorKind::Unsupported, format!("the snapshots of backup {backup_id} are of {cloud}")));
    };
    snapshots.snapshots.iter().map(|snapshot| record(backup_id, project.as_deref(), snapshot)).collect()
}

fn record(backup_id: &BackupId, project: Option<&str>, snapshot: &CloudSnapshot) -> Result<SnapshotRecord> {
    let missing =
        |what: &str| Error::corrupt(format!("snapshots_info of backup {backup_id} has a snapshot without {what}"));
    let SnapshotDetails::Gcp { device_name, snapshot_name, snapshot_project } = &snapshot.details else {
        return Err(missing("a name"));
    };
    let name = snapshot_name.clone().ok_or_else(|| missing("a name"))?;
    let project = snapshot_project.as_deref().or(project).ok_or_else(|| missing("a project"))?;
    let volume = name.strip_suffix(&format!("-{}", backup_id.lower())).unwrap_or(&name).to_owned();
    let mount_point = snapshot.mount_point.clone().unwrap_or_default();
    let mut attributes: std::collections::BTreeMap<String, String> =
        [(Ticket::STOCK.to_owned(), "true".to_owned())].into();
    attributes.extend(device_name.clone().map(|name| (DEVICE_NAME.to_owned(), name)));
    Ok(SnapshotRecord {
        ticket: Ticket {
            snapshot: Link::snapshot(project, &name).to_string(),
            name,
            volume,
            root: mount_point.clone().into(),
            method: super::METHOD.to_owned(),
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
    use super::*;

    const STOCK: &str = "{'provider': 'gcp', 'provider_info': {'project': 'my-proj'}, 'snapshots': [{'mount': \
        {'mount_options': 'rw,noatime', 'mount_point': '/var/lib/pgsql'}, 'provider': {'device_name': 'pg-data', \
        'snapshot_name': 'pg-data-20260529t101112', 'snapshot_project': 'my-proj'}}]}";

    fn adopted() -> Vec<SnapshotRecord> {
        let id = "20260529T101112".parse().unwrap();
        adopt(&id, &CloudSnapshots::from_literal(&Literal::parse(STOCK).unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn what_stock_wrote_is_adopted_and_written_back_to_the_byte() {
        let records = adopted();
        assert!(records[0].ticket.is_stock());
        assert_eq!(records[0].ticket.snapshot, "projects/my-proj/global/snapshots/pg-data-20260529t101112");
        assert_eq!(records[0].ticket.volume, "pg-data");
        let attributes = [(PROJECT.to_owned(), "my-proj".to_owned())].into();
        let instance = Instance { name: "pg1".into(), attributes };
        assert_eq!(snapshots_info(&instance, &records).to_string(), STOCK);
    }

    #[test]
    fn snapshots_of_another_cloud_are_refused() {
        let id = "20260529T101112".parse().unwrap();
        let aws = "{'provider': 'aws', 'provider_info': {}, 'snapshots': []}";
        let error = adopt(&id, &CloudSnapshots::from_literal(&Literal::parse(aws).unwrap()).unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
