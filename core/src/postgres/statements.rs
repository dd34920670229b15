//! Every statement that the engine sends for a backup, as text, and how its answer is read.
//!
//! Not here: sending them. All go by the simple query protocol and come back as text, so what is below is arithmetic on
//! strings and is tested as such. The invariant: a statement for PostgreSQL 13 to 18 is chosen by the version number
//! alone, and nothing from outside reaches a statement except through [`literal`].

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset};

use super::control::{ArchiverState, ServerFacts, StartRequest, StartedBackup, StoppedBackup, TablespaceUse};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Lsn, SegmentSize, Tablespace, Timeline};
use crate::redact;

/// The rows of one answer.
pub(super) type Rows = Vec<Vec<Option<String>>>;

/// The oldest major version that is supported.
pub(super) const OLDEST: u32 = 13;
/// The newest major version that is known.
pub(super) const NEWEST: u32 = 18;

/// A moment as ISO 8601 with microseconds and offset, whatever `DateStyle` says.
pub(super) const ISO: &str = r#"'YYYY-MM-DD"T"HH24:MI:SS.USTZH:TZM'"#;

/// The settings that a server restored in archive recovery needs to be at least as high (PostgreSQL manual, "Hot
/// Standby", "Administrator's Overview").
const RECOVERY_SETTINGS: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

/// The other settings that belong to the facts.
const FACT_SETTINGS: [&str; 11] = [
    "server_version_num",
    "data_directory",
    "config_file",
    "hba_file",
    "ident_file",
    "wal_segment_size",
    "data_checksums",
    "summarize_wal",
    "archive_mode",
    "archive_command",
    "archive_library",
];

/// A setting of nobody that a session of ours has from its start; it changes nothing.
pub(super) const TOKEN_NAME: &str = "barman_snap.session";
pub(super) const TOKEN: &str = "SELECT pg_catalog.current_setting('barman_snap.session', true)";
pub(super) const VERSION: &str = "SHOW server_version_num";
pub(super) const IN_RECOVERY: &str = "SELECT pg_is_in_recovery()";
pub(super) const SWITCH_WAL: &str = "SELECT pg_switch_wal()";
pub(super) const TARGET: &str =
    "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('transaction_read_only')";
pub(super) const TABLESPACES: &str = "SELECT spcname, oid::text, pg_tablespace_location(oid) FROM pg_tablespace \
     WHERE pg_tablespace_location(oid) LIKE '/%' ORDER BY oid";
pub(super) const CLUSTER_SIZE: &str = "SELECT sum(pg_tablespace_size(oid))::text FROM pg_tablespace";
pub(super) const INCLUDED_FILES: &str = "SELECT DISTINCT sourcefile FROM pg_settings WHERE sourcefile IS NOT NULL \
     AND sourcefile IS DISTINCT FROM (SELECT setting FROM pg_settings WHERE name = 'config_file') ORDER BY 1";
/// On a standby, what is replayed is flushed; on a primary, the flushed end of the WAL. One is null where it makes no sense.
pub(super) const FLUSHED_STANDBY: &str = "SELECT pg_last_wal_replay_lsn()::text";
pub(super) const FLUSHED_PRIMARY: &str = "SELECT pg_current_wal_flush_lsn()::text";

/// The state of the server that is no setting: system identifier, recovery, time.
pub(super) fn identity() -> String {
    format!(
        "SELECT (SELECT system_identifier FROM pg_control_system())::text, pg_is_in_recovery(), \
         to_char(clock_timestamp(), {ISO})"
    )
}

/// What the archiver has done. Everybody may read the view.
pub(super) fn archiver() -> String {
    format!(
        "SELECT last_archived_wal, to_char(last_archived_time, {ISO}), last_failed_wal, to_char(last_failed_time, {ISO}), \
         failed_count::text, to_char(pg_conf_load_time(), {ISO}) FROM pg_stat_archiver"
    )
}

