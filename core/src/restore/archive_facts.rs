//! What the catalog knows that a restore needs, and where its proof is stored.
//!
//! The only file of this module that knows the catalog; everything else takes plain facts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use async_trait::async_trait;
use futures::stream::{StreamExt, TryStreamExt};

use super::plan::ArchiveFacts;
use super::proof::Proof;
use super::target::Ancestry;
use super::verify::WalReader;
use crate::catalog::Catalog;
use crate::catalog::layout::ObjectKind;
use crate::catalog::space::{ObjectInfo, PutNew};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{BackupInfo, Segment, SegmentSize, Timeline, TimelineHistory, WalName, WalObject};
use crate::wal::{WalArchive, codec};

/// How many folders and history files are read at the same time.
const PARALLEL: usize = 16;

/// The WAL from the begin of a backup on, of its timeline and all later ones, and all timeline histories.
///
/// # Errors
/// Those of the store, and `corrupt` for a history file that cannot be read.
pub async fn archive_facts(catalog: &Catalog, info: &BackupInfo) -> Result<ArchiveFacts> {
    let size = info.xlog_segment_size.unwrap_or(SegmentSize::DEFAULT);
    let own = info.timeline.unwrap_or(Timeline(1));
    let begin = info.begin_xlog.map_or(Segment { timeline: own, log: 0, seg: 0 }, |lsn| Segment::of(lsn, own, size));
    let top = catalog.space().list_dir(&catalog.layout().wals()).await?;

    let wanted = top.dirs.into_iter().filter(|folder| {
        let number = |range| folder.get(range).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        number(0..8).zip(number(8..16)).is_some_and(|(timeline, log)| timeline >= own.0 && log >= begin.log)
    });
    let lists = futures::stream::iter(wanted)
        .map(|folder| async move { catalog.space().list_dir(&catalog.layout().wal_dir(&folder)).await });
    let lists: Vec<_> = lists.buffered(PARALLEL).try_collect().await?;
    let (mut segments, mut stored) = (BTreeSet::new(), BTreeMap::new());
    for object in lists.into_iter().flat_map(|list| list.objects).chain(top.objects.iter().cloned()) {
        let Some(wal) = wal_object(catalog, &object.key) else { continue };
        match wal.name {
            WalName::Segment(segment) if (segment.log, segment.seg) >= (begin.log, begin.seg) => {
                segments.insert(segment.to_string());
            }
            WalName::History(_) => {}
            _ => continue,
        }
        // Of two that differ in their suffix the first one counts.
        let first = stored.entry(wal.name.to_string()).or_insert(object.last_modified);
        *first = object.last_modified.min(*first);
    }
    Ok(ArchiveFacts { segments: Some(segments), stored, ancestry: histories(catalog, top.objects).await? })
}

/// The histories of all timelines in the archive.
///
/// # Errors
/// Those of the store, and `corrupt` for a history file that cannot be read.
pub async fn ancestry(catalog: &Catalog) -> Result<Ancestry> {
    let top = catalog.space().list_dir(&catalog.layout().wals()).await?;
    histories(catalog, top.objects).await
}

async fn histories(catalog: &Catalog, objects: Vec<ObjectInfo>) -> Result<Ancestry> {
    let histories = objects.into_iter().filter_map(|object| {
        let wal = wal_object(catalog, &object.key)?;
        match wal.name {
            WalName::History(timeline) => Some((timeline, wal, object.key)),
            _ => None,
        }
    });
    let histories = futures::stream::iter(histories).map(|(timeline, wal, key)| async move {
        Ok::<_, Error>((timeline, history(catalog, timeline, wal, &key).await?))
    });
    histories.buffered(PARALLEL).try_collect().await
}

fn wal_object(catalog: &Catalog, key: &str) -> Option<WalObject> {
    match catalog.layout().parse(key) {
        ObjectKind::Wal(wal) => Some(wal),
        _ => None,
    }
}

async fn history(catalog: &Catalog, timeline: Timeline, wal: WalObject, key: &str) -> Result<TimelineHistory> {
    let found = catalog.space().get(key).await?;
    let (bytes, _) = found.ok_or_else(|| Error::not_found(format!("{key} has just been removed")))?;
    let text = codec::decompress(wal.compression, &bytes, TimelineHistory::MAX_BYTES as u64)?;
    TimelineHistory::read(timeline, &text)
}

#[async_trait]
impl WalReader for WalArchive {
    async fn fetch(&self, name: &str, destination: &Path) -> Result<()> {
        Self::fetch(self, name, destination, false).await.map(|_| ())
    }
}

/// How many keys, a second apart, are tried when others are taken.
const PROOF_ATTEMPTS: i64 = 120;

/// Stores a proof in the catalog and returns its key. Where another verification of the same backup began in the same second, its
/// key has the next free one: what a proof is worth does not depend on it.
///
/// # Errors
/// Those of the store; `conflict` when many verifications of one backup are made at once.
pub async fn store_proof(catalog: &Catalog, proof: &Proof) -> Result<String> {
    let json = proof.to_json()?;
    for later in 0..PROOF_ATTEMPTS {
        let key = catalog.layout().proof(&proof.backup_id, &proof.stamp(later))?;
        match catalog.space().put_new(&key, json.clone()).await? {
            PutNew::Created => return Ok(key),
            PutNew::Exists(bytes) if bytes == json => return Ok(key),
            PutNew::Exists(_) => {}
        }
    }
    let message = format!("no free key for a proof of backup {} near {}", proof.backup_id, proof.stamp(0));
    Err(Error::new(ErrorKind::Conflict, message).with_hint("are many verifications being started at once?"))
}
