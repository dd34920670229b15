//! Bringing one WAL file back: what `restore_command` does.
//!
//! The invariants: the destination appears whole, checked and durable, or not at all. Absent is
//! [`NotFound`](ErrorKind::NotFound) and nothing else is, because PostgreSQL takes "not found" for the end of the WAL: neither a
//! network error nor an archive that is not there (a file system that is not mounted, a bucket that is gone, a gateway that
//! answers with a page of its own) must ever look like it. So a file is absent only from an archive that was seen. Where new
//! tablespaces shall stay inside the data directory, no WAL is given out that leads out of it.

use std::path::Path;

use rustix::process::{Gid, Uid};

use super::archive::{WalArchive, blocking, check, unpack};
use super::contain::{NewTablespace, NewTablespaces, contain, may_begin_inside, spanning};
use super::header::SegmentHeader;
use crate::catalog::write_pieces;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::host::beneath::Beneath;
use crate::model::{Compression, Segment, TimelineHistory, WalName};

/// What was brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The object it came from.
    pub key: String,
    /// Bytes of the file.
    pub size: u64,
    /// True if it is the partial segment that was allowed in place of the whole one.
    pub partial: bool,
    /// The tablespaces that it creates, where they were led inside the data directory.
    pub contained: Vec<NewTablespace>,
}

impl WalArchive {
    /// Brings a file back to `destination`. With `allow_partial`, a segment of which the archive has only the partial one is
    /// given as that.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if the archive was seen to be there and to lack it,
    /// [`Unavailable`](ErrorKind::Unavailable) if that cannot be told,
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a name that PostgreSQL does not use,
    /// [`Corrupt`](ErrorKind::Corrupt) if no object of that name is sound, [`Conflict`](ErrorKind::Conflict) if it is of
    /// another cluster, [`Unsupported`](ErrorKind::Unsupported) if it cannot be kept from leading out of the data directory.
    pub async fn fetch(&self, name: &str, destination: &Path, allow_partial: bool) -> Result<Fetched> {
        let name: WalName = name.parse()?;
        let mut found = self.find(name, destination, allow_partial).await;
        if let Ok(None) = found {
            self.prove_there(name).await?;
            // A file system that was mounted in between: seen now, and not yet when the file was looked for.
            if self.catalog.space().directory().is_some() {
                found = self.find(name, destination, allow_partial).await;
            }
        }
        match found {
            Ok(Some(fetched)) => Ok(fetched),
            Ok(None) => Err(Error::not_found(format!("the archive of {} has no {name}", self.catalog.server()))),
            Err(error) => Err(self.not_absent(name, error)),
        }
    }

    async fn find(&self, name: WalName, destination: &Path, allow_partial: bool) -> Result<Option<Fetched>> {
        if let Some(fetched) = self.fetch_exact(name, destination, false).await? {
            return Ok(Some(fetched));
        }
        match name {
            WalName::Segment(segment) if allow_partial => {
                self.fetch_exact(WalName::Partial(segment), destination, true).await
            }
            _ => Ok(None),
        }
    }

