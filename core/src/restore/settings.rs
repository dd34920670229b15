//! The settings that a restored server gets: recovery, and what keeps it away from the original.
//!
//! Pure. They go to the end of `postgresql.auto.conf`, which wins over `postgresql.conf`. All five kinds of target are
//! written, the unused ones empty: one that was left in some file by an earlier restore would make PostgreSQL refuse to
//! start ("multiple recovery targets specified"). For the same reason, and because `archive_cleanup_command` of a standby
//! would delete from the archive of the original, `archive_cleanup_command` is emptied too.
//!
//! A target holds for one recovery. Left in the file, it would be copied with the data directory, and a standby made of the
//! restored server years later would stop at it and promote itself. So PostgreSQL empties the targets as its last act of
//! recovery ([`FORGET_TARGETS`]).
//!
//! A [clone](Purpose::Clone) lives beside the original, so it acts on nothing outside ([`clone_settings`]).

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use super::config::lines::{self, Line};
use super::target::{RecoveryTarget, TargetPoint, TargetTimeline};
use crate::catalog::CatalogUrl;
use crate::error::{Error, Result};
use crate::redact;
use crate::wal::NewTablespaces;

/// A line of `postgresql.auto.conf`. What is serialized is for people and programs that read a plan: without secrets.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Setting {
    /// The parameter.
    pub name: String,
    /// Its value, not quoted.
    pub value: String,
}

impl Setting {
    /// A setting.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

impl Setting {
    fn shown(&self) -> Cow<'_, str> {
        redact::setting(&self.name, &self.value)
    }
}

impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut shown = serializer.serialize_struct("Setting", 2)?;
        shown.serialize_field("name", &self.name)?;
        shown.serialize_field("value", &self.shown())?;
        shown.end()
    }
}

impl fmt::Debug for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Setting({} = {:?})", self.name, self.shown())
    }
}

/// What the restored server is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// It takes the place of the original, which is gone: it archives where that did, and its workers go on.
    Replacement,
    /// It lives beside the original, and acts on nothing outside.
    Clone,
    /// It follows a primary (`standby.signal`).
    Standby,
}

impl Purpose {
    /// What three flags mean; `None` if none is set.
    ///
    /// # Errors
    /// `invalid_input` for more than one.
    pub fn from_flags(clone: bool, replace: bool, standby: bool) -> Result<Option<Self>> {
        match (clone, replace, standby) {
            (false, false, false) => Ok(None),
            (true, false, false) => Ok(Some(Self::Clone)),
            (false, true, false) => Ok(Some(Self::Replacement)),
            (false, false, true) => Ok(Some(Self::Standby)),
            _ => Err(Error::invalid("clone, replace and standby exclude each other")),
        }
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replacement => "replacement",
            Self::Clone => "clone",
            Self::Standby => "standby",
        }
    }
}

/// Where the restored server gets its WAL from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalSource {
    /// From the catalog: `<program> wal-restore --new-tablespaces inside <url> <server> %f %p`; for a standby without that option.
    /// Its status is 1 if there is no such file, and only then.
    Catalog {
        /// The program, with its options before the sub-command if it needs any: each element is quoted for the shell.
        program: Vec<String>,
        /// The URL of the catalog.
        url: String,
        /// The server in it.
        server: String,
    },
    /// A `restore_command` of the user, taken as it is.
    Command(String),
    /// From nowhere: `restore_command` is empty, the user puts the files into `pg_wal`.
    None,
}

impl WalSource {
    /// The directory of the server in its catalog, if that is in a directory.
    pub(super) fn directory(&self) -> Option<PathBuf> {
        let Self::Catalog { url, server, .. } = self else { return None };
        match CatalogUrl::parse(url) {
            Ok(CatalogUrl::Local { directory }) => Some(directory.join(server)),
            _ => None,
        }
    }

