//! The WAL of a backup: waits for the archiver, and stores from `pg_wal` what it has not.
//!
//! A backup is published only when every segment from begin to stop is in the catalog; a single backup is then restorable
//! by itself, whether archiving works or not.

use std::path::Path;
use std::time::Duration;

use super::driver::Tools;
use super::effects::{started, stopped};
use super::journal::Record;
use super::plan::WalPolicy;
use super::progress::Progress;
use super::state::SessionState;
use super::step::Step;
use super::wait::Wait;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Lsn, Segment};
use crate::postgres::BackupControl;
use crate::wal::WalArchive;

/// How often the primary of a standby is asked to end its segment. Each time costs it a segment, so not too often.
const ASK_PRIMARY: Duration = Duration::from_secs(10);

/// Whom one can ask, as long as this process has not adopted the session of another.
pub(super) struct Connections<'a> {
    /// The server whose backup it is.
    pub(super) control: Option<&'a mut (dyn BackupControl + 'static)>,
    /// Its primary, if it is a standby and the user told where that is.
    pub(super) primary: Option<&'a mut (dyn BackupControl + 'static)>,
}

impl Connections<'_> {
    /// Up to which position segments in `pg_wal` are complete. On a primary `pg_backup_stop` has switched the segment; on
    /// a standby that is for the WAL receiver to say, and without a connection nobody knows.
    async fn complete_up_to(&mut self, state: &SessionState) -> Lsn {
        if !state.plan.facts.in_recovery {
            return Lsn(u64::MAX);
        }
        match &mut self.control {
            Some(control) => control.flushed_lsn().await.unwrap_or(Lsn(0)),
            None => Lsn(0),
        }
    }

    /// What the archiver says it has stored and the catalog does not have. The archive is not what this waits for, so what
    /// cannot be told is left open.
    async fn archived_elsewhere(&mut self, archive: &WalArchive) -> Option<String> {
        let state = self.control.as_mut()?.archiver().await.ok()??;
        let file = archive.archived_elsewhere(&state).await.ok()??;
        tracing::warn!(file, "the server says that this file was archived, but it is not in this catalog");
        Some(file)
    }

    /// A standby cannot end a segment; on a quiet primary the last one of the backup could stay open for hours.
    async fn ask_primary(&mut self, state: &SessionState) {
        if let (true, Some(primary)) = (state.plan.facts.in_recovery, &mut self.primary)
            && let Err(error) = primary.switch_wal().await
        {
            tracing::warn!(error = error.chain(), "the primary could not be asked to end its WAL segment");
        }
    }
}

/// Waits until every needed segment is in the catalog, and stores what the archiver has not, where `pg_wal` can be read.
pub(super) async fn complete(tools: &Tools, state: &SessionState, mut connections: Connections<'_>) -> Result<Record> {
    let plan = &state.plan;
    if plan.wal == WalPolicy::External {
        return Ok(Record::WalComplete { supplied: Vec::new(), archived_elsewhere: None });
    }
    let (timeline, size) = (started(state)?.timeline, plan.facts.segment_size);
    let (begin_lsn, end_lsn) = (started(state)?.lsn, stopped(state)?.lsn);
    let needed: Vec<Segment> = Segment::needed(begin_lsn, end_lsn, timeline, size).collect();
    let (Some(begin), Some(end)) = (needed.first(), needed.last()) else {
        return Err(Error::corrupt(format!("the backup ended at {end_lsn}, before it began at {begin_lsn}")));
    };
    let archive = WalArchive::new(&tools.catalog).with_system_id(&plan.facts.system_id);
    let pg_wal = plan.facts.data_directory.join("pg_wal");
    // Of a server on another host, whatever lies at that path here is not its WAL.
    let is_here = plan.sighting.as_ref().is_none_or(|seen| seen.directory.is_some());
    let archiving = plan.facts.archive_mode != "off" && !plan.facts.archive_command.is_empty();
    // A working archiver gets a moment to do its job before we do it.
    let grace = if archiving { Duration::from_secs(2) } else { Duration::ZERO };
    let mut wait = Wait::new(tools, Some(tools.patience.wal), Duration::from_millis(20), Duration::from_secs(2));
    let (mut supplied, mut archived_elsewhere) = (Vec::new(), None);
    let mut asked_again = Duration::ZERO;
    loop {
        let missing = archive.missing(*begin, *end, size).await?;
        let (done, of) = (needed.len() - missing.len(), needed.len());
        tools.listener.tell(&Progress::Waiting { step: Step::CompleteWal, done, of, percent: None });
        if missing.is_empty() {
            return Ok(Record::WalComplete { supplied, archived_elsewhere });
        }
        // Before the engine does the work of the archiver, and so hides that it was not done.
        if archiving && archived_elsewhere.is_none() && wait.elapsed() >= grace {
            archived_elsewhere = connections.archived_elsewhere(&archive).await;
        }
        let switched = end.next(size).map_or(Lsn(u64::MAX), |next| next.start(size));
        if is_here && wait.elapsed() >= grace && connections.complete_up_to(state).await >= switched {
            match archive.supply(&pg_wal, &missing).await {
                Ok(found) => {
                    let stored = found.stored.iter().map(ToString::to_string);
                    let new: Vec<String> = stored.filter(|name| !supplied.contains(name)).collect();
                    // What was stored and is missing again is not looked for without a pause.
                    if !new.is_empty() {
                        supplied.extend(new);
                        continue;
                    }
                }
                // Not for us to read; the archiver may still come.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
                Err(error) => return Err(error),
            }
        }
        if wait.elapsed() >= asked_again {
            connections.ask_primary(state).await;
            asked_again = wait.elapsed() + ASK_PRIMARY;
        }
        if let Err(error) = wait.pause(state).await {
            let names: Vec<String> = missing.iter().take(3).map(ToString::to_string).collect();
            let hint = why_missing(state, &pg_wal);
            let message = format!("{} WAL segment(s) did not reach the catalog: {}", missing.len(), names.join(", "));
            return Err(Error::new(ErrorKind::Unavailable, message).with_hint(hint).with_source(error));
        }
    }
}

/// Why segments may be missing, for the one who has to do something about it.
fn why_missing(state: &SessionState, pg_wal: &Path) -> String {
    let facts = &state.plan.facts;
    let archiver = format!(
        "archive_mode is {}, archive_command is {:?}, and {} did not have them for this process",
        facts.archive_mode,
        facts.archive_command,
        pg_wal.display()
    );
    if facts.in_recovery {
        return format!(
            "a standby has the last segment only when the primary has ended it: run pg_switch_wal() there, or give \
             --primary-dbname; {archiver}"
        );
    }
    archiver
}
