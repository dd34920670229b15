//! `backup.info` of a session, at any moment of it. Pure.

use super::effects::{started, stopped};
use super::plan::WalPolicy;
use super::state::SessionState;
use crate::error::Result;
use crate::model::wal::Segment;
use crate::model::{BackupInfo, BackupStatus, EngineRecord, Lsn, SavedConfig, SavedConfigRef, SnapshotRecord};
use crate::provider::{SnapshotProvider, Volume};

/// What the catalog shall say now.
pub(super) fn backup_info(
    provider: &dyn SnapshotProvider,
    state: &SessionState,
    status: BackupStatus,
) -> Result<BackupInfo> {
    let plan = &state.plan;
    let facts = &plan.facts;
    let begun = started(state)?;
    let mut info = BackupInfo {
        status,
        server_name: Some(plan.server.clone()),
        backup_name: plan.backup_name.clone(),
        pgdata: Some(facts.data_directory.to_string_lossy().into_owned()),
        config_file: facts.config_file.clone(),
        hba_file: facts.hba_file.clone(),
        ident_file: facts.ident_file.clone(),
        included_files: (!facts.included_files.is_empty()).then(|| facts.included_files.clone()),
        cluster_size: facts.cluster_size,
        data_checksums: Some(facts.data_checksums.clone()),
        summarize_wal: facts.summarize_wal.clone(),
        systemid: Some(facts.system_id.clone()),
        tablespaces: (!facts.tablespaces.is_empty()).then(|| facts.tablespaces.clone()),
        version: Some(facts.version),
        xlog_segment_size: Some(facts.segment_size),
        timeline: Some(begun.timeline),
        begin_time: Some(begun.time),
        ..BackupInfo::default()
    };
    let place = |lsn: Lsn| {
        let segment = Segment::of(lsn, begun.timeline, facts.segment_size);
        (Some(segment.to_string()), Some(lsn), Some(lsn.0 % facts.segment_size.bytes()))
    };
    (info.begin_wal, info.begin_xlog, info.begin_offset) = place(begun.lsn);
    if let Some(ended) = &state.stopped {
        (info.end_wal, info.end_xlog, info.end_offset) = place(ended.lsn);
        info.end_time = Some(ended.time);
        info.backup_label = Some(ended.label.clone());
        // Stock tools mean the time that copying took, in seconds.
        let seconds = ended.time.signed_duration_since(begun.time).num_microseconds().unwrap_or(0);
        info.set_copy_times(state.cut_ms as f64 / 1e3, seconds as f64 / 1e6)?;
    }
    let record = engine_record(state)?;
    if !record.snapshots.is_empty() {
        info.snapshots_info = provider.snapshots_info(&plan.instance, &record.snapshots);
    }
    info.set_engine_record(&record)?;
    Ok(info)
}

fn engine_record(state: &SessionState) -> Result<EngineRecord> {
    let plan = &state.plan;
    let snapshots = state
        .tickets
        .iter()
        .map(|ticket| {
            let volume = plan.volumes.iter().map(|planned| &planned.volume).find(|volume| volume.id == ticket.volume);
            SnapshotRecord {
                ticket: ticket.clone(),
                mount_point: volume.map(mount_point).unwrap_or_default(),
                mount_options: volume.map(|volume| volume.mount_options.clone()).unwrap_or_default(),
                file_systems: volume.map(|volume| volume.file_systems.clone()).unwrap_or_default(),
            }
        })
        .collect();
    let mut timings = std::collections::BTreeMap::new();
    if stopped(state).is_ok() {
        timings.insert("backup_mode_s".to_owned(), state.backup_mode_ms as f64 / 1e3);
        timings.insert("cut_s".to_owned(), state.cut_ms as f64 / 1e3);
    }
    Ok(EngineRecord {
        version: EngineRecord::VERSION,
        provider: plan.provider.clone(),
        token: plan.token.clone(),
        snapshots,
        tablespace_map: state.stopped.as_ref().map(|ended| ended.tablespace_map.clone()).filter(|map| !map.is_empty()),
        wal_external: plan.wal == WalPolicy::External,
        from_standby: plan.facts.in_recovery,
        settings: plan.facts.settings.clone(),
        config_files: Default::default(),
        saved_config: saved_config(state)?,
        saved_files: Vec::new(),
        real_paths: plan.real_paths.clone(),
        excluded_tablespaces: plan.excluded_tablespaces.clone(),
        bytes_copied: state.bytes_copied,
        timings,
    })
}

/// Where the configuration files are. The object for the plan of an older version is written when the backup is published.
fn saved_config(state: &SessionState) -> Result<Option<SavedConfigRef>> {
    let plan = &state.plan;
    match plan.config_files.is_empty() {
        true => Ok(plan.saved_config.clone()),
        false => Ok(Some(SavedConfigRef::to(&SavedConfig::of_texts(&plan.config_files, &plan.token).encode()?))),
    }
}

fn mount_point(volume: &Volume) -> String {
    volume.mount_point.to_string_lossy().into_owned()
}
