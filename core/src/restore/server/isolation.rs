//! What is added to a restored server so that it can be looked at and nobody else reaches it.
//!
//! Nothing here replaces the configuration that was restored: the server reads that, as it will when the user starts it. All
//! of this stands on the command line, which wins over every file, and takes effect for this one run only.

use std::fs;
use std::path::{Path, PathBuf};

use super::{PORT, ServerSpec};
use crate::error::{Error, Result};
use crate::restore::plan::Owner;
use crate::restore::settings::Setting;

/// Longest path of a socket on Linux, with its end; PostgreSQL refuses longer ones.
const LONGEST_SOCKET: usize = 107;

/// What our own sessions say when they connect: it wins over what `ALTER DATABASE … SET` and `ALTER ROLE … SET` have stored
/// (manual, "Setting Parameters"), which may be anything.
pub(super) const SESSION: &str = "-c session_preload_libraries= -c local_preload_libraries= -c role=none \
     -c search_path=pg_catalog -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
     -c default_transaction_read_only=off -c default_transaction_deferrable=off -c client_min_messages=warning \
     -c log_statement=none -c log_duration=off -c standard_conforming_strings=on -c row_security=on \
     -c bytea_output=hex -c datestyle=ISO";

/// As [`SESSION`], for the statements of the user: with the `search_path` that the database gives.
pub(super) fn session_of_the_user() -> String {
    SESSION.replace("-c search_path=pg_catalog ", "")
}

/// As [`SESSION`], where objects are made: no event trigger of the backup runs but those that are always enabled.
pub(super) fn session_of_checks() -> String {
    format!("{SESSION} -c session_replication_role=replica")
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

/// Makes the directory of the socket and the files that say who may connect.
///
/// The rules of the restored server are read as well, behind the one that lets us in: where one is wrong, this server does
/// not start, as the restored one would not.
pub(super) fn write_files(spec: &ServerSpec, run_as: Option<Owner>) -> Result<PathBuf> {
    let sockets = spec.work.join("s");
    let length = sockets.as_os_str().len() + format!("/.s.PGSQL.{PORT}.lock").len();
    if length > LONGEST_SOCKET {
        return Err(Error::precondition(format!("the path {} is too long for a socket", sockets.display()))
            .with_hint("name a shorter directory with --work-dir"));
    }
    fs::create_dir(&sockets).map_err(|error| Error::io("make the directory", &sockets, error))?;
    give(&sockets, run_as)?;
    fs::set_permissions(&sockets, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .map_err(|error| Error::io("change the mode of", &sockets, error))?;
    let write = |name: &str, content: &[u8]| {
        let path = spec.work.join(name);
        fs::write(&path, content).map_err(|error| Error::io("write", &path, error))?;
        give(&path, run_as)
    };
    // The directory of the socket is private; who can reach it is us.
    write("pg_hba.conf", &hba(spec)?)?;
    write("pg_ident.conf", b"")?;
    give(&spec.work, run_as)?;
    Ok(sockets)
}

/// From PostgreSQL 16 on, files of rules can include others. Before, the content is appended, unless it names further files,
/// which would be looked for beside ours.
fn hba(spec: &ServerSpec) -> Result<Vec<u8>> {
    let mut rules = b"local all all trust\n".to_vec();
    let restored = &spec.hba;
    if spec.major >= 16 {
        rules.extend_from_slice(format!("include \"{}\"\n", restored.display()).as_bytes());
        return Ok(rules);
    }
    let content = fs::read(restored).map_err(|error| Error::io("read", restored, error))?;
    if !content.contains(&b'@') {
        rules.extend_from_slice(&content);
    }
    Ok(rules)
}

fn give(path: &Path, owner: Option<Owner>) -> Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))
        .map_err(|error| Error::io("change the owner of", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_statements_see_the_search_path_of_the_database() {
        assert!(SESSION.contains("search_path") && !session_of_the_user().contains("search_path"));
        assert!(session_of_checks().starts_with(SESSION));
    }
}