/// All tablespaces by name, the databases whose default each is, and for the `named` ones those that have something in it, which
/// the server finds out from the directories.
pub(super) fn tablespace_uses(named: &[String]) -> Result<String> {
    let names = named.iter().map(|name| literal(name)).collect::<Result<Vec<_>>>()?;
    let asked = if names.is_empty() { "false".to_owned() } else { format!("t.spcname IN ({})", names.join(", ")) };
    Ok(format!(
        "SELECT spcname, 'is', '' FROM pg_tablespace \
         UNION ALL SELECT t.spcname, 'default', d.datname FROM pg_tablespace t JOIN pg_database d ON d.dattablespace = t.oid \
         UNION ALL SELECT t.spcname, 'holds', d.datname FROM \
         (SELECT * FROM pg_tablespace t WHERE {asked} AND pg_tablespace_location(t.oid) LIKE '/%') t \
         CROSS JOIN LATERAL pg_tablespace_databases(t.oid) AS o(oid) JOIN pg_database d ON d.oid = o.oid ORDER BY 1, 2, 3"
    ))
}

/// The settings that belong to the facts. `pg_settings` leaves out what the role may not read, so this never fails.
pub(super) fn settings() -> String {
    let names: Vec<_> = FACT_SETTINGS.iter().chain(&RECOVERY_SETTINGS).map(|name| format!("'{name}'")).collect();
    format!("SELECT name, setting FROM pg_settings WHERE name IN ({})", names.join(", "))
}

/// What the connection sets for itself before anything else. It has to be known to be [our own](super::connect) by then.
///
/// No timeout may end a session that holds a backup open during a long copy. `search_path` is pinned so that no object of
/// a user can stand in for one of PostgreSQL's. `synchronous_commit` is left alone: none of the functions of a backup
/// assigns a transaction id, so none waits for a synchronous standby.
pub(super) fn session(version: u32, time_zone: Option<&str>) -> Result<String> {
    let mut text = String::from(
        "SET search_path = pg_catalog; SET statement_timeout = 0; SET lock_timeout = 0; \
         SET idle_in_transaction_session_timeout = 0; SET client_encoding = 'UTF8'; SET DateStyle = 'ISO'; \
         SET standard_conforming_strings = on",
    );
    if version >= 140_000 {
        text.push_str("; SET idle_session_timeout = 0");
    }
    if version >= 170_000 {
        text.push_str("; SET transaction_timeout = 0");
    }
    if let Some(zone) = time_zone {
        text.push_str(&format!("; SET TimeZone = {}", literal(zone)?));
    }
    Ok(text)
}

/// Starts a non-exclusive backup.
///
/// The timeline is read after the function has returned, because the function scan comes before the target list; the
/// checkpoint in the control file is then the one that the backup starts at. The time is `now()`, as stock tools record
/// it: before the checkpoint.
pub(super) fn start(version: u32, request: &StartRequest) -> Result<String> {
    let (label, fast) = (literal(&request.label)?, request.fast);
    let call = if version < 150_000 {
        format!("pg_start_backup({label}, {fast}, false)")
    } else {
        format!("pg_backup_start({label}, {fast})")
    };
    Ok(format!(
        "SELECT b.lsn::text, (SELECT timeline_id FROM pg_control_checkpoint())::text, to_char(now(), {ISO}), \
         pg_is_in_recovery() FROM {call} AS b(lsn)"
    ))
}

/// Ends a non-exclusive backup without waiting for the archiver.
///
/// The time is taken after the function has returned, so that a recovery to it always reaches the stop position. On a
/// standby the backup ends at the minimum recovery point, whose timeline the control file keeps apart.
pub(super) fn stop(version: u32) -> String {
    let call = if version < 150_000 { "pg_stop_backup(false, false)" } else { "pg_backup_stop(false)" };
    format!(
        "SELECT b.lsn::text, CASE WHEN pg_is_in_recovery() \
         THEN (SELECT min_recovery_end_timeline FROM pg_control_recovery()) \
         ELSE (SELECT timeline_id FROM pg_control_checkpoint()) END::text, \
         to_char(clock_timestamp(), {ISO}), b.labelfile, b.spcmapfile FROM {call} AS b(lsn, labelfile, spcmapfile)"
    )
}

