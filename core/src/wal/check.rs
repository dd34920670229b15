//! Which segments of a backup the archive does not have, and supplying them from `pg_wal`.
//!
//! A backup can be restored only if every segment from its begin to its stop is in the archive. The invariant: only whole
//! segments count; a partial one does not, and what is supplied was checked like everything that enters the archive.

use std::collections::BTreeSet;
use std::path::Path;

use futures::{StreamExt, TryStreamExt};

use super::archive::{WalArchive, blocking, in_dir, read_unchanged};
use crate::catalog::ObjectKind;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Segment, SegmentSize, WalName};
use crate::postgres::ArchiverState;

/// How many folders are listed at the same time.
const PARALLEL: usize = 8;

/// What came of [`WalArchive::supply`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Supplied {
    /// Now in the archive.
    pub stored: Vec<Segment>,
    /// Not in the directory, or there no longer.
    pub absent: Vec<Segment>,
}

impl WalArchive {
    /// The segments from `begin` to `end` (both included, on one timeline) that the archive does not have. One list for each
    /// folder, however many segments it holds.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if `end` comes before `begin` or is of another timeline.
    pub async fn missing(&self, begin: Segment, end: Segment, size: SegmentSize) -> Result<Vec<Segment>> {
        if end < begin || end.timeline != begin.timeline {
            return Err(Error::invalid(format!("not a range of WAL: from {begin} to {end}")));
        }
        let folders: BTreeSet<String> = (begin.log..=end.log).map(|log| Segment { log, ..begin }.directory()).collect();
        let lists = futures::stream::iter(folders)
            .map(|folder| async move { self.catalog.space().list_dir(&self.catalog.layout().wal_dir(&folder)).await });
        let lists: Vec<_> = lists.buffered(PARALLEL).try_collect().await?;
        let mut present = BTreeSet::new();
        for object in lists.into_iter().flat_map(|list| list.objects) {
            if let ObjectKind::Wal(wal) = self.catalog.layout().parse(&object.key)
                && let WalName::Segment(segment) = wal.name
            {
                present.insert(segment);
            }
        }
        Ok(begin.through(end, size).filter(|segment| !present.contains(segment)).collect())
    }

    /// Whether the archive has a file, under whatever compression.
    ///
    /// # Errors
    /// If the archive cannot be listed.
    pub async fn has(&self, name: WalName) -> Result<bool> {
        Ok(!self.stored_as(name).await?.is_empty())
    }

    /// The file that the server says it has archived last, with the settings that hold now, if this archive does not have it: then
    /// its `archive_command` stores elsewhere, or nothing at all.
    ///
    /// # Errors
    /// If the archive cannot be listed.
    pub async fn archived_elsewhere(&self, archiver: &ArchiverState) -> Result<Option<String>> {
        let Some(file) = archiver.archived_now() else { return Ok(None) };
        let Ok(name) = file.parse::<WalName>() else { return Ok(None) };
        Ok((!self.has(name).await?).then(|| file.to_owned()))
    }

    /// Stores `segments` from a `pg_wal` directory. Only for segments that PostgreSQL will not write to any more: the caller
    /// knows that the last one was switched.
    ///
    /// # Errors
    /// As [`archive`](WalArchive::archive). A segment that the directory does not have is no error.
    pub async fn supply(&self, pg_wal: &Path, segments: &[Segment]) -> Result<Supplied> {
        let mut supplied = Supplied::default();
        // One after the other: there are few, and each is held in memory.
        for segment in segments {
            let name = WalName::Segment(*segment);
            let path = in_dir(pg_wal, name);
            match blocking(move || read_unchanged(&path)).await {
                Ok(content) => {
                    self.store(name, content).await?;
                    supplied.stored.push(*segment);
                }
                Err(error) if error.kind() == ErrorKind::NotFound => supplied.absent.push(*segment),
                Err(error) => return Err(error),
            }
        }
        Ok(supplied)
    }
}
