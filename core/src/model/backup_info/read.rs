//! Reading `backup.info`: lenient where stock Barman is lenient or fatal, strict where a value would be misunderstood.

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset, TimeZone};

use super::{BackupInfo, BackupStatus, ParsedBackupInfo, Tablespace};
use crate::error::{Error, Result};
use crate::model::literal::Literal;
use crate::model::time::parse_time;
use crate::model::wal::{Lsn, SegmentSize, Timeline};

/// Longer than any literal that is read, with room for the other fields.
const MAX_BYTES: usize = 2 * Literal::MAX_BYTES;

pub(super) fn read<Z: TimeZone>(text: &str, zone: &Z) -> Result<ParsedBackupInfo> {
    if text.len() > MAX_BYTES {
        return Err(Error::corrupt(format!("a backup.info of {} bytes is longer than {MAX_BYTES}", text.len())));
    }
    let mut parsed = ParsedBackupInfo {
        // What a stock reader takes when the line is missing (it came with the other segment sizes, PostgreSQL 11).
        info: BackupInfo { xlog_segment_size: Some(SegmentSize::DEFAULT), ..BackupInfo::default() },
        backup_id: None,
        warnings: Vec::new(),
    };
    for field in fields(text)?.values() {
        match field.key {
            "backup_id" => parsed.backup_id = field.text(),
            key if set(&mut parsed.info, key, field, zone)? => {}
            key => parsed.warnings.push(format!(
                "line {} of backup.info has the unknown key {key:?}: ignored here, but stock Barman stops at it",
                field.line
            )),
        }
    }
    Ok(parsed)
}

/// One line: its number (from 1), its key, and its value if that is not `None`.
struct Field<'a> {
    line: usize,
    key: &'a str,
    value: Option<&'a str>,
}

/// The lines by key; of two with the same key the later one.
fn fields(text: &str) -> Result<BTreeMap<&str, Field<'_>>> {
    let mut fields = BTreeMap::new();
    for (at, line) in text.split('\n').enumerate() {
        if line.starts_with('#') || strip(line).is_empty() {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            let start: String = line.chars().take(40).collect();
            return Err(Error::corrupt(format!("line {} of backup.info has no '=': {start:?}", at + 1)));
        };
        let (key, value) = (strip(key), strip(value));
        fields.insert(key, Field { line: at + 1, key, value: (value != "None").then_some(value) });
    }
    Ok(fields)
}

/// White space as Python strips it, which counts the four ASCII separators.
pub(super) fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\x1C'..='\x1F').contains(&c))
}

/// Sets a field; false if there is none of that name.
fn set<Z: TimeZone>(info: &mut BackupInfo, key: &str, field: &Field<'_>, zone: &Z) -> Result<bool> {
    match key {
        "backup_label" => info.backup_label = field.literal_text()?,
        "backup_name" => info.backup_name = field.text(),
        "begin_offset" => info.begin_offset = field.number()?,
        "begin_time" => info.begin_time = field.time(zone)?,
        "begin_wal" => info.begin_wal = field.text(),
        "begin_xlog" => info.begin_xlog = field.lsn()?,
        "children_backup_ids" => info.children_backup_ids = field.comma_list(),
        "cluster_size" => info.cluster_size = field.number()?,
        "compression" => info.compression = field.text(),
        "config_file" => info.config_file = field.text(),
        "copy_stats" => info.copy_stats = field.dict()?,
        "data_checksums" => info.data_checksums = field.text(),
        "deduplicated_size" => info.deduplicated_size = field.number()?,
        "encryption" => info.encryption = field.text(),
        "end_offset" => info.end_offset = field.number()?,
        "end_time" => info.end_time = field.time(zone)?,
        "end_wal" => info.end_wal = field.text(),
        "end_xlog" => info.end_xlog = field.lsn()?,
        "error" => info.error = field.text(),
        "hba_file" => info.hba_file = field.text(),
        "ident_file" => info.ident_file = field.text(),
        "included_files" => info.included_files = field.text_list()?,
        "mode" => info.mode = field.text(),
        "parent_backup_id" => info.parent_backup_id = field.text(),
        "pgdata" => info.pgdata = field.text(),
        "server_name" => info.server_name = field.text(),
        "size" => info.size = field.number()?,
        "snapshots_info" => info.snapshots_info = field.dict()?,
        "status" => info.status = field.status()?,
        "summarize_wal" => info.summarize_wal = field.text(),
        "systemid" => info.systemid = field.text(),
        "tablespaces" => info.tablespaces = field.tablespaces()?,
        "timeline" => info.timeline = field.timeline()?,
        "version" => info.version = field.number()?,
        "xlog_segment_size" => info.xlog_segment_size = field.segment_size()?,
        _ => return Ok(false),
    }
    Ok(true)
}

