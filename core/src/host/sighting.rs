//! Makes sure that the server which answers is the one whose files will be cut: before backup mode, and again when the cut is
//! over.
//!
//! Asks and looks; what it means is decided in [`whose`] and [`check_same`]. The way that leaves no doubt: the
//! server makes a small file in its data directory, which has to be in the one that is looked at, and to be gone again. It
//! needs no privilege, no common process table, no common path and no exact clock.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::beneath::read_file;
use super::postmaster::PostmasterFile;
use super::whose::{self, Proof, ServerFiles};
use super::{HostView, PgPaths, PgRole};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{BackupControl, ServerFacts, ServerIdentity, Sign};

/// How often, and how long apart, a sign is looked for before it counts as absent: a network file system may be late.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// The longest file that is taken for a sign.
const LONGEST: u64 = 1 << 20;

/// The server of a backup, as it was seen before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// What it says of itself.
    pub identity: ServerIdentity,
    /// Its data directory, where that is on this host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// The `postmaster.pid` in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postmaster: Option<PostmasterFile>,
}

/// Makes sure that `control` speaks with the server whose data directory is among `paths`. `None` if the control cannot tell
/// with whom it speaks.
///
/// # Errors
/// [`Precondition`](ErrorKind::Precondition) if it is another one; if the files cannot be read.
pub async fn sight(
    control: &mut dyn BackupControl,
    clock: &dyn Clock,
    host: HostView<'_>,
    facts: &ServerFacts,
    paths: &PgPaths,
) -> Result<Option<Sighting>> {
    let Some(identity) = control.identity().await? else { return Ok(None) };
    let HostView::Described(description) = host else {
        let data = paths.data().ok_or_else(|| Error::internal("a cluster without a data directory"))?;
        let postmaster = look(control, clock, &identity, &data.real).await?;
        check_tablespaces(facts.version / 10_000, paths)?;
        return Ok(Some(Sighting { identity, directory: Some(data.real.clone()), postmaster }));
    };
    let described = description.server(&facts.data_directory)?;
    whose::judge_described(&identity, &description.host, &described.files, described.identity.as_ref())?;
    Ok(Some(Sighting { identity, directory: None, postmaster: None }))
}

/// Makes sure that there is something of the server in every tablespace. In a container the directory of one may be there, and
/// nothing mounted on it; PostgreSQL makes its own directory in it when the tablespace is made.
fn check_tablespaces(major: u32, paths: &PgPaths) -> Result<()> {
    let begin = format!("PG_{major}_");
    for path in paths.iter().filter(|path| matches!(path.role, PgRole::Tablespace { .. })) {
        let entries = std::fs::read_dir(&path.real).map_err(|error| whose::unreadable(&path.real, error))?;
        if !entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(&begin)) {
            return Err(Error::precondition(format!("the {path} holds nothing of PostgreSQL {major}"))
                .with_hint("is its file system mounted here, at the path that the server names?"));
        }
    }
    Ok(())
}

/// Makes sure that it still is the same server, the same process of it, and the same files.
///
/// # Errors
/// [`Postgres`](ErrorKind::Postgres) if something has changed; as [`sight`].
pub async fn sight_again(control: &mut dyn BackupControl, clock: &dyn Clock, before: &Sighting) -> Result<()> {
    let identity =
        control.identity().await?.ok_or_else(|| Error::internal("the server no longer tells which one it is"))?;
    let postmaster = before.directory.as_deref().map(whose::read_postmaster).transpose()?.flatten();
    check_same(before, &identity, postmaster.as_ref())?;
    match &before.directory {
        Some(directory) => look(control, clock, &identity, directory).await.map(drop),
        None => Ok(()),
    }
}

/// Refuses a server that is not the one of before. Pure.
fn check_same(before: &Sighting, now: &ServerIdentity, postmaster: Option<&PostmasterFile>) -> Result<()> {
    let old = &before.identity;
    let changed = |what: String| Error::new(ErrorKind::Postgres, what);
    if old.system_id != now.system_id || old.started != now.started {
        let what = format!(
            "another server answers than at the beginning of the backup: one of system {} that was started at {}, instead of \
             one of system {} that was started at {}",
            now.system_id, now.started, old.system_id, old.started
        );
        return Err(changed(what).with_hint("connect to one server directly and start the backup again"));
    }
    if old.backend != now.backend {
        let what = format!(
            "another process of the server answers (process {}) than at the beginning of the backup (process {})",
            now.backend, old.backend
        );
        let hint = format!(
            "a backup is one session: connect to the server directly, not through a pooler; what is still in backup mode \
             ends with SELECT pg_terminate_backend({})",
            old.backend
        );
        return Err(changed(what).with_hint(hint));
    }
    if old.in_recovery != now.in_recovery {
        return Err(
            changed("the standby was promoted during the backup".to_owned()).with_hint("start the backup again")
        );
    }
    let (was, is) = (before.postmaster.as_ref(), postmaster);
    if was.map(|file| (file.pid, file.started)) != is.map(|file| (file.pid, file.started)) {
        let directory = before.directory.as_deref().unwrap_or(Path::new("")).display();
        let what =
            format!("the server of {directory} is another one than at the beginning of the backup (postmaster.pid)");
        return Err(
            changed(what).with_hint("was it restarted, or another directory mounted there? start the backup again")
        );
    }
    Ok(())
}

