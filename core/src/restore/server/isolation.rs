//! What is added to a restored server so that it can be looked at and nobody else reaches it.
//!
//! Nothing here replaces the configuration that was restored: the server reads that, as it will when the user starts it. All
//! of this stands on the command line, which wins over every file, and takes effect for this one run only.

use std::fs::File;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::binaries::private;
use super::{PORT, ServerSpec};
use crate::error::{Error, Result};
use crate::host::beneath::Beneath;
use crate::restore::plan::Owner;
use crate::restore::settings::Setting;

/// Longest path of a socket on Linux, with its end; PostgreSQL refuses longer ones.
const LONGEST_SOCKET: usize = 107;

/// What our own sessions say when they connect: it wins over what `ALTER DATABASE … SET` and `ALTER ROLE … SET` have stored, which
/// may be anything, and which in turn wins over the command line of the server (manual, "Setting Parameters").
const SESSION: [(&str, &str); 24] = [
    // Nothing is loaded or run for a session.
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("jit", "off"),
    ("role", "none"),
    ("row_security", "on"),
    // Nothing ends it.
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    // Damage is not passed over.
    ("zero_damaged_pages", "off"),
    ("ignore_checksum_failure", "off"),
    ("ignore_system_indexes", "off"),
    // It may write, and speaks as we expect.
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    ("default_tablespace", ""),
    ("client_min_messages", "warning"),
    ("standard_conforming_strings", "on"),
    ("bytea_output", "hex"),
    ("datestyle", "ISO"),
    // The log is ours.
    ("log_min_messages", "warning"),
    ("log_statement", "none"),
    ("log_duration", "off"),
    ("log_min_duration_statement", "-1"),
    ("log_statement_stats", "off"),
    ("log_executor_stats", "off"),
];

/// The same for the versions that have them.
const SESSION_SINCE: [(u32, &str, &str); 4] = [
    (14, "idle_session_timeout", "0"),
    (17, "transaction_timeout", "0"),
    // Those on login as well: of PostgreSQL 17 and later none runs.
    (17, "event_triggers", "off"),
    // What is not a table of the system may be looked at.
    (17, "restrict_nonsystem_relation_kind", ""),
];

/// For statements of the user: with the `search_path` that the database gives.
pub(super) fn session_of_the_user(major: u32) -> String {
    let since = SESSION_SINCE.iter().filter(|(since, ..)| major >= *since).map(|(_, name, value)| (*name, *value));
    options(SESSION.into_iter().chain(since))
}

/// For statements of ours. An unqualified name means PostgreSQL's own, whatever the backup has under that name.
pub(super) fn session(major: u32) -> String {
    format!("{} {}", session_of_the_user(major), options([("search_path", "pg_catalog")]))
}

/// As [`session`], where objects are made: no trigger runs but those that say so ([`disable_triggers`]), and an extension is the one
/// that the programs came with.
///
/// [`disable_triggers`]: super::super::verify
pub(super) fn session_of_checks(major: u32) -> String {
    let mut more = vec![("session_replication_role", "replica"), ("dynamic_library_path", "$libdir")];
    if major >= 18 {
        more.push(("extension_control_path", "$system"));
    }
    format!("{} {}", session(major), options(more))
}

fn options<'a>(settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let words: Vec<_> = settings.into_iter().map(|(name, value)| format!("-c {name}={value}")).collect();
    words.join(" ")
}

/// The settings on the command line.
///
/// The decisive ones are also in the configuration of a clone; they are here again because a setting on the command line
/// cannot be changed by anything that is in the backup.
pub(super) fn settings(spec: &ServerSpec, sockets: &Path) -> Vec<Setting> {
    let place = |name: &str| spec.work.join(name).display().to_string();
    let port = PORT.to_string();
    let mut settings: Vec<_> = [
        // Reachable for us only.
        ("listen_addresses", ""),
        ("port", &port),
        ("unix_socket_directories", &sockets.display().to_string()),
        ("unix_socket_permissions", "0700"),
        ("unix_socket_group", ""),
        ("bonjour", "off"),
        ("hba_file", &place("pg_hba.conf")),
        ("ident_file", &place("pg_ident.conf")),
        ("external_pid_file", ""),
        // Acts on nothing.
        ("archive_mode", "off"),
        ("archive_cleanup_command", ""),
        ("primary_conninfo", ""),
        ("primary_slot_name", ""),
        ("max_logical_replication_workers", "0"),
        ("max_worker_processes", "0"),
        ("hot_standby", "off"),
        ("synchronous_standby_names", ""),
        ("recovery_min_apply_delay", "0"),
        ("autovacuum", "off"),
        ("session_preload_libraries", ""),
        ("local_preload_libraries", ""),
        // Its log is ours, and can be read by a program.
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
        ("log_min_messages", "warning"),
        ("lc_messages", "C"),
        // It runs beside others, and is thrown away.
        ("shared_buffers", "32MB"),
        ("huge_pages", "off"),
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("jit", "off"),
        // Damage is not passed over.
        ("zero_damaged_pages", "off"),
        ("ignore_checksum_failure", "off"),
        ("ignore_system_indexes", "off"),
    ]
    .map(|(name, value)| Setting::new(name, value))
    .into();
    if spec.major >= 17 {
        // Triggers on login would run for our own connections.
        settings.push(Setting::new("event_triggers", "off"));
        settings.push(Setting::new("sync_replication_slots", "off"));
        settings.push(Setting::new("summarize_wal", "off"));
    }
    settings
}

