//! Whose files are these: what the server that answered says of itself, held against the files of a data directory.
//!
//! A path proves nothing: a connection may lead to the primary, to another cluster, or through a load balancer to whoever is
//! there today, and all of them may keep their files at the same path. What is told apart here would otherwise become a backup
//! of one server with the label of another, which restores to nothing. Pure, but for [`ServerFiles::read`]; how a server is
//! asked is in [`sighting`](super::sighting).
//!
//! The invariant: a sign that was seen is enough, as nobody else can have made it; one that was not seen where it had to be
//! is a refusal whatever else is equal; without signs every fact has to fit.

use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use super::beneath::read_file;
use super::postmaster::PostmasterFile;
use crate::error::{Error, Result};
use crate::model::{ClusterState, ControlFile};
use crate::postgres::ServerIdentity;

/// How much later than in `postmaster.pid` the server may say it was started. It takes the one time first of all, the other
/// when it has made its memory and removed old temporary files.
const SLOW_START: TimeDelta = TimeDelta::seconds(5);

/// How often a control file that is being written is read again.
const ATTEMPTS: usize = 20;

/// What a data directory says of its server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFiles {
    /// The data directory, without links.
    pub directory: PathBuf,
    /// `postmaster.pid`; without, no server runs there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postmaster: Option<PostmasterFile>,
    /// `global/pg_control`.
    pub control: ControlFile,
}

/// What came of asking a server for a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It was seen in the data directory, and was gone when it had to be.
    Seen,
    /// The server has made one, but not there.
    Unseen,
    /// The server could not be asked, or not by this program.
    NotAsked,
}

impl ServerFiles {
    /// Looks into a data directory.
    ///
    /// # Errors
    /// If one of the files cannot be read or is damaged.
    pub fn read(directory: &Path) -> Result<Self> {
        Ok(Self {
            directory: directory.to_owned(),
            postmaster: read_postmaster(directory)?,
            control: read_control(&directory.join("global/pg_control"))?,
        })
    }
}

/// `pg_control` has 8 kB, and the other files less.
const SMALL: u64 = 64 << 10;

/// Reads `postmaster.pid`; `None` if no server runs there.
pub(super) fn read_postmaster(directory: &Path) -> Result<Option<PostmasterFile>> {
    let path = directory.join("postmaster.pid");
    let Some(bytes) = read_file(&path, SMALL).map_err(with_user_hint)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    PostmasterFile::parse(&text).map(Some).map_err(|error| error.with_context("file", path.display().to_string()))
}

fn read_control(path: &Path) -> Result<ControlFile> {
    let mut attempt = 1;
    loop {
        let bytes = read_file(path, SMALL).map_err(with_user_hint)?;
        let bytes = bytes.ok_or_else(|| unreadable(path, std::io::ErrorKind::NotFound.into()))?;
        match ControlFile::parse(&bytes) {
            Err(_) if attempt < ATTEMPTS => attempt += 1,
            result => return result.map_err(|error| error.with_context("file", path.display().to_string())),
        }
    }
}

/// The error of a file that the server has and this process cannot read.
pub(super) fn unreadable(path: &Path, error: std::io::Error) -> Error {
    with_user_hint(Error::io("read", path, error))
}

pub(super) fn with_user_hint(error: Error) -> Error {
    error.with_hint("run it as the user of the server, or as root")
}

/// Refuses files that are not those of the server which answered.
///
/// # Errors
/// [`Precondition`](crate::ErrorKind::Precondition), with every difference.
pub fn judge(told: &ServerIdentity, files: &ServerFiles, proof: Proof) -> Result<()> {
    if proof == Proof::Seen {
        return Ok(());
    }
    let why = differences(told, files);
    let (why, hint) = match (why.is_empty(), proof) {
        (true, Proof::Unseen) => (
            "a file that it was asked to make in its data directory is not there".to_owned(),
            "is it a copy, or mounted over the server's own directory? run this where that one is".to_owned(),
        ),
        (true, _) => return Ok(()),
        (false, _) => {
            let here = match files.postmaster.as_ref().and_then(PostmasterFile::way) {
                Some(way) => format!("connect to the server of that directory ({way})"),
                None => "start the server of that directory and connect to it".to_owned(),
            };
            (why.join(", "), format!("{here}, or run this where the files of the other server are"))
        }
    };
    let message = format!(
        "the server at {} is not the one whose files are in {}: {why}",
        told.reached,
        files.directory.display()
    );
    Err(Error::precondition(message).with_hint(hint))
}

