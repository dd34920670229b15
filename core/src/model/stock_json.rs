//! A backup as the JSON of stock `barman-cloud-backup-show` and `-list`.
//!
//! Programs read this, so it has stock's members, order and types, also where they are odd: times in the form of C, the
//! label as the `repr` of a Python string, children in one string with commas.

use chrono::{DateTime, FixedOffset};
use serde_json::{Map, Value};

use super::backup_info::BackupInfo;
use super::literal::Literal;
use super::snapshots::EngineRecord;
use super::time::format_time;
use crate::id::BackupId;

impl BackupInfo {
    /// The members of a backup in stock's JSON: every field in alphabetical order, then `backup_id`, `begin_time_iso` and
    /// `end_time_iso`. Stock wraps it in `{"<server_name>": …}` to show it, and in `{"backups_list": […]}` to list.
    pub fn to_stock_json(&self, id: &BackupId) -> Value {
        let mut json = Map::new();
        let mut put = |key: &str, value: Value| json.insert(key.to_owned(), value);
        let label = self.backup_label.as_deref().filter(|label| !label.is_empty());
        put("backup_label", label.map(|label| Literal::from(label).to_string()).into());
        if let Some(name) = &self.backup_name {
            put("backup_name", name.as_str().into());
        }
        put("begin_offset", self.begin_offset.into());
        put("begin_time", ctime(self.begin_time.as_ref()));
        put("begin_wal", text(&self.begin_wal));
        put("begin_xlog", self.begin_xlog.map(|lsn| lsn.to_string()).into());
        put("children_backup_ids", self.children_backup_ids.as_ref().map(|ids| ids.join(",")).into());
        put("cluster_size", self.cluster_size.into());
        put("compression", text(&self.compression));
        put("config_file", text(&self.config_file));
        put("copy_stats", literal(self.copy_stats.as_ref().map(without_config_files).as_ref()));
        put("data_checksums", text(&self.data_checksums));
        put("deduplicated_size", self.deduplicated_size.into());
        put("encryption", text(&self.encryption));
        put("end_offset", self.end_offset.into());
        put("end_time", ctime(self.end_time.as_ref()));
        put("end_wal", text(&self.end_wal));
        put("end_xlog", self.end_xlog.map(|lsn| lsn.to_string()).into());
        put("error", text(&self.error));
        put("hba_file", text(&self.hba_file));
        put("ident_file", text(&self.ident_file));
        put("included_files", self.included_files.clone().into());
        put("mode", text(&self.mode));
        put("parent_backup_id", text(&self.parent_backup_id));
        put("pgdata", text(&self.pgdata));
        put("server_name", text(&self.server_name));
        put("size", self.size.into());
        if let Some(info) = &self.snapshots_info {
            put("snapshots_info", info.into());
        }
        put("status", self.status.as_str().into());
        put("summarize_wal", text(&self.summarize_wal));
        put("systemid", text(&self.systemid));
        put("tablespaces", literal(self.tablespaces_literal().as_ref()));
        put("timeline", self.timeline.map(|timeline| timeline.0).into());
        put("version", self.version.into());
        put("xlog_segment_size", self.xlog_segment_size.map(u64::from).into());
        put("backup_id", id.to_string().into());
        if let Some(time) = &self.begin_time {
            put("begin_time_iso", iso(time));
        }
        if let Some(time) = &self.end_time {
            put("end_time_iso", iso(time));
        }
        Value::Object(json)
    }
}

/// Older versions kept the content of configuration files in our record. It may hold passwords, and is for a restore only.
fn without_config_files(stats: &Literal) -> Literal {
    let Literal::Dict(members) = stats else { return stats.clone() };
    let stripped = members.iter().map(|(key, value)| match (key, value) {
        (Literal::Str(name), Literal::Dict(record)) if name == EngineRecord::KEY => {
            let shown = record.iter().filter(|(key, _)| !matches!(key, Literal::Str(key) if key == "config_files"));
            (key.clone(), Literal::Dict(shown.cloned().collect()))
        }
        _ => (key.clone(), value.clone()),
    });
    Literal::Dict(stripped.collect())
}

fn text(value: &Option<String>) -> Value {
    value.as_deref().into()
}

fn literal(value: Option<&Literal>) -> Value {
    value.map_or(Value::Null, Value::from)
}

/// `Fri May 29 10:11:13 2026`, in the zone of the time itself.
fn ctime(time: Option<&DateTime<FixedOffset>>) -> Value {
    time.map(|time| time.format("%a %b %e %H:%M:%S %Y").to_string()).into()
}

/// `2026-05-29T10:11:13.123456+00:00`
fn iso(time: &DateTime<FixedOffset>) -> Value {
    format_time(time).replacen(' ', "T", 1).into()
}