/// The files that a private server is started with, in a directory that stays ours: the user of the server, and with it whatever
/// runs in the server, can change nothing in it, and so cannot lead us anywhere.
#[derive(Debug)]
pub(super) struct Files {
    /// The directory of the socket, which is the server's.
    pub(super) sockets: PathBuf,
    /// The log. The server gets it open, and can only add to it; it is read through this handle.
    pub(super) log: File,
}

/// Makes the directory of the socket, the log, and the files that say who may connect.
///
/// The rules of the restored server are read as well, behind the one that lets us in: where one is wrong, this server does
/// not start, as the restored one would not.
pub(super) async fn write_files(spec: &ServerSpec, run_as: Option<Owner>) -> Result<Files> {
    let sockets = spec.work.join("s");
    let length = sockets.as_os_str().len() + format!("/.s.PGSQL.{PORT}.lock").len();
    if length > LONGEST_SOCKET {
        return Err(Error::precondition(format!("the path {} is too long for a socket", sockets.display()))
            .with_hint("name a shorter directory with --work-dir"));
    }
    let owner = run_as.map(|owner| (owner.uid, owner.gid));
    let work = Beneath::open(&spec.work)?;
    work.make_directory(Path::new("s"), 0o700)?;
    owner.map_or(Ok(()), |owner| work.give(Path::new("s"), owner))?;
    // The directory of the socket is private; who can reach it is us.
    work.write(Path::new("pg_hba.conf"), &hba(spec, run_as).await?, 0o600, owner)?;
    work.write(Path::new("pg_ident.conf"), b"", 0o600, owner)?;
    let log = work.make_log(Path::new("server.log"))?;
    Ok(Files { sockets, log })
}

/// From PostgreSQL 16 on, files of rules can include others. Before, the content is appended, unless it names further files,
/// which would be looked for beside ours.
async fn hba(spec: &ServerSpec, run_as: Option<Owner>) -> Result<Vec<u8>> {
    let mut rules = b"local all all trust\n".to_vec();
    let restored = &spec.hba;
    if spec.major >= 16 {
        rules.extend_from_slice(format!("include \"{}\"\n", restored.display()).as_bytes());
        return Ok(rules);
    }
    let content = read_as(run_as, restored, &spec.pgdata).await?;
    if !content.contains(&b'@') {
        rules.extend_from_slice(&content);
    }
    Ok(rules)
}

/// The largest file of rules that is read.
const LARGEST_RULES: usize = 16 << 20;

/// A file that the user of the server may read, read as that user: it may be a link to what only root may read.
async fn read_as(run_as: Option<Owner>, path: &Path, pgdata: &Path) -> Result<Vec<u8>> {
    let mut command = private(Command::new("/usr/bin/head"), run_as, pgdata);
    command.arg("-c").arg((LARGEST_RULES + 1).to_string()).arg("--").arg(path);
    let output = command.output().await.map_err(|error| Error::io("read", path, error))?;
    match (output.status.success(), output.stdout.len()) {
        (true, 0..=LARGEST_RULES) => Ok(output.stdout),
        (true, _) => Err(Error::precondition(format!("{} is larger than any file of rules", path.display()))),
        (false, _) => Err(Error::precondition(format!(
            "the user of the server cannot read {}: {}",
            path.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_statements_see_the_search_path_of_the_database() {
        for major in [13, 15, 18] {
            assert!(session(major).contains("search_path") && !session_of_the_user(major).contains("search_path"));
            assert!(session_of_checks(major).starts_with(&session(major)));
        }
    }

    #[test]
    fn a_version_is_asked_for_nothing_that_it_does_not_know() {
        assert!(!session_of_checks(13).contains("idle_session") && !session_of_checks(16).contains("event_triggers"));
        assert!(session_of_the_user(17).contains("-c event_triggers=off"));
    }
}