/// Refuses a server that is not the one which was described on another host. `seen` is what that one said of itself then; without
/// it only the facts in its files are left.
///
/// # Errors
/// [`Precondition`](crate::ErrorKind::Precondition), with every difference.
pub fn judge_described(
    told: &ServerIdentity,
    host: &str,
    files: &ServerFiles,
    seen: Option<&ServerIdentity>,
) -> Result<()> {
    let why = match seen {
        Some(seen) => {
            let mut why = Vec::new();
            if seen.system_id != told.system_id {
                why.push(other_system(&told.system_id, &seen.system_id));
            }
            if seen.started != told.started {
                why.push(other_start(told, seen.started.to_utc()));
            }
            why
        }
        None => differences(told, files),
    };
    if why.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the server at {} is not the one that was described on host {} with its files in {}: {}",
        told.reached,
        host,
        files.directory.display(),
        why.join(", ")
    );
    Err(Error::precondition(message).with_hint(
        "connect to the server on that host; if it was restarted since, describe the host anew (describe-host -d, there)",
    ))
}

/// Everything in which server and files differ.
fn differences(told: &ServerIdentity, files: &ServerFiles) -> Vec<String> {
    let mut why = Vec::new();
    if told.system_id != files.control.system_id {
        why.push(other_system(&told.system_id, &files.control.system_id));
    }
    let role = |in_recovery| if in_recovery { "a standby" } else { "a primary" };
    let files_in_recovery = match files.control.state {
        ClusterState::InProduction | ClusterState::ShutDown => Some(false),
        ClusterState::InArchiveRecovery | ClusterState::ShutDownInRecovery => Some(true),
        ClusterState::Between => None,
    };
    if files_in_recovery.is_some_and(|files| files != told.in_recovery) {
        why.push(format!("it is {}, the files are those of {}", role(told.in_recovery), role(!told.in_recovery)));
    }
    let Some(postmaster) = &files.postmaster else {
        why.push("no server runs on the files".to_owned());
        return why;
    };
    let late = told.started.to_utc() - DateTime::<Utc>::from_timestamp(postmaster.started, 0).unwrap_or_default();
    // The clock may have been put right by a moment between the two.
    if late < TimeDelta::seconds(-1) || late > SLOW_START {
        why.push(other_start(told, DateTime::from_timestamp(postmaster.started, 0).unwrap_or_default()));
    }
    if postmaster.port.is_some_and(|port| port != told.port) {
        why.push(format!("it has port {}, the server of the files {}", told.port, postmaster.port.unwrap_or_default()));
    }
    why
}

fn other_system(told: &str, files: &str) -> String {
    format!("its system identifier is {told}, that of the files {files}")
}

