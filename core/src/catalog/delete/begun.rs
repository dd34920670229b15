//! What is left of a backup whose deletion was begun: not a backup.
//!
//! Before the first of its snapshots goes, its `backup.info` says that it does: the status becomes FAILED, which every reader,
//! stock tools too, takes for a backup that cannot be restored and does not count, and a note of ours in `copy_stats` says why.
//! So a deletion that breaks off leaves nothing that looks whole, and what cannot be recorded (a catalog that is read-only) is not
//! begun. The same command again, or the next run of a policy, ends it.

use chrono::{DateTime, Utc};

use super::super::{Catalog, PutIf};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::id::BackupId;
use crate::model::{BackupInfo, BackupStatus, Literal};

/// The key of the note in `copy_stats`: `{'begun': <RFC 3339>}`.
const KEY: &str = "barman_snap_deletion";

/// When the deletion of a backup was begun, if it was.
pub(crate) fn begun(info: &BackupInfo) -> Option<&str> {
    info.copy_stats.as_ref()?.get(KEY)?.get("begun")?.as_str()
}

/// What is written before the first snapshot goes. The time is that of the first attempt.
fn marked(mut info: BackupInfo, now: DateTime<Utc>) -> Result<BackupInfo> {
    let since = begun(&info).map_or_else(|| now.to_rfc3339(), str::to_owned);
    info.status = BackupStatus::Failed;
    info.error = Some(format!("its deletion was begun at {since} and is not complete"));
    info.copy_stats_mut().insert(KEY, Literal::dict([("begun", since.into())]))?;
    Ok(info)
}

impl Catalog {
    /// Records that the deletion of a backup begins. Gone already is success. One whose metadata cannot be read counts as no
    /// backup anyway; that the catalog takes a change has to be seen all the same.
    ///
    /// # Errors
    /// If it cannot be recorded; then nothing may be deleted.
    pub(super) async fn begin_deletion(&self, id: &BackupId, now: DateTime<Utc>) -> Result<()> {
        let key = self.layout().backup_info(id);
        for _ in 0..5 {
            let Some((bytes, version)) = self.space().get(&key).await? else { return Ok(()) };
            let Ok(parsed) = BackupInfo::parse_bytes(&bytes) else { return self.check_writable().await };
            let text = match marked(parsed.info, now).and_then(|info| info.to_text()) {
                Ok(text) => text,
                Err(error) => {
                    tracing::warn!(backup_id = %id, error = error.chain(), "its backup.info cannot say that it is being deleted");
                    return self.check_writable().await;
                }
            };
            match self.space().put_if_version(&key, text, &version).await? {
                PutIf::Replaced(_) => return Ok(()),
                PutIf::Changed => {}
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("the backup.info of {id} keeps changing")).with_retry(Retry::Safe))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_deleted_is_failed_for_every_reader_and_keeps_the_time_of_the_first_attempt() {
        let done = BackupInfo { status: BackupStatus::Done, ..BackupInfo::default() };
        assert_eq!(begun(&done), None);
        let first = marked(done, "2026-05-29T10:00:00Z".parse().unwrap()).unwrap();
        let again = marked(first.clone(), "2026-05-30T10:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(first, again);
        let read = BackupInfo::parse(&again.to_text().unwrap()).unwrap().info;
        assert_eq!((read.status, begun(&read)), (BackupStatus::Failed, Some("2026-05-29T10:00:00+00:00")));
        assert!(read.error.unwrap().contains("its deletion was begun at 2026-05-29"));
    }
}