/// Creates a restore point.
pub(super) fn restore_point(name: &str) -> Result<String> {
    Ok(format!("SELECT pg_create_restore_point({})", literal(name)?))
}

/// The functions that a backup needs EXECUTE on. The last two are called on a primary only.
fn functions(version: u32, in_recovery: bool) -> Vec<&'static str> {
    let mut functions = if version < 150_000 {
        vec!["pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"]
    } else {
        vec!["pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"]
    };
    if !in_recovery {
        functions.extend(["pg_switch_wal()", "pg_create_restore_point(text)"]);
    }
    functions
}

/// Asks for the role, whether it is a superuser, the two roles that read settings and sizes, and every function.
pub(super) fn privileges(version: u32, in_recovery: bool) -> String {
    let mut text = String::from(
        "SELECT current_user, (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), \
         pg_has_role('pg_read_all_settings', 'USAGE'), pg_has_role('pg_read_all_stats', 'USAGE')",
    );
    for function in functions(version, in_recovery) {
        text.push_str(&format!(", has_function_privilege('pg_catalog.{function}', 'EXECUTE')"));
    }
    text
}

/// Reads the answer to [`privileges`]: nothing, or one error that lists every GRANT that is missing.
pub(super) fn read_privileges(version: u32, in_recovery: bool, rows: &Rows) -> Result<()> {
    let row = one(rows, 4)?;
    let role = text(row, 0)?;
    if text(row, 1)? == "t" {
        return Ok(());
    }
    // Asking for the two parts rather than for pg_monitor: pg_monitor has both.
    let mut grants: Vec<String> = ["pg_read_all_settings", "pg_read_all_stats"]
        .iter()
        .zip(&row[2..4])
        .filter(|(_, has)| has.as_deref() != Some("t"))
        .map(|(name, _)| format!("GRANT {name} TO {}", identifier(role)))
        .collect();
    grants.extend(
        functions(version, in_recovery)
            .iter()
            .enumerate()
            .filter(|(at, _)| row.get(at + 4).and_then(Option::as_deref) != Some("t"))
            .map(|(_, function)| format!("GRANT EXECUTE ON FUNCTION {function} TO {}", identifier(role))),
    );
    if grants.is_empty() {
        return Ok(());
    }
    let noun = if grants.len() == 1 { "privilege is" } else { "privileges are" };
    let message = format!("role {} may not take backups: {} {noun} missing", identifier(role), grants.len());
    let hint = format!("a superuser can give them, in this database: {};", grants.join("; "));
    let error = Error::new(ErrorKind::PermissionDenied, message).with_hint(hint).with_context("role", role);
    Err(grants.into_iter().fold(error, |error, grant| error.with_context("grant", grant)))
}

/// Refuses versions whose functions are not known to be right; warns about ones that are newer than this program.
pub(super) fn check_version(version: u32) -> Result<()> {
    let major = version / 10_000;
    if major < OLDEST {
        return Err(Error::new(ErrorKind::Unsupported, format!("PostgreSQL {major} is not supported"))
            .with_hint(format!("PostgreSQL {OLDEST} to {NEWEST} are")));
    }
    if major > NEWEST {
        tracing::warn!(
            version,
            "PostgreSQL {major} is newer than this program knows; using what is right for {NEWEST}"
        );
    }
    Ok(())
}

