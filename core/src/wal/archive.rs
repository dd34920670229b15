//! Storing one WAL file: what `archive_command` does.
//!
//! The invariants: success means that the object is durable. What is in the archive already, under any suffix, is compared and
//! never replaced. Segments of another cluster than the catalog's are refused, whatever their names. PostgreSQL may call again for a file that it has handed out before (after a crash), and that is success.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::codec::{self, Level};
use super::contain::{NewTablespaces, contain};
use super::header::SegmentHeader;
use crate::catalog::{Catalog, PutNew};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Compression, SegmentSize, TimelineHistory, WalName};

/// No WAL file is larger: the largest segment.
pub(super) const MAX_BYTES: u64 = 1 << 30;

/// What came of archiving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Archived {
    /// It is stored now.
    Stored,
    /// It was there before, with the same content.
    AlreadyThere,
}

/// The WAL archive of one server.
#[derive(Clone, Debug)]
pub struct WalArchive {
    pub(super) catalog: Catalog,
    compression: Option<Compression>,
    level: Level,
    pub(super) system_id: Option<String>,
    new_system_id: Option<String>,
    pub(super) new_tablespaces: NewTablespaces,
}

impl WalArchive {
    /// The archive in a catalog. New objects are not compressed, and everything is given out as it was stored.
    pub fn new(catalog: &Catalog) -> Self {
        Self {
            catalog: catalog.clone(),
            compression: None,
            level: Level::Medium,
            system_id: None,
            new_system_id: None,
            new_tablespaces: NewTablespaces::Original,
        }
    }

    /// Compresses new objects.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the codec has no such level.
    pub fn with_compression(mut self, codec: Compression, level: Level) -> Result<Self> {
        level.number(codec)?;
        (self.compression, self.level) = (Some(codec), level);
        Ok(self)
    }

    /// Takes segments of this cluster for those of one that has replaced the one before, under the same server name.
    #[must_use]
    pub fn with_new_system_id(mut self, system_id: impl Into<String>) -> Self {
        self.new_system_id = Some(system_id.into());
        self
    }

    /// Refuses segments of any other cluster, on the way in and on the way out. Without it, those that enter are compared
    /// with what is pinned in the catalog.
    #[must_use]
    pub fn with_system_id(mut self, system_id: impl Into<String>) -> Self {
        self.system_id = Some(system_id.into());
        self
    }

    /// Gives out WAL of which new tablespaces go there.
    #[must_use]
    pub const fn with_new_tablespaces(mut self, place: NewTablespaces) -> Self {
        self.new_tablespaces = place;
        self
    }

    /// Stores a file under the name that it has.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a name that PostgreSQL does not use, [`Corrupt`](ErrorKind::Corrupt) for a
    /// segment that is not whole, [`Conflict`](ErrorKind::Conflict) if it is of another cluster or the archive has other
    /// content under this name, [`Precondition`](ErrorKind::Precondition) if the catalog lies inside a cluster.
    pub async fn archive(&self, path: &Path) -> Result<Archived> {
        let name: WalName = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().parse()?;
        let owned = path.to_owned();
        let (content, real) = blocking(move || {
            let content = read_unchanged(&owned)?;
            // PostgreSQL gives a path relative to its data directory, where it runs us.
            let real = owned.canonicalize().map_err(|error| Error::io("find", &owned, error))?;
            Ok((content, real))
        })
        .await?;
        self.catalog.check_apart(vec![real]).await?;
        self.catalog.check_mounted().await?;
        self.store(name, content).await.map_err(|error| error.with_context("path", path.display().to_string()))
    }

    /// Stores the content of a file.
    pub(super) async fn store(&self, name: WalName, content: Bytes) -> Result<Archived> {
        let cluster = check(name, &content, self.system_id.as_deref())?.map(|header| header.system_id.to_string());
        // What carries no identifier cannot be compared; and the caller who names one has compared already.
        let cluster = cluster.filter(|_| self.system_id.is_none());
        // Both questions at once: a segment costs no more time than before.
        let (is_known, existing) =
            futures::join!(self.is_known(cluster.as_deref()), self.compare_with_existing(name, &content));
        // "Of another cluster" explains "other content", so it comes first.
        let (is_known, existing) = (is_known?, existing?);
        if let Some(cluster) = cluster.filter(|_| !is_known) {
            self.catalog.pin_system_id(&cluster, self.new_system_id.as_deref()).await?;
        }
        if let Some(archived) = existing {
            return Ok(archived);
        }
        let (codec, level, plain) = (self.compression, self.level, content.clone());
        let packed = match codec {
            Some(codec) => blocking(move || codec::compress(codec, level, &plain).map(Bytes::from)).await?,
            None => plain,
        };
        let key = self.catalog.layout().wal(name, codec);
        match self.catalog.space().put_new(&key, packed).await? {
            PutNew::Created => Ok(Archived::Stored),
            // Somebody was faster, or an earlier attempt of ours whose reply was lost.
            PutNew::Exists(existing) => same(name, codec, existing, content).await,
        }
    }