    /// The value of `restore_command`.
    ///
    /// # Errors
    /// `invalid_input` for a command with a newline, and for one without `%f` and `%p`, which could not fetch anything.
    pub fn restore_command(&self) -> Result<String> {
        self.restore_command_with(NewTablespaces::Original)
    }

    /// The same; new tablespaces in WAL from the catalog go there.
    ///
    /// # Errors
    /// As [`restore_command`](Self::restore_command).
    pub fn restore_command_with(&self, new_tablespaces: NewTablespaces) -> Result<String> {
        let command = match self {
            Self::Catalog { program, url, server } => {
                let option: &[&str] = match new_tablespaces {
                    NewTablespaces::Original => &[],
                    NewTablespaces::Inside => &["--new-tablespaces", "inside"],
                };
                let fixed = program.iter().map(String::as_str).chain(["wal-restore"]);
                let fixed = fixed.chain(option.iter().copied()).chain([url.as_str(), server]);
                // PostgreSQL replaces %f and %p, and %% by a percent sign.
                let fixed: Vec<_> = fixed.map(|word| shell_quoted(word).replace('%', "%%")).collect();
                format!("{} %f %p", fixed.join(" "))
            }
            Self::Command(command) => command.clone(),
            Self::None => return Ok(String::new()),
        };
        if command.contains(['\n', '\r', '\0']) {
            return Err(Error::invalid("restore_command has a line break"));
        }
        if !(command.contains("%f") && command.contains("%p")) {
            return Err(Error::invalid(format!("restore_command cannot fetch a file: {command:?}"))
                .with_hint("it needs %f, the name of the file, and %p, the place where PostgreSQL wants it"));
        }
        Ok(command)
    }
}

/// A word of a shell command.
pub fn shell_quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/.:_-+=@,".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// PostgreSQL takes any status up to 125 for "there is no such file", which ends recovery: with an archive that cannot be reached
/// for a minute the server would be promoted without the rest of its WAL. Above, it stops, and can be started again (manual,
/// "Archive Recovery"). Not for a standby, which asks again by itself.
const ONLY_MISSING_FILES_END_RECOVERY: &str = " || exit $(($? == 1 ? 1 : 255))";

/// `recovery_end_command`: empties the targets in `postgresql.auto.conf`, in the data directory, where PostgreSQL runs it. It
/// finds what `ALTER SYSTEM` has written as well. Where it fails PostgreSQL warns and goes on.
pub const FORGET_TARGETS: &str = concat!(
    "sed -i -E \"",
    "s/^(recovery_target(_time|_lsn|_xid|_name)?) *=.*/\\1 = ''/;",
    "s/^(recovery_target_timeline) *=.*/\\1 = 'latest'/;",
    "s/^(recovery_target_action) *=.*/\\1 = 'pause'/\" postgresql.auto.conf"
);

/// The settings of a clone of PostgreSQL `major`: it archives nothing, takes no changes from a publisher, and waits for nobody.
pub fn clone_settings(major: u32) -> Vec<Setting> {
    let mut settings: Vec<_> = [
        ("archive_mode", "off"),
        ("max_logical_replication_workers", "0"),
        ("synchronous_standby_names", ""),
        ("recovery_min_apply_delay", "0"),
    ]
    .map(|(name, value)| Setting::new(name, value))
    .into();
    if major >= 17 {
        settings.push(Setting::new("sync_replication_slots", "off"));
    }
    settings
}

/// What keeps the background workers of extensions from starting, whatever the extension: a scheduler that is copied runs its
/// jobs twice. Recovery accepts it only without hot standby (PostgreSQL manual, "Hot Standby", "Administrator's Overview").
pub fn no_background_workers() -> Vec<Setting> {
    vec![Setting::new("hot_standby", "off"), Setting::new("max_worker_processes", "0")]
}

