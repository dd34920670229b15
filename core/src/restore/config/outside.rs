//! Which parameters lead a server to files, and what becomes of a value that leads out of its data directory.
//!
//! Pure. A parameter that is not named here is changed only if its value lies below the original data directory: whatever it
//! means (a key file, a directory of an extension), the copy of it is meant.

use std::path::{Path, PathBuf};

use super::ConfigPlan;
use crate::restore::tablespaces::normal;

/// Parameters whose default lies inside the data directory, and with which a copy would read or write files of the original:
/// manual, "File Locations" and "Where to Log"; `stats_temp_directory` was dropped by PostgreSQL 15.
const WITH_DEFAULT_INSIDE: [&str; 6] =
    ["data_directory", "hba_file", "ident_file", "external_pid_file", "log_directory", "stats_temp_directory"];

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stays.
    Stays,
    /// It becomes a comment: PostgreSQL's default holds.
    CommentedOut,
    /// It gets this value.
    Becomes(Vec<u8>),
}

/// Decides about `name = value` for a server in `target`. `there` says whether a path outside exists on this host.
pub(super) fn fate(
    config: &ConfigPlan,
    target: &Path,
    (name, value): (&str, &[u8]),
    there: &dyn Fn(&Path) -> bool,
) -> Fate {
    // Of an earlier recovery: in a file that we do not write to, nobody would empty it again.
    if name.starts_with("recovery_target") {
        return Fate::CommentedOut;
    }
    if name == "unix_socket_directories" {
        return sockets(config, target, value);
    }
    let path = path_of(value);
    if !path.is_absolute() {
        // Relative to the data directory for all but three, and those are relative to wherever the server is started.
        let anywhere = ["data_directory", "hba_file", "ident_file"].contains(&name) && !value.is_empty();
        let leads_out = anywhere || path.components().any(|part| part == std::path::Component::ParentDir);
        return if leads_out && WITH_DEFAULT_INSIDE.contains(&name) { Fate::CommentedOut } else { Fate::Stays };
    }
    if let Some(inside) = config.inside(&path, target) {
        return match name {
            // The default, wherever the directory is moved to.
            "data_directory" => Fate::CommentedOut,
            _ if path.starts_with(target) => Fate::Stays,
            _ => Fate::Becomes(bytes_of(&joined(target, &inside))),
        };
    }
    let kept = config.keeps_outside
        && match name {
            "data_directory" => false,
            // Without them it would not start; logs and pid files it makes itself.
            "hba_file" | "ident_file" => there(&path),
            _ => true,
        };
    match WITH_DEFAULT_INSIDE.contains(&name) && !kept {
        true => Fate::CommentedOut,
        false => Fate::Stays,
    }
}

/// A list of directories, of which each may lie inside the original.
fn sockets(config: &ConfigPlan, target: &Path, value: &[u8]) -> Fate {
    let mut changed = false;
    let items: Vec<Vec<u8>> = value
        .split(|byte| *byte == b',')
        .map(|item| {
            let path = path_of(item.trim_ascii());
            match config.inside(&path, target) {
                Some(inside) if path.is_absolute() && !path.starts_with(target) => {
                    changed = true;
                    bytes_of(&joined(target, &inside))
                }
                _ => item.to_vec(),
            }
        })
        .collect();
    if changed { Fate::Becomes(items.join(&b',')) } else { Fate::Stays }
}

/// The path that a value names.
pub(super) fn path_of(value: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    normal(Path::new(std::ffi::OsStr::from_bytes(value)))
}

/// A path as a value.
pub(super) fn bytes_of(path: &Path) -> Vec<u8> {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes().to_vec()
}

/// `join`, without the slash that an empty path would add.
pub(super) fn joined(top: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { top.to_owned() } else { top.join(below) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decide(keeps_outside: bool, name: &str, value: &str) -> Fate {
        let config =
            ConfigPlan { originals: vec!["/srv/pg".into(), "/real/pg".into()], keeps_outside, ..ConfigPlan::default() };
        let target = if keeps_outside { "/srv/pg" } else { "/new" };
        fate(&config, Path::new(target), (name, value.as_bytes()), &|path| path.starts_with("/etc"))
    }

    fn becomes(value: &str) -> Fate {
        Fate::Becomes(value.as_bytes().to_vec())
    }

    #[test]
    fn a_copy_is_led_nowhere_else() {
        for (name, value, wanted) in [
            ("data_directory", "/srv/pg", Fate::CommentedOut),
            ("data_directory", "/else", Fate::CommentedOut),
            ("data_directory", "data", Fate::CommentedOut),
            ("hba_file", "/srv/pg/pg_hba.conf", becomes("/new/pg_hba.conf")),
            ("hba_file", "/etc/pg_hba.conf", Fate::CommentedOut),
            ("hba_file", "conf/pg_hba.conf", Fate::CommentedOut),
            ("external_pid_file", "/run/pg.pid", Fate::CommentedOut),
            ("external_pid_file", "", Fate::Stays),
            ("log_directory", "/var/log/pg", Fate::CommentedOut),
            ("log_directory", "../log", Fate::CommentedOut),
            ("log_directory", "log", Fate::Stays),
            ("log_directory", "/new/log", Fate::Stays),
            ("ssl_cert_file", "/srv/pg/server.crt", becomes("/new/server.crt")),
            ("ssl_cert_file", "/etc/ssl/server.crt", Fate::Stays),
            ("ssl_cert_file", "server.crt", Fate::Stays),
            ("ext.directory", "/real/pg/ext", becomes("/new/ext")),
            ("archive_command", "cp %p /srv/pg/x", Fate::Stays),
            ("x", "/srv/pgother", Fate::Stays),
            ("recovery_target_time", "2026-01-01", Fate::CommentedOut),
            ("unix_socket_directories", "/run/postgresql, /srv/pg/s", becomes("/run/postgresql,/new/s")),
            ("unix_socket_directories", "/run/postgresql", Fate::Stays),
        ] {
            assert_eq!(decide(false, name, value), wanted, "{name} = {value}");
        }
    }

    #[test]
    fn a_server_in_the_place_of_the_original_keeps_what_is_there() {
        for (name, value, wanted) in [
            ("data_directory", "/srv/pg", Fate::CommentedOut),
            ("hba_file", "/etc/pg_hba.conf", Fate::Stays),
            ("hba_file", "/gone/pg_hba.conf", Fate::CommentedOut),
            ("log_directory", "/var/log/pg", Fate::Stays),
            ("hba_file", "/srv/pg/pg_hba.conf", Fate::Stays),
        ] {
            assert_eq!(decide(true, name, value), wanted, "{name} = {value}");
        }
    }
}