impl Field<'_> {
    fn error(&self, what: &str) -> Error {
        let value: String = self.value.unwrap_or("None").chars().take(80).collect();
        Error::corrupt(format!("line {} of backup.info: {} is {what}: {value:?}", self.line, self.key))
    }

    fn caused(&self, what: &str, cause: Error) -> Error {
        self.error(what).with_source(cause)
    }

    fn text(&self) -> Option<String> {
        self.value.map(str::to_owned)
    }

    fn number<N: std::str::FromStr>(&self) -> Result<Option<N>> {
        self.value.map(|text| text.parse().map_err(|_| self.error("not a number in its range"))).transpose()
    }

    fn time<Z: TimeZone>(&self, zone: &Z) -> Result<Option<DateTime<FixedOffset>>> {
        self.value.map(|text| parse_time(text, zone).map_err(|cause| self.caused("not a time", cause))).transpose()
    }

    fn lsn(&self) -> Result<Option<Lsn>> {
        self.value.map(|text| text.parse().map_err(|_| self.error("not a WAL position"))).transpose()
    }

    fn timeline(&self) -> Result<Option<Timeline>> {
        match self.number()? {
            Some(0) => Err(self.error("not a timeline")),
            number => Ok(number.map(Timeline)),
        }
    }

    fn segment_size(&self) -> Result<Option<SegmentSize>> {
        self.number()?
            .map(|bytes| SegmentSize::new(bytes).map_err(|_| self.error("not a WAL segment size")))
            .transpose()
    }

    fn status(&self) -> Result<BackupStatus> {
        self.value.map_or(Ok(BackupStatus::Empty), |text| text.parse().map_err(|_| self.error("not a status")))
    }

    fn comma_list(&self) -> Option<Vec<String>> {
        let list: Vec<String> =
            self.value?.split(',').map(|id| strip(id).to_owned()).filter(|id| !id.is_empty()).collect();
        (!list.is_empty()).then_some(list)
    }

    fn literal(&self) -> Result<Option<Literal>> {
        self.value
            .map(|text| Literal::parse(text).map_err(|cause| self.caused("not a Python literal", cause)))
            .transpose()
    }

    // Empty texts, dicts and lists that are literals read as none, as in stock.

    fn literal_text(&self) -> Result<Option<String>> {
        match self.literal()? {
            None | Some(Literal::None) => Ok(None),
            Some(Literal::Str(text)) => Ok((!text.is_empty()).then_some(text)),
            Some(_) => Err(self.error("not a quoted text")),
        }
    }

    fn dict(&self) -> Result<Option<Literal>> {
        match self.literal()? {
            None | Some(Literal::None) => Ok(None),
            Some(Literal::Dict(entries)) => Ok((!entries.is_empty()).then_some(Literal::Dict(entries))),
            Some(_) => Err(self.error("not a dict")),
        }
    }

    fn text_list(&self) -> Result<Option<Vec<String>>> {
        self.list("not a list of texts", |item| item.as_str().map(str::to_owned))
    }

    fn tablespaces(&self) -> Result<Option<Vec<Tablespace>>> {
        self.list("not a list of (name, oid, location)", tablespace)
    }

    fn list<T>(&self, otherwise: &str, item: impl Fn(&Literal) -> Option<T>) -> Result<Option<Vec<T>>> {
        let Some(literal) = self.literal()?.filter(|literal| !literal.is_none()) else { return Ok(None) };
        let list: Option<Vec<T>> = literal.as_list().and_then(|items| items.iter().map(item).collect());
        let list = list.ok_or_else(|| self.error(otherwise))?;
        Ok((!list.is_empty()).then_some(list))
    }
}

fn tablespace(literal: &Literal) -> Option<Tablespace> {
    let [name, oid, location] = literal.as_list()? else { return None };
    let oid = match oid {
        Literal::Str(digits) => digits.parse().ok()?,
        number => u32::try_from(number.as_int()?).ok()?,
    };
    Some(Tablespace { name: name.as_str()?.to_owned(), oid, location: location.as_str()?.to_owned() })
}