/// Puts the facts together from the answers to the statements above.
pub(super) fn read_facts(
    settings: &Rows,
    identity: &Rows,
    included: Rows,
    tablespaces: &Rows,
    cluster_size: Option<u64>,
) -> Result<ServerFacts> {
    let settings: BTreeMap<&str, &str> =
        settings.iter().filter_map(|row| Some((row.first()?.as_deref()?, row.get(1)?.as_deref()?))).collect();
    let get = |name: &str| settings.get(name).map(|value| (*value).to_owned());
    let need = |name: &str| {
        get(name).ok_or_else(|| {
            Error::new(ErrorKind::PermissionDenied, format!("the setting {name} cannot be read"))
                .with_hint("GRANT pg_read_all_settings TO the role of the backup")
        })
    };
    let identity = one(identity, 3)?;
    // SHOW says "(disabled)" for a command that archive_mode = off keeps from being used.
    let command = get("archive_command").filter(|command| command != "(disabled)").unwrap_or_default();
    Ok(ServerFacts {
        version: number(&need("server_version_num")?)?,
        system_id: text(identity, 0)?.to_owned(),
        in_recovery: text(identity, 1)? == "t",
        data_directory: need("data_directory")?.into(),
        config_file: get("config_file"),
        hba_file: get("hba_file"),
        ident_file: get("ident_file"),
        included_files: included.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect(),
        tablespaces: read_tablespaces(tablespaces)?,
        segment_size: SegmentSize::new(number(&need("wal_segment_size")?)?)?,
        data_checksums: need("data_checksums")?,
        summarize_wal: get("summarize_wal"),
        archive_mode: need("archive_mode")?,
        // It is told and stored, not run.
        archive_command: get("archive_library")
            .filter(|library| !library.is_empty())
            .unwrap_or_else(|| redact::setting("archive_command", &command).into_owned()),
        cluster_size,
        settings: RECOVERY_SETTINGS.iter().filter_map(|name| Some(((*name).to_owned(), get(name)?))).collect(),
        now: moment(text(identity, 2)?)?,
    })
}

/// Reads the answer to [`TABLESPACES`].
pub(super) fn read_tablespaces(rows: &Rows) -> Result<Vec<Tablespace>> {
    let one = |row: &Vec<Option<String>>| {
        Ok(Tablespace {
            name: text(row, 0)?.to_owned(),
            oid: number(text(row, 1)?)?,
            location: text(row, 2)?.to_owned(),
        })
    };
    rows.iter().map(one).collect()
}

/// Reads the answer to [`tablespace_uses`].
pub(super) fn read_tablespace_uses(rows: &Rows) -> Result<Vec<TablespaceUse>> {
    let mut uses: BTreeMap<&str, TablespaceUse> = BTreeMap::new();
    for row in rows {
        let (name, what, database) = (text(row, 0)?, text(row, 1)?, text(row, 2)?.to_owned());
        let one = uses.entry(name).or_insert_with(|| TablespaceUse { name: name.to_owned(), ..Default::default() });
        match what {
            "default" => one.default_of.push(database),
            "holds" => one.databases.push(database),
            _ => {}
        }
    }
    Ok(uses.into_values().collect())
}

/// Reads the answer to [`archiver`].
pub(super) fn read_archiver(rows: &Rows) -> Result<ArchiverState> {
    let row = one(rows, 6)?;
    let event = |at: usize| match (&row[at], &row[at + 1]) {
        (Some(file), Some(time)) => Ok::<_, Error>(Some((file.clone(), moment(time)?))),
        _ => Ok(None),
    };
    Ok(ArchiverState {
        last_archived: event(0)?,
        last_failed: event(2)?,
        failed_count: number(text(row, 4)?)?,
        settings_since: row[5].as_deref().map(moment).transpose()?,
    })
}

/// Reads the answer to [`start`].
pub(super) fn read_start(rows: &Rows) -> Result<StartedBackup> {
    let row = one(rows, 4)?;
    Ok(StartedBackup {
        lsn: text(row, 0)?.parse::<Lsn>()?,
        timeline: Timeline(number(text(row, 1)?)?),
        time: moment(text(row, 2)?)?,
        in_recovery: text(row, 3)? == "t",
    })
}

/// Reads the answer to [`stop`].
pub(super) fn read_stop(rows: &Rows) -> Result<StoppedBackup> {
    let row = one(rows, 5)?;
    Ok(StoppedBackup {
        lsn: text(row, 0)?.parse::<Lsn>()?,
        timeline: Timeline(number(text(row, 1)?)?),
        time: moment(text(row, 2)?)?,
        label: text(row, 3)?.to_owned(),
        tablespace_map: row[4].clone().unwrap_or_default(),
    })
}