/// Looks whether a data directory is that of the server, and returns its `postmaster.pid`.
async fn look(
    control: &mut dyn BackupControl,
    clock: &dyn Clock,
    identity: &ServerIdentity,
    directory: &Path,
) -> Result<Option<PostmasterFile>> {
    let proof = match control.leave_sign().await {
        Ok(Some(sign)) => {
            let seen = wait_for(clock, || is_there(directory, &sign)).await;
            control.remove_sign().await?;
            if seen? && wait_for(clock, || is_there(directory, &sign).map(|there| !there)).await? {
                Proof::Seen
            } else {
                Proof::Unseen
            }
        }
        Ok(None) => Proof::NotAsked,
        Err(error) => {
            control.alive().await?;
            tracing::warn!(error = error.chain(), "the server cannot show its data directory; its files have to tell");
            Proof::NotAsked
        }
    };
    if proof == Proof::Seen {
        return whose::read_postmaster(directory);
    }
    let files = ServerFiles::read(directory)?;
    whose::judge(identity, &files, proof)?;
    Ok(files.postmaster)
}

async fn wait_for(clock: &dyn Clock, look: impl Fn() -> Result<bool>) -> Result<bool> {
    for _ in 1..LOOKS {
        if look()? {
            return Ok(true);
        }
        clock.sleep(PAUSE).await;
    }
    look()
}

/// Whether the sign is in that directory.
fn is_there(directory: &Path, sign: &Sign) -> Result<bool> {
    let path = directory.join(&sign.file);
    // Who may not enter the directory cannot tell whether a file is in it.
    let bytes = read_file(&path, LONGEST).map_err(whose::with_user_hint)?;
    Ok(bytes.is_some_and(|bytes| String::from_utf8_lossy(&bytes).lines().any(|line| line == sign.line)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Sighting {
        Sighting {
            identity: ServerIdentity {
                reached: "socket /run".into(),
                system_id: "74".into(),
                started: chrono::DateTime::from_timestamp(1_780_049_472, 1000).unwrap().fixed_offset(),
                port: 5432,
                in_recovery: true,
                backend: 4711,
            },
            directory: Some("/srv/pg".into()),
            postmaster: Some(PostmasterFile::parse("4700\n/srv/pg\n1780049472\n5432\n").unwrap()),
        }
    }

    #[test]
    fn what_has_changed_since_is_named() {
        let before = seen();
        let postmaster = before.postmaster.clone();
        check_same(&before, &before.identity, postmaster.as_ref()).unwrap();
        let refused = |change: &dyn Fn(&mut Sighting)| {
            let mut now = seen();
            change(&mut now);
            let error = check_same(&before, &now.identity, now.postmaster.as_ref()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Postgres);
            error.to_string()
        };
        let text = refused(&|now| now.identity.started += chrono::TimeDelta::microseconds(1));
        assert!(text.starts_with("another server answers"), "{text}");
        let text = refused(&|now| now.identity.backend = 4712);
        assert!(text.contains("pg_terminate_backend(4711)"), "{text}");
        let text = refused(&|now| now.identity.in_recovery = false);
        assert!(text.contains("promoted"), "{text}");
        for text in
            [refused(&|now| now.postmaster = None), refused(&|now| now.postmaster.as_mut().unwrap().started += 1)]
        {
            assert!(text.contains("/srv/pg"), "{text}");
        }
    }

    #[test]
    fn a_tablespace_without_anything_of_the_server_is_not_its() {
        let temp = tempfile::tempdir().unwrap();
        let real = temp.path().join("ts");
        std::fs::create_dir(&real).unwrap();
        let role = PgRole::Tablespace { name: "hot".into(), oid: 16400 };
        let paths = PgPaths::from_known(vec![crate::host::PgPath { role, named: real.clone(), real: real.clone() }]);
        std::fs::create_dir(real.join("PG_16_202307071")).unwrap();
        let error = check_tablespaces(17, &paths).unwrap_err();
        assert!(error.message().starts_with("the tablespace \"hot\" ") && error.hint().is_some(), "{error}");
        std::fs::create_dir(real.join("PG_17_202406281")).unwrap();
        check_tablespaces(17, &paths).unwrap();
    }

    #[test]
    fn a_sign_counts_only_with_the_line_of_the_process() {
        let temp = tempfile::tempdir().unwrap();
        let sign = Sign { file: "pg_snapshots/00000003-0000001B-1".into(), line: "pid:4711".into() };
        assert!(!is_there(temp.path(), &sign).unwrap());
        std::fs::create_dir(temp.path().join("pg_snapshots")).unwrap();
        let path = temp.path().join(&sign.file);
        for (text, there) in [("vxid:3/27\npid:4712\n", false), ("vxid:3/27\npid:4711\n", true), ("", false)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(is_there(temp.path(), &sign).unwrap(), there, "{text:?}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(!is_there(temp.path(), &sign).unwrap());
    }
}