    /// Whether a cluster is the one that is pinned; false if none is, or another that the user says is replaced.
    async fn is_known(&self, cluster: Option<&str>) -> Result<bool> {
        let Some(cluster) = cluster else { return Ok(true) };
        let Some(pinned) = self.catalog.pinned_system_id().await? else { return Ok(false) };
        self.catalog.compare_system_ids(&pinned, cluster, self.new_system_id.as_deref())?;
        Ok(pinned == cluster)
    }

    /// Looks for the file under every suffix, and compares what is there.
    async fn compare_with_existing(&self, name: WalName, content: &Bytes) -> Result<Option<Archived>> {
        let mut found = None;
        for (codec, key) in self.variants(name).await? {
            if let Some((existing, _)) = self.catalog.space().get(&key).await? {
                found = Some(same(name, codec, existing, content.clone()).await?);
            }
        }
        Ok(found)
    }

    /// The objects that hold a file, in the order in which they are tried.
    pub(super) async fn variants(&self, name: WalName) -> Result<Vec<(Option<Compression>, String)>> {
        let codecs = std::iter::once(None).chain(Compression::ALL.map(Some));
        let asked = codecs.map(|codec| async move {
            let key = self.catalog.layout().wal(name, codec);
            Ok::<_, Error>(self.catalog.space().head(&key).await?.map(|_| (codec, key)))
        });
        Ok(futures::future::try_join_all(asked).await?.into_iter().flatten().collect())
    }
}

/// Unpacks a file, and no more of it than there can be: an archive is only as honest as who may write to it. A segment says in its
/// first bytes how long it is.
pub(super) fn unpack(name: WalName, codec: Option<Compression>, packed: &[u8]) -> Result<Vec<u8>> {
    match name {
        WalName::Segment(_) | WalName::Partial(_) => codec::decompress_as_told(codec, packed, |beginning| {
            // What is no segment is refused by its content, and need not be whole for that.
            SegmentHeader::parse(beginning).map_or(SegmentSize::DEFAULT, |header| header.segment_size).bytes()
        }),
        WalName::History(_) => codec::decompress(codec, packed, TimelineHistory::MAX_BYTES as u64),
        WalName::Backup { .. } => codec::decompress(codec, packed, LARGEST_LABEL),
    }
}

/// A backup history file has some hundred bytes.
const LARGEST_LABEL: u64 = 1 << 20;

/// Compares what the archive has with what it is asked to have.
async fn same(name: WalName, codec: Option<Compression>, existing: Bytes, content: Bytes) -> Result<Archived> {
    let equal = blocking(move || {
        let mut existing = unpack(name, codec, &existing)?;
        if existing == content || !matches!(name, WalName::Segment(_)) {
            return Ok(existing == content);
        }
        // A restored server with archive_mode = always hands back what we have given it.
        let changed = contain(&mut existing).is_ok_and(|changed| !changed.is_empty());
        Ok(changed && existing == content)
    })
    .await;
    match equal {
        Ok(true) => Ok(Archived::AlreadyThere),
        Ok(false) => Err(Error::new(ErrorKind::Conflict, format!("the archive has {name} with other content"))
            .with_hint(
                "another cluster may archive under the same server name, or a standby was promoted without a new \
                        timeline; nothing was changed",
            )),
        Err(error) => Err(Error::corrupt(format!("the archive has {name}, but it cannot be read")).with_source(error)),
    }
}

/// Checks a file before it enters or leaves the archive. Segments have a header.
pub(super) fn check(name: WalName, content: &[u8], system_id: Option<&str>) -> Result<Option<SegmentHeader>> {
    match name {
        WalName::Segment(segment) => SegmentHeader::check_segment(content, segment, system_id).map(Some),
        WalName::Partial(segment) => SegmentHeader::check_page(content, segment, system_id).map(Some),
        WalName::Backup { .. } if content.starts_with(b"START WAL LOCATION: ") => Ok(None),
        WalName::Backup { .. } => Err(Error::corrupt(format!("{name} is not a backup history file"))),
        // Text; the first timeline that is left always has a line.
        WalName::History(_) if !content.is_empty() && !content.contains(&0) => Ok(None),
        WalName::History(_) => Err(Error::corrupt(format!("{name} is not a timeline history file"))),
    }
}

/// Reads a file of `pg_wal`, and makes sure that it was not recycled under our hands: PostgreSQL renames a segment before it
/// writes other WAL into it.
pub(super) fn read_unchanged(path: &Path) -> Result<Bytes> {
    let fail = |error| Error::io("read", path, error);
    let mut file = File::open(path).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    if !meta.is_file() || meta.len() > MAX_BYTES {
        return Err(Error::corrupt(format!("not a WAL file: {}", path.display())));
    }
    let mut content = Vec::with_capacity(usize::try_from(meta.len()).unwrap_or(0));
    file.by_ref().take(MAX_BYTES + 1).read_to_end(&mut content).map_err(fail)?;
    match std::fs::metadata(path) {
        Ok(now) if (now.dev(), now.ino()) == (meta.dev(), meta.ino()) => Ok(content.into()),
        Ok(_) => Err(Error::not_found(format!("{} was recycled while it was read", path.display()))),
        Err(error) => Err(fail(error)),
    }
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::internal("work on a WAL file did not finish").with_source(error)),
    }
}

/// The path of a file in a directory.
pub(super) fn in_dir(dir: &Path, name: WalName) -> PathBuf {
    dir.join(name.to_string())
}