/// The libraries of a `shared_preload_libraries` that might start background workers which reach out. Only those that are
/// known to look inside alone are left out.
pub(super) fn libraries_with_workers(value: &[u8]) -> Vec<String> {
    const INWARD: [&str; 11] = [
        "auth_delay",
        "auto_explain",
        "passwordcheck",
        "pg_hint_plan",
        "pg_overexplain",
        "pg_prewarm",
        "pg_qualstats",
        "pg_stat_kcache",
        "pg_stat_statements",
        "pg_wait_sampling",
        "pgaudit",
    ];
    let text = String::from_utf8_lossy(value);
    let names = text.split(',').map(|name| name.trim().trim_matches('"').trim());
    names
        .filter(|name| !name.is_empty())
        .filter(|name| {
            let plain = name.rsplit('/').next().unwrap_or(name);
            !INWARD.contains(&plain.strip_suffix(".so").unwrap_or(plain))
        })
        .map(str::to_owned)
        .collect()
}

/// What [`clone_settings`] mean, for the user.
pub(super) const CLONE_NOTE: &str = "this is a clone: archiving, subscriptions and waiting for synchronous standbys are off; to \
     make it a server of its own, drop what reaches out (subscriptions, jobs), give it an archive of its own, then ALTER SYSTEM \
     RESET archive_mode, max_logical_replication_workers and synchronous_standby_names, and restart it";

/// The five parameters of which at most one may have a value.
const TARGETS: [&str; 5] =
    ["recovery_target", "recovery_target_time", "recovery_target_lsn", "recovery_target_xid", "recovery_target_name"];

/// The settings of recovery. `standby` leaves the connection to a primary alone, which is then wanted.
pub fn recovery_settings(target: &RecoveryTarget, wal: &WalSource, standby: bool) -> Result<Vec<Setting>> {
    let (kind, value) = match &target.point {
        TargetPoint::EndOfWal => ("", String::new()),
        TargetPoint::Immediate => ("recovery_target", "immediate".to_owned()),
        TargetPoint::Time(time) => {
            ("recovery_target_time", time.to_utc().format("%Y-%m-%d %H:%M:%S%.6f+00").to_string())
        }
        TargetPoint::Lsn(lsn) => ("recovery_target_lsn", lsn.to_string()),
        TargetPoint::Xid(xid) => ("recovery_target_xid", xid.to_string()),
        TargetPoint::Name(name) => ("recovery_target_name", name.clone()),
    };
    // A standby follows the original and has what it has; any other server must not lead back to it.
    let new_tablespaces = if standby { NewTablespaces::Original } else { NewTablespaces::Inside };
    let mut restore_command = wal.restore_command_with(new_tablespaces)?;
    if !standby && matches!(wal, WalSource::Catalog { .. }) {
        restore_command.push_str(ONLY_MISSING_FILES_END_RECOVERY);
    }
    let mut settings = vec![
        Setting::new("restore_command", restore_command),
        Setting::new("archive_cleanup_command", ""),
        Setting::new("recovery_end_command", FORGET_TARGETS),
    ];
    // The one with a value comes last: PostgreSQL refuses even an empty one after it.
    settings.extend(TARGETS.iter().filter(|name| **name != kind).map(|name| Setting::new(*name, "")));
    settings.extend(Some(Setting::new(kind, value)).filter(|_| !kind.is_empty()));
    settings.extend([
        Setting::new("recovery_target_inclusive", if target.inclusive { "on" } else { "off" }),
        Setting::new(
            "recovery_target_timeline",
            match target.timeline {
                TargetTimeline::Default | TargetTimeline::Latest => "latest".to_owned(),
                TargetTimeline::Current => "current".to_owned(),
                TargetTimeline::Id(timeline) => timeline.0.to_string(),
            },
        ),
        Setting::new("recovery_target_action", target.action.as_str()),
    ]);
    if !standby {
        settings.push(Setting::new("primary_conninfo", ""));
        settings.push(Setting::new("primary_slot_name", ""));
    }
    Ok(settings)
}

/// A value for a PostgreSQL configuration file, in quotes (manual, "Setting Parameters": quotes are doubled, and the
/// reader knows backslash escapes).
pub fn conf_quoted(value: &str) -> String {
    String::from_utf8_lossy(&conf_quoted_bytes(value.as_bytes())).into_owned()
}