fn other_start(told: &ServerIdentity, files: DateTime<Utc>) -> String {
    let shown = |time: DateTime<Utc>| time.format("%Y-%m-%d %H:%M:%S UTC").to_string();
    let (told, files) = (told.started.to_utc(), files);
    match (shown(told), shown(files)) {
        (told, files) if told != files => format!("it was started at {told}, the server of the files at {files}"),
        (same, _) => format!("it was started at another moment of {same} than the server of the files"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::model::{Lsn, Timeline};

    const STARTED: i64 = 1_780_049_472;

    fn told(started_us: i64) -> ServerIdentity {
        ServerIdentity {
            reached: "host vip port 5432".into(),
            system_id: "74".into(),
            started: DateTime::from_timestamp_micros(started_us).unwrap().fixed_offset(),
            port: 5432,
            in_recovery: false,
            backend: 4711,
        }
    }

    fn files() -> ServerFiles {
        let text = format!("4700\n/srv/pg\n{STARTED}\n5432\n/run/postgresql\n\n 1 2\nready   \n");
        ServerFiles {
            directory: "/srv/pg".into(),
            postmaster: Some(PostmasterFile::parse(&text).unwrap()),
            control: ControlFile {
                system_id: "74".into(),
                version: 1300,
                state: ClusterState::InProduction,
                checkpoint: Lsn(0x900_0060),
                timeline: Timeline(1),
            },
        }
    }

    fn refusal(result: Result<()>) -> String {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        assert!(error.hint().is_some(), "{error}");
        error.to_string()
    }

    #[test]
    fn without_a_sign_every_fact_has_to_fit() {
        let server = told(STARTED * 1_000_000 + 749_977);
        judge(&server, &files(), Proof::NotAsked).unwrap();
        type Change<'a> = (&'a str, &'a dyn Fn(&mut ServerFiles));
        let changes: [Change<'_>; 5] = [
            ("its system identifier is 74, that of the files 75", &|files| files.control.system_id = "75".into()),
            ("it is a primary, the files are those of a standby", &|files| {
                files.control.state = ClusterState::InArchiveRecovery;
            }),
            ("no server runs on the files", &|files| files.postmaster = None),
            (
                "it was started at 2026-05-29 10:11:12 UTC, the server of the files at 2026-05-29 10:11:22 UTC",
                &|files| {
                    files.postmaster.as_mut().unwrap().started += 10;
                },
            ),
            ("it has port 5432, the server of the files 5433", &|files| {
                files.postmaster.as_mut().unwrap().port = Some(5433);
            }),
        ];
        for (what, change) in changes {
            let mut other = files();
            change(&mut other);
            for proof in [Proof::NotAsked, Proof::Unseen] {
                let text = refusal(judge(&server, &other, proof));
                assert!(text.contains(what), "{text}");
                let way = if other.postmaster.is_some() { "(-h /run/postgresql -p 543" } else { "start the server" };
                assert!(text.contains(way), "{text}");
            }
            // Of another clock, another port in a container: nobody else can have made the sign.
            judge(&server, &other, Proof::Seen).unwrap();
        }
    }

    #[test]
    fn a_sign_that_is_not_there_is_a_refusal_even_if_all_facts_are_equal() {
        let text = refusal(judge(&told(STARTED * 1_000_000), &files(), Proof::Unseen));
        assert_eq!(
            text,
            "the server at host vip port 5432 is not the one whose files are in /srv/pg: a file that it was asked to make in \
             its data directory is not there (is it a copy, or mounted over the server's own directory? run this where that \
             one is)"
        );
    }

    #[test]
    fn a_server_may_take_a_moment_to_start_but_not_much_more() {
        for (late_ms, fits) in
            [(0, true), (4_900, true), (-900, true), (5_100, false), (-1_100, false), (60_000, false)]
        {
            let judged = judge(&told(STARTED * 1_000_000 + late_ms * 1000), &files(), Proof::NotAsked);
            assert_eq!(judged.is_ok(), fits, "{late_ms}");
        }
    }

    #[test]
    fn a_described_server_is_known_to_the_microsecond() {
        let seen = told(STARTED * 1_000_000 + 1);
        let mut stale = files();
        // Promoted since, and its lines in the files are of then.
        stale.control.state = ClusterState::InArchiveRecovery;
        judge_described(&seen, "db1", &stale, Some(&seen)).unwrap();
        let twin = told(STARTED * 1_000_000 + 2);
        let text = refusal(judge_described(&twin, "db1", &files(), Some(&seen)));
        assert!(
            text.contains("another moment of 2026-05-29 10:11:12 UTC") && text.contains("describe-host -d"),
            "{text}"
        );
        judge_described(&twin, "db1", &files(), None).unwrap();
        refusal(judge_described(&twin, "db1", &stale, None));
    }
}
