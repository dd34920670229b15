//! Writing `backup.info`: every field, in alphabetical order, to the byte as stock Barman does.

use super::BackupInfo;
use super::read::strip;
use crate::error::{Error, Result};
use crate::model::literal::Literal;
use crate::model::time::format_time;

pub(super) fn write(info: &BackupInfo) -> Result<String> {
    let mut text = String::new();
    for (key, value) in fields(info)? {
        // These two are the only ones that stock leaves out.
        if value.is_none() && matches!(key, "backup_name" | "snapshots_info") {
            continue;
        }
        text.push_str(key);
        text.push('=');
        text.push_str(value.as_deref().unwrap_or("None"));
        text.push('\n');
    }
    Ok(text)
}

/// Every field in the order in which it is written, with its text.
fn fields(info: &BackupInfo) -> Result<[(&'static str, Option<String>); 35]> {
    let time = |time: &Option<_>| time.as_ref().map(format_time);
    Ok([
        ("backup_label", literal("backup_label", info.backup_label.as_deref().map(Literal::from).as_ref())?),
        ("backup_name", raw("backup_name", info.backup_name.as_deref())?),
        ("begin_offset", number(info.begin_offset)),
        ("begin_time", time(&info.begin_time)),
        ("begin_wal", raw("begin_wal", info.begin_wal.as_deref())?),
        ("begin_xlog", number(info.begin_xlog)),
        ("children_backup_ids", children(info.children_backup_ids.as_deref())?),
        ("cluster_size", number(info.cluster_size)),
        ("compression", raw("compression", info.compression.as_deref())?),
        ("config_file", raw("config_file", info.config_file.as_deref())?),
        ("copy_stats", literal("copy_stats", info.copy_stats.as_ref())?),
        ("data_checksums", raw("data_checksums", info.data_checksums.as_deref())?),
        ("deduplicated_size", number(info.deduplicated_size)),
        ("encryption", raw("encryption", info.encryption.as_deref())?),
        ("end_offset", number(info.end_offset)),
        ("end_time", time(&info.end_time)),
        ("end_wal", raw("end_wal", info.end_wal.as_deref())?),
        ("end_xlog", number(info.end_xlog)),
        ("error", info.error.as_deref().map(one_line)),
        ("hba_file", raw("hba_file", info.hba_file.as_deref())?),
        ("ident_file", raw("ident_file", info.ident_file.as_deref())?),
        ("included_files", literal("included_files", included_files(info).as_ref())?),
        ("mode", raw("mode", info.mode.as_deref())?),
        ("parent_backup_id", raw("parent_backup_id", info.parent_backup_id.as_deref())?),
        ("pgdata", raw("pgdata", info.pgdata.as_deref())?),
        ("server_name", raw("server_name", info.server_name.as_deref())?),
        ("size", number(info.size)),
        ("snapshots_info", literal("snapshots_info", info.snapshots_info.as_ref())?),
        ("status", Some(info.status.to_string())),
        ("summarize_wal", raw("summarize_wal", info.summarize_wal.as_deref())?),
        ("systemid", raw("systemid", info.systemid.as_deref())?),
        ("tablespaces", literal("tablespaces", tablespaces(info).as_ref())?),
        ("timeline", number(info.timeline)),
        ("version", number(info.version)),
        ("xlog_segment_size", number(info.xlog_segment_size.map(u64::from))),
    ])
}

fn number(value: Option<impl std::fmt::Display>) -> Option<String> {
    value.map(|value| value.to_string())
}

/// A text that stands in the file as it is, so it has to come back as it went.
fn raw(field: &'static str, value: Option<&str>) -> Result<Option<String>> {
    value.map(|text| check_raw(field, text).map(|()| text.to_owned())).transpose()
}

/// Refuses a text that a reader would not get back: more than one line, blanks at its ends, or the word `None`.
pub(super) fn check_raw(field: &'static str, text: &str) -> Result<()> {
    let why = if text.contains(['\n', '\r', '\0']) {
        "has a line break or a zero byte"
    } else if strip(text) != text {
        "begins or ends with white space"
    } else if text == "None" {
        "is the word that means nothing"
    } else {
        return Ok(());
    };
    Err(Error::invalid(format!("cannot store {field} in backup.info: it {why}: {text:?}")).with_context("field", field))
}

/// An error message must never keep the file from being written: one that would not come back is bent into a line that
/// does.
fn one_line(text: &str) -> String {
    if check_raw("error", text).is_ok() {
        return text.to_owned();
    }
    let parts: Vec<&str> = text.split(['\n', '\r', '\0']).map(strip).filter(|part| !part.is_empty()).collect();
    match parts.join(" ").as_str() {
        "" | "None" => "unknown".to_owned(),
        line => line.to_owned(),
    }
}

fn children(ids: Option<&[String]>) -> Result<Option<String>> {
    let Some(ids) = ids.filter(|ids| !ids.is_empty()) else { return Ok(None) };
    for id in ids {
        check_raw("children_backup_ids", id)?;
        if id.contains(',') || id.is_empty() {
            return Err(Error::invalid(format!("cannot store a backup id with a comma in backup.info: {id:?}")));
        }
    }
    raw("children_backup_ids", Some(&ids.join(",")))
}

fn literal(field: &'static str, value: Option<&Literal>) -> Result<Option<String>> {
    let Some(value) = value.filter(|value| !is_empty(value)) else { return Ok(None) };
    let refuse = |cause: Error| {
        Error::invalid(format!("cannot store {field} in backup.info")).with_context("field", field).with_source(cause)
    };
    if matches!(field, "copy_stats" | "snapshots_info") && value.as_dict().is_none() {
        return Err(refuse(Error::invalid(format!("it is a Python {}, not a dict", value.kind()))));
    }
    value.check_storable().map_err(refuse)?;
    let text = value.to_string();
    if text.len() > Literal::MAX_BYTES {
        return Err(refuse(Error::invalid(format!("{} bytes are more than any reader takes", text.len()))));
    }
    Ok(Some(text))
}

/// Stock writes empty texts, lists and dicts as `None`.
fn is_empty(value: &Literal) -> bool {
    match value {
        Literal::None => true,
        Literal::Str(text) => text.is_empty(),
        Literal::List(items) | Literal::Tuple(items) => items.is_empty(),
        Literal::Dict(entries) => entries.is_empty(),
        Literal::Bool(_) | Literal::Int(_) | Literal::Float(_) => false,
    }
}

fn included_files(info: &BackupInfo) -> Option<Literal> {
    let files = info.included_files.as_deref()?;
    Some(Literal::List(files.iter().map(|file| file.as_str().into()).collect()))
}

pub(super) fn tablespaces(info: &BackupInfo) -> Option<Literal> {
    let list = info.tablespaces.as_deref()?;
    let tuple = |item: &super::Tablespace| {
        Literal::Tuple(vec![item.name.as_str().into(), item.oid.into(), item.location.as_str().into()])
    };
    Some(Literal::List(list.iter().map(tuple).collect()))
}