/// As [`conf_quoted`], in whatever encoding the file has.
pub fn conf_quoted_bytes(value: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(value.len() + 2);
    quoted.push(b'\'');
    for byte in value {
        match byte {
            b'\'' => quoted.extend_from_slice(b"''"),
            b'\\' => quoted.extend_from_slice(b"\\\\"),
            b'\n' => quoted.extend_from_slice(b"\\n"),
            b'\r' => quoted.extend_from_slice(b"\\r"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// `postgresql.auto.conf` with `settings` at its end; what it said about the same parameters before is dropped, so that
/// restoring a restored server does not pile up lines. In bytes: the file has no encoding of its own.
pub fn edit_auto_conf(existing: &[u8], settings: &[Setting]) -> Vec<u8> {
    let ours = |line: &[u8]| match lines::read(line) {
        Line::Setting { name, .. } => settings.iter().any(|setting| setting.name == name),
        _ => line.trim_ascii_end() == NOTE.as_bytes(),
    };
    let mut text: Vec<u8> = Vec::with_capacity(existing.len());
    for line in existing.split_inclusive(|byte| *byte == b'\n').filter(|line| !ours(line)) {
        text.extend_from_slice(line);
    }
    if text.is_empty() {
        text.extend_from_slice(
            b"# Do not edit this file manually!\n# It will be overwritten by the ALTER SYSTEM command.\n",
        );
    } else if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    if !settings.is_empty() {
        text.extend_from_slice(NOTE.as_bytes());
        text.push(b'\n');
    }
    for setting in settings {
        text.extend_from_slice(&lines::write(&setting.name, setting.value.as_bytes()));
    }
    text
}

const NOTE: &str = "# written by barman-snap restore";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Lsn;

    fn catalog(program: &str, url: &str, server: &str) -> WalSource {
        WalSource::Catalog { program: vec![program.into()], url: url.into(), server: server.into() }
    }

    #[test]
    fn the_restore_command_survives_the_shell_and_postgresql() {
        assert_eq!(
            catalog("/usr/bin/barman-snap", "s3://bucket/pg", "main").restore_command().unwrap(),
            "/usr/bin/barman-snap wal-restore s3://bucket/pg main %f %p"
        );
        assert_eq!(
            catalog("/opt/my tools/bs", "/srv/100%/it's", "main").restore_command().unwrap(),
            r"'/opt/my tools/bs' wal-restore '/srv/100%%/it'\''s' main %f %p"
        );
        assert!(WalSource::Command("cp /wal/%f pg_wal".into()).restore_command().is_err());
        assert!(WalSource::Command("cp /wal/%f %p\nrm -rf x".into()).restore_command().is_err());
        assert_eq!(WalSource::None.restore_command().unwrap(), "");
    }

    #[test]
    fn only_a_missing_file_ends_recovery() {
        for (status, wanted) in [(0, 0), (1, 1), (2, 255), (4, 255), (127, 255), (143, 255)] {
            let command = format!("(exit {status}){ONLY_MISSING_FILES_END_RECOVERY}");
            let ended = std::process::Command::new("sh").arg("-c").arg(&command).status().unwrap();
            assert_eq!(ended.code(), Some(wanted), "{command}");
        }
        let command = |standby| {
            let settings =
                recovery_settings(&RecoveryTarget::default(), &catalog("bs", "/c", "main"), standby).unwrap();
            settings.into_iter().find(|setting| setting.name == "restore_command").unwrap().value
        };
        assert_eq!(
            command(false),
            "bs wal-restore --new-tablespaces inside /c main %f %p || exit $(($? == 1 ? 1 : 255))"
        );
        assert_eq!(command(true), "bs wal-restore /c main %f %p");
    }

    #[test]
    fn values_are_quoted_for_the_reader_of_postgresql() {
        assert_eq!(conf_quoted(r"a'b\c"), r"'a''b\\c'");
        assert_eq!(conf_quoted("a\nb"), r"'a\nb'");
    }

    #[test]
    fn an_old_restore_leaves_no_second_target_behind() {
        let old =
            "# Do not edit\nwork_mem = '8MB'\nrecovery_target_time = '2020-01-01'\n  Restore_Command='old'\nport=5433";
        let target = RecoveryTarget { point: TargetPoint::Lsn(Lsn(0x9000028)), ..RecoveryTarget::default() };
        let settings = recovery_settings(&target, &WalSource::None, false).unwrap();
        let bytes = edit_auto_conf(old.as_bytes(), &settings);
        let once = String::from_utf8(bytes.clone()).unwrap();
        assert!(once.starts_with("# Do not edit\nwork_mem = '8MB'\nport=5433\n# written by"), "{once}");
        assert!(once.contains("recovery_target_lsn = '0/9000028'\n") && once.contains("recovery_target_time = ''\n"));
        assert!(once.contains("primary_conninfo = ''\n") && !once.contains("old"));
        assert_eq!(edit_auto_conf(&bytes, &settings), bytes);
    }

    #[test]
    fn what_is_no_utf_8_stays_as_it_is() {
        let old = b"log_line_prefix = '\xe9 '\nport = 1\n";
        let new = edit_auto_conf(old, &[Setting::new("port", "2")]);
        assert_eq!(new, b"log_line_prefix = '\xe9 '\n# written by barman-snap restore\nport = '2'\n");
    }

    #[test]
    fn when_recovery_is_over_no_target_is_left_for_a_copy_of_the_server() {
        let directory = tempfile::tempdir().unwrap();
        for point in [TargetPoint::Immediate, TargetPoint::Name("it's \\ one".into()), TargetPoint::Xid(700)] {
            let target = RecoveryTarget { point, timeline: TargetTimeline::Current, ..RecoveryTarget::default() };
            let settings = recovery_settings(&target, &WalSource::None, false).unwrap();
            let before = edit_auto_conf(b"work_mem = '8MB'\n", &settings);
            std::fs::write(directory.path().join("postgresql.auto.conf"), &before).unwrap();
            let end = settings.iter().find(|setting| setting.name == "recovery_end_command").unwrap();
            assert!(!end.value.contains('%'), "PostgreSQL replaces what begins with a percent sign");
            let status =
                std::process::Command::new("sh").arg("-c").arg(&end.value).current_dir(directory.path()).status();
            assert!(status.unwrap().success());
            let after = std::fs::read_to_string(directory.path().join("postgresql.auto.conf")).unwrap();
            for name in TARGETS {
                assert!(after.contains(&format!("\n{name} = ''\n")), "{after}");
            }
            assert!(
                after.contains("\nrecovery_target_timeline = 'latest'\nrecovery_target_action = 'pause'\n"),
                "{after}"
            );
            assert!(
                after.starts_with("work_mem = '8MB'\n") && after.contains("recovery_end_command = 'sed"),
                "{after}"
            );
        }
    }

    #[test]
    fn a_clone_reaches_out_to_nobody() {
        let names = |major| -> Vec<String> { clone_settings(major).into_iter().map(|setting| setting.name).collect() };
        for name in ["archive_mode", "synchronous_standby_names", "sync_replication_slots"] {
            assert!(names(17).iter().any(|one| one == name), "{name}");
        }
        assert!(!names(16).contains(&"sync_replication_slots".to_owned()));
        assert_eq!(
            libraries_with_workers(b"pg_stat_statements, \"pg_cron\", $libdir/auto_explain.so,,timescaledb"),
            ["pg_cron", "timescaledb"]
        );
    }

    #[test]
    fn a_standby_keeps_its_primary() {
        let settings = recovery_settings(&RecoveryTarget::default(), &WalSource::None, true).unwrap();
        assert!(settings.iter().all(|setting| !setting.name.starts_with("primary_")));
    }
}