    /// Refuses to speak for an archive that is not seen. Whatever wrote a catalog, us or a stock tool, one that a server can be
    /// restored from has WAL: at least that of a backup. One request, so that a standby at the end of the WAL can go on asking.
    async fn prove_there(&self, name: WalName) -> Result<()> {
        let space = self.catalog.space();
        match space.holds_any(&self.catalog.layout().wals()).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                let server = self.catalog.server();
                let message = format!(
                    "cannot tell whether the archive of {server} has {name}: there is no WAL at all in {}",
                    space.name()
                );
                Err(Error::new(ErrorKind::Unavailable, message)
                    .with_retry(Retry::Safe)
                    .with_hint("is the file system mounted, and are the URL and the name of the server right?"))
            }
            Err(error) => Err(self.not_absent(name, error)),
        }
    }

    /// Whatever was not found on the way, it is not the file.
    fn not_absent(&self, name: WalName, error: Error) -> Error {
        if error.kind() != ErrorKind::NotFound {
            return error;
        }
        let message = format!("cannot tell whether the archive of {} has {name}", self.catalog.server());
        Error::new(ErrorKind::Unavailable, message).with_retry(error.retry()).with_source(error)
    }

    /// The content of a small file, a history file for example; none if the archive does not have it.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch), but for a missing file.
    pub async fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let name: WalName = name.parse()?;
        for (codec, key) in self.variants(name).await? {
            if let Some((packed, _)) = self.catalog.space().get(&key).await? {
                let content = unpack(name, codec, &packed)?;
                check(name, &content, self.system_id.as_deref())?;
                return Ok(Some(content));
            }
        }
        Ok(None)
    }

    /// Tries every object of that name until one is sound.
    async fn fetch_exact(&self, name: WalName, destination: &Path, partial: bool) -> Result<Option<Fetched>> {
        let mut unsound = None;
        for (codec, key) in self.variants(name).await? {
            let Some((packed, _)) = self.catalog.space().get(&key).await? else { continue };
            let system_id = self.system_id.clone();
            let unpacked = blocking(move || {
                let content = unpack(name, codec, &packed)?;
                check(name, &content, system_id.as_deref())?;
                Ok(content)
            });
            match unpacked.await {
                Ok(content) => {
                    let (content, contained) = self.contained(name, content).await?;
                    let (size, to) = (content.len() as u64, destination.to_owned());
                    blocking(move || place(&content, &to)).await?;
                    return Ok(Some(Fetched { key, size, partial, contained }));
                }
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Conflict) => {
                    tracing::warn!(key, %error, "an object of the WAL archive is not sound");
                    unsound = Some(error.with_context("key", key));
                }
                Err(error) => return Err(error),
            }
        }
        match unsound {
            Some(error) => Err(error),
            None => Ok(None),
        }
    }

    /// What is given out of a file: new tablespaces go where they shall.
    async fn contained(&self, name: WalName, mut content: Vec<u8>) -> Result<(Vec<u8>, Vec<NewTablespace>)> {
        let (NewTablespaces::Inside, WalName::Segment(segment) | WalName::Partial(segment)) =
            (self.new_tablespaces, name)
        else {
            return Ok((content, Vec::new()));
        };
        let (content, found, look_back) = blocking(move || {
            let found = contain(&mut content)?;
            let look_back = may_begin_inside(&content)?;
            Ok((content, found, look_back))
        })
        .await?;
        if look_back && let Some(one) = self.begun_before(segment, &content).await? {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "WAL segment {segment} begins with the end of a CREATE TABLESPACE with the location {:?}, at {}, which cannot be \
                     kept inside the data directory",
                    one.location, one.position
                ),
            )
            .with_hint(
                "recover to a point before it; or, on a host where that location is nobody else's, set restore_command to \
                 wal-restore --new-tablespaces original",
            ));
        }
        Ok((content, found))
    }

    /// The `CREATE TABLESPACE` of which a segment has only the end. Who has the beginning, has it from this archive: if the
    /// segment before is not here, or is damaged, nobody has it, and the end means nothing.
    async fn begun_before(&self, segment: Segment, content: &[u8]) -> Result<Option<NewTablespace>> {
        let size = SegmentHeader::parse(content)?.segment_size;
        let Some(before) = segment.previous(size) else { return Ok(None) };
        let history = self.read(&WalName::History(segment.timeline).to_string()).await?;
        let history = match history {
            Some(bytes) => TimelineHistory::read(segment.timeline, &bytes)?,
            None => TimelineHistory::root(segment.timeline),
        };
        for candidate in history.candidates(before, size) {
            match self.read(&candidate.to_string()).await {
                Ok(Some(before)) => return spanning(&before, content),
                Ok(None) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Conflict) => {
                    tracing::warn!(segment = %candidate, %error, "the segment before is not sound");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// The codecs under which the archive has a file.
    pub async fn stored_as(&self, name: WalName) -> Result<Vec<Option<Compression>>> {
        Ok(self.variants(name).await?.into_iter().map(|(codec, _)| codec).collect())
    }
}

/// Writes a file beside the destination and gives it its name when it is durable.
///
/// PostgreSQL's `pg_wal` belongs to the user of the server, and this may be root: the file is a new one, whatever has its temporary
/// name, and belongs to whom the directory belongs.
fn place(content: &[u8], destination: &Path) -> Result<()> {
    let (directory, name) = match Beneath::above(destination) {
        // A missing directory is not a missing segment.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(
                Error::precondition(format!("there is no directory for {}", destination.display())).with_source(error)
            );
        }
        other => other?,
    };
    let fail = |error: std::io::Error| Error::io("write", destination, error);
    // One name for each destination: what a crash leaves is replaced by the next attempt. PostgreSQL asks for one file at a
    // time, and runs no two recoveries in one directory.
    let mut temporary = name.to_owned();
    temporary.push(".barman-snap");
    let mut file = directory.make_file(Path::new(&temporary))?;
    let mut write = || {
        write_pieces(&mut file, content).and_then(|()| file.sync_all()).map_err(fail)?;
        if rustix::process::geteuid().is_root() {
            let stat = directory.stat()?;
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(|error| fail(error.into()))?;
        }
        directory.rename(&temporary, name).and_then(|()| directory.sync())
    };
    write().inspect_err(|_| {
        let _ = directory.remove(Path::new(&temporary));
    })
}
