//! The settings that a restored server gets: recovery, and what keeps it away from the original.
//!
//! Pure. They go to the end of `postgresql.auto.conf`, which wins over `postgresql.conf`. All five kinds of target are
//! written, the unused ones empty: one that was left in some file by an earlier restore would make PostgreSQL refuse to
//! start ("multiple recovery targets specified"). For the same reason, and because `archive_cleanup_command` of a standby
//! would delete from the archive of the original, the other commands of recovery are emptied too.

use serde::{Deserialize, Serialize};

use super::target::{RecoveryTarget, TargetPoint, TargetTimeline};
use crate::error::{Error, Result};

/// A line of `postgresql.auto.conf`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// Where the restored server gets its WAL from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalSource {
    /// From the catalog: `<program> wal-restore <url> <server> %f %p`. Its status is 1 if there is no such file, and only then.
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
    /// The value of `restore_command`.
    ///
    /// # Errors
    /// `invalid_input` for a command with a newline, and for one without `%f` and `%p`, which could not fetch anything.
    pub fn restore_command(&self) -> Result<String> {
        let command = match self {
            Self::Catalog { program, url, server } => {
                let fixed = program.iter().map(String::as_str).chain(["wal-restore", url, server]);
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
    let mut restore_command = wal.restore_command()?;
    if !standby && matches!(wal, WalSource::Catalog { .. }) {
        restore_command.push_str(ONLY_MISSING_FILES_END_RECOVERY);
    }
    let mut settings = vec![
        Setting::new("restore_command", restore_command),
        Setting::new("archive_cleanup_command", ""),
        Setting::new("recovery_end_command", ""),
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
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for letter in value.chars() {
        match letter {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}

/// The parameter that a line of a configuration file sets, in lower case; `None` for comments and empty lines.
pub fn parameter_of(line: &str) -> Option<String> {
    let line = line.trim_start();
    let end = line
        .find(|letter: char| !(letter.is_ascii_alphanumeric() || matches!(letter, '_' | '.')))
        .unwrap_or(line.len());
    (end > 0).then(|| line[..end].to_ascii_lowercase())
}

/// `postgresql.auto.conf` with `settings` at its end; what it said about the same parameters before is dropped, so that
/// restoring a restored server does not pile up lines.
pub fn edit_auto_conf(existing: &str, settings: &[Setting]) -> String {
    let ours = |line: &str| {
        line.trim_end() == NOTE
            || parameter_of(line).is_some_and(|name| settings.iter().any(|setting| setting.name == name))
    };
    let mut text: String = existing.lines().filter(|line| !ours(line)).flat_map(|line| [line, "\n"]).collect();
    if text.is_empty() {
        text.push_str("# Do not edit this file manually!\n# It will be overwritten by the ALTER SYSTEM command.\n");
    }
    if !settings.is_empty() {
        text.push_str(NOTE);
        text.push('\n');
    }
    for setting in settings {
        text.push_str(&format!("{} = {}\n", setting.name, conf_quoted(&setting.value)));
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
        assert_eq!(command(false), "bs wal-restore /c main %f %p || exit $(($? == 1 ? 1 : 255))");
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
        let once = edit_auto_conf(old, &settings);
        assert!(once.starts_with("# Do not edit\nwork_mem = '8MB'\nport=5433\n# written by"), "{once}");
        assert!(once.contains("recovery_target_lsn = '0/9000028'\n") && once.contains("recovery_target_time = ''\n"));
        assert!(once.contains("primary_conninfo = ''\n") && !once.contains("old"));
        assert_eq!(edit_auto_conf(&once, &settings), once);
    }

    #[test]
    fn a_standby_keeps_its_primary() {
        let settings = recovery_settings(&RecoveryTarget::default(), &WalSource::None, true).unwrap();
        assert!(settings.iter().all(|setting| !setting.name.starts_with("primary_")));
    }
}