/// The only row, with at least `width` columns.
pub(super) fn one(rows: &Rows, width: usize) -> Result<&[Option<String>]> {
    match rows.as_slice() {
        [row] if row.len() >= width => Ok(row),
        _ => Err(strange(format!("{} rows where one of {width} columns was due", rows.len()))),
    }
}

/// A column that is never null.
pub(super) fn text(row: &[Option<String>], at: usize) -> Result<&str> {
    row.get(at).and_then(Option::as_deref).ok_or_else(|| strange(format!("no value in column {}", at + 1)))
}

/// A number that PostgreSQL wrote.
pub(super) fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| strange(format!("not a number: {text:?}")))
}

/// A moment that PostgreSQL wrote as [`ISO`].
pub(super) fn moment(text: &str) -> Result<DateTime<FixedOffset>> {
    DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%:z").map_err(|_| strange(format!("not a time: {text:?}")))
}

pub(super) fn strange(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Postgres, format!("PostgreSQL answered in an unexpected way: {what}"))
}

/// A string constant that is read the same whatever `standard_conforming_strings` says.
pub(super) fn literal(value: &str) -> Result<String> {
    if value.contains('\0') {
        return Err(Error::invalid(format!("PostgreSQL cannot store a null byte: {value:?}")));
    }
    let quoted = value.replace('\'', "''");
    Ok(if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', r"\\")) } else { format!("'{quoted}'") })
}

/// A name in double quotes.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[&str]) -> Vec<Option<String>> {
        values.iter().map(|value| Some((*value).to_owned())).collect()
    }

    #[test]
    fn both_names_of_the_functions_are_known() {
        let request = StartRequest { label: "it's".to_owned(), fast: true };
        assert!(start(140_009, &request).unwrap().contains("pg_start_backup('it''s', true, false)"));
        assert!(start(150_000, &request).unwrap().contains("pg_backup_start('it''s', true)"));
        assert!(stop(130_000).contains("pg_stop_backup(false, false)"));
        assert!(stop(180_000).contains("pg_backup_stop(false)"));
    }

    #[test]
    fn old_versions_are_refused_and_new_ones_are_not() {
        assert_eq!(check_version(120_018).unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(check_version(130_000).is_ok());
        assert!(check_version(190_000).is_ok());
    }

    #[test]
    fn timeouts_are_set_only_where_they_exist() {
        assert!(!session(130_005, None).unwrap().contains("idle_session_timeout"));
        assert!(session(140_000, None).unwrap().contains("SET idle_session_timeout = 0"));
        assert!(session(170_000, Some("UTC")).unwrap().ends_with("SET TimeZone = 'UTC'"));
    }

    #[test]
    fn literals_and_identifiers_cannot_be_left() {
        assert_eq!(literal("a'b").unwrap(), "'a''b'");
        assert_eq!(literal(r"a\'b").unwrap(), r"E'a\\''b'");
        assert!(literal("a\0").is_err());
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn every_missing_privilege_is_named_at_once() {
        let rows = vec![row(&["bo\"b", "f", "f", "t", "f", "t", "t", "f"])];
        let error = read_privileges(150_000, false, &rows).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(
            error.to_string(),
            "role \"bo\"\"b\" may not take backups: 3 privileges are missing (a superuser can give them, in this \
             database: GRANT pg_read_all_settings TO \"bo\"\"b\"; GRANT EXECUTE ON FUNCTION \
             pg_backup_start(text, boolean) TO \"bo\"\"b\"; GRANT EXECUTE ON FUNCTION \
             pg_create_restore_point(text) TO \"bo\"\"b\";)"
        );
        assert!(read_privileges(150_000, false, &vec![row(&["su", "t", "f", "f", "f", "f", "f", "f"])]).is_ok());
        assert!(read_privileges(150_000, true, &vec![row(&["bob", "f", "t", "t", "t", "t"])]).is_ok());
    }

    #[test]
    fn a_time_keeps_its_offset_and_microseconds() {
        let time = moment("2026-05-29T10:11:12.123456+05:30").unwrap();
        assert_eq!(time.to_rfc3339(), "2026-05-29T10:11:12.123456+05:30");
        assert!(moment("yesterday").is_err());
    }
}
