//! The record beside every snapshot: `<name>.json` next to `<name>/`.
//!
//! It is the intent: it is on disk before anything else is made, and it carries the token, so that whatever a session has
//! made here can be found by any later process. A record in state `creating` is locked (`flock`) by the process that
//! works on it; the kernel drops the lock when that process dies, however it dies, and so tells a snapshot in the making
//! from the remains of one.
//!
//! Stored bytes: fields are only added; a record of a higher version is left alone.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::place::SNAPSHOT_DIRECTORY;
use crate::error::{Error, ErrorKind, Result};
use crate::host::beneath::read_file;
use crate::host::nameless;
use crate::id::{BackupId, Token};
use crate::provider::Ticket;

/// The version that this engine writes.
const VERSION: u32 = 1;
/// A note is shorter than this.
const SHORT: u64 = 4 << 10;
/// A record is some hundred bytes; whatever is larger is none.
const LARGEST: u64 = 1 << 20;

/// How far the snapshot of a record is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum RecordState {
    /// Being made, or left behind by a process that died. Of btrfs: also complete, if the snapshot is there.
    Creating,
    /// Complete and on disk.
    Ready,
    /// Broken for good.
    Failed {
        /// Why.
        reason: String,
    },
    /// Being deleted, or left behind by a process that died while it did.
    Deleting,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) state: RecordState,
    pub(super) token: Token,
    pub(super) mark: String,
    pub(super) backup_id: BackupId,
    pub(super) name: String,
    pub(super) volume: String,
    pub(super) root: PathBuf,
    pub(super) method: String,
    #[serde(default)]
    pub(super) tags: std::collections::BTreeMap<String, String>,
    /// Bytes that had to be copied, once that is known.
    #[serde(default)]
    pub(super) bytes_copied: Option<u64>,
    /// The permissions of the volume's root directory, which the snapshot has without write permission.
    #[serde(default)]
    pub(super) root_mode: Option<u32>,
    /// Space that a copy takes until it is complete, in bytes; see [`reservation`](super::reservation).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) needs: Option<u64>,
}

impl Record {
    pub(super) fn new(request: &crate::provider::CreateRequest, snapshot: &crate::provider::VolumeSnapshot) -> Self {
        Self {
            version: VERSION,
            state: RecordState::Creating,
            token: request.token.clone(),
            mark: request.mark.clone(),
            backup_id: request.backup_id.clone(),
            name: snapshot.name.clone(),
            volume: snapshot.volume.id.clone(),
            root: snapshot.volume.root.clone(),
            method: snapshot.volume.method.clone(),
            tags: request.tags.clone(),
            bytes_copied: None,
            root_mode: None,
            needs: None,
        }
    }

    /// The ticket of this snapshot in `directory`.
    pub(super) fn ticket(&self, directory: &Path) -> Ticket {
        Ticket {
            snapshot: directory.join(&self.name).display().to_string(),
            name: self.name.clone(),
            volume: self.volume.clone(),
            root: self.root.clone(),
            method: self.method.clone(),
            token: self.token.clone(),
            attributes: super::here::attributes(Some(directory)),
        }
    }
}

/// What of a new record is on disk when [`Slot::begin`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flush {
    /// Its bytes and its name.
    All,
    /// Its bytes. The name gets there with the snapshot, which the same file system makes durable later than the name.
    Content,
}

/// What the record must tell of a finished copy.
///
/// Before it does, it is noted beside the record, without being flushed (which could take as long as to flush the tree).
/// So the note counts only in the boot it was written in: after another one the tree may be incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Copied {
    pub(super) bytes: u64,
    pub(super) root_mode: u32,
}

/// A place for a snapshot: its directory, the tree and the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    directory: PathBuf,
    name: String,
}

impl Slot {
    pub(super) fn new(directory: &Path, name: &str) -> Self {
        Self { directory: directory.to_owned(), name: name.to_owned() }
    }

    /// The slot of a ticket. Refuses what does not lie directly in a directory of ours.
    pub(super) fn of_ticket(ticket: &Ticket) -> Result<Self> {
        let path = Path::new(&ticket.snapshot);
        let directory = path.parent().unwrap_or(Path::new(""));
        let is_ours = path.is_absolute()
            && directory.file_name().is_some_and(|name| name == SNAPSHOT_DIRECTORY)
            && path.components().all(|part| !matches!(part, std::path::Component::ParentDir))
            && path.file_name().is_some_and(|name| name.to_str() == Some(&ticket.name))
            && super::place::is_valid_name(&ticket.name);
        if is_ours {
            Ok(Self::new(directory, &ticket.name))
        } else {
            Err(Error::invalid(format!(
                "not a local snapshot in a {SNAPSHOT_DIRECTORY} directory: {}",
                ticket.snapshot
            )))
        }
    }

    /// The directory it is in.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the content of the snapshot is.
    pub(super) fn tree(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    fn record(&self) -> PathBuf {
        self.directory.join(format!("{}.json", self.name))
    }

    /// The record, or `None` if there is none.
    pub(super) fn read(&self) -> Result<Option<Record>> {
        let path = self.record();
        match File::open(&path) {
            Ok(file) => parse(&path, file).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", path, error)),
        }
    }

    /// Writes a record where none is, locked, and as far on disk as `flush` says when this returns.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if there is one, or a tree, of this name.
    pub(super) fn begin(&self, record: &Record, flush: Flush) -> Result<Lock> {
        let exists = || {
            Error::new(
                ErrorKind::Conflict,
                format!("a snapshot of this name exists already: {}", self.tree().display()),
            )
        };
        for _ in 0..10 {
            make_private_directory(&self.directory, flush)?;
            let (draft, file) = match self.write_draft(record) {
                Ok(written) => written,
                // Somebody else removed the directory, because it was empty.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // Locked before it can be seen under its name.
            let lock = Lock::take(file).ok_or_else(|| Error::internal("a new file is locked already"))?;
            match draft.name_it(&lock.0, &self.record()) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Err(exists()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("write", self.record(), error)),
            }
            if self.tree().symlink_metadata().is_ok() {
                std::fs::remove_file(self.record()).map_err(|source| Error::io("remove", self.record(), source))?;
                return Err(exists());
            }
            if flush == Flush::All {
                sync_directory(&self.directory)?;
            }
            return Ok(lock);
        }
        Err(Error::new(ErrorKind::Storage, format!("cannot keep the directory {}", self.directory.display())))
    }

    /// Replaces the record.
    pub(super) fn update(&self, record: &Record) -> Result<()> {
        match self.write_temporary(record) {
            Ok((temporary, _)) => {
                std::fs::rename(&temporary, self.record())
                    .map_err(|source| Error::io("write", self.record(), source))?;
                sync_directory(&self.directory)
            }
            Err(error) if error.kind() == ErrorKind::Exhausted => self.overwrite(record),
            Err(error) => Err(error),
        }
    }

    /// Replaces the record where it lies. On a full disk there is no room for a second file, but it must still be possible
    /// to say why a snapshot failed, and to delete snapshots. One write of less than a block, padded to the old length, so
    /// that a reader sees the old record or the new one.
    fn overwrite(&self, record: &Record) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let file = OpenOptions::new().write(true).open(self.record())?;
            let mut bytes = to_bytes(record).map_err(std::io::Error::other)?;
            let old = usize::try_from(file.metadata()?.len()).unwrap_or(0);
            bytes.resize(bytes.len().max(old), b' ');
            file.write_all_at(&bytes, 0)?;
            file.sync_all()
        };
        write().map_err(|source| Error::io("write", self.record(), source))
    }

    /// Notes that the tree has all its bytes, so that another process can finish when this one dies.
    pub(super) fn note_copied(&self, copied: &Copied) -> Result<()> {
        let bytes = serde_json::to_vec(&(boot_id(), copied))
            .map_err(|error| Error::internal("cannot write a note").with_source(error))?;
        std::fs::write(self.note(), bytes).map_err(|source| Error::io("write", self.note(), source))
    }

    /// That note, if it is of this boot.
    pub(super) fn copied(&self) -> Option<Copied> {
        let bytes = read_file(&self.note(), SHORT).ok()??;
        // Half a note is none: its writer died before the tree counted as copied.
        let (boot, copied) = serde_json::from_slice::<(String, Copied)>(&bytes).ok()?;
        (boot == boot_id() && !boot.is_empty()).then_some(copied)
    }

    /// Removes the note, when the record says more.
    pub(super) fn forget_copied(&self) {
        if let Err(error) = std::fs::remove_file(self.note())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!(path = %self.note().display(), %error, "cannot remove a note");
        }
    }

    /// Notes how much of the tree is written. For others that want to know what is left; no harm if it fails.
    pub(super) fn note_written(&self, bytes: u64) {
        if let Err(error) = std::fs::write(self.written_note(), bytes.to_string()) {
            tracing::debug!(path = %self.written_note().display(), %error, "cannot write a note");
        }
    }

    /// That note; nothing while there is none that can be read.
    pub(super) fn written(&self) -> u64 {
        let bytes = read_file(&self.written_note(), SHORT).ok().flatten().unwrap_or_default();
        String::from_utf8_lossy(&bytes).parse().unwrap_or(0)
    }

    pub(super) fn forget_written(&self) {
        let _ = std::fs::remove_file(self.written_note());
    }

    fn written_note(&self) -> PathBuf {
        self.directory.join(format!("{}.written", self.name))
    }

    /// Whether a living process works on the record. To ask takes no lock that would be in the way of others who ask.
    pub(super) fn is_held(&self) -> bool {
        let shared = |file: File| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared);
        File::open(self.record()).is_ok_and(|file| shared(file).is_err())
    }

    fn note(&self) -> PathBuf {
        self.directory.join(format!("{}.copied", self.name))
    }

    /// Removes the record, and the directory if nothing else is in it. The record goes last: without it nobody would look
    /// for the rest.
    pub(super) fn end(&self) -> Result<()> {
        self.forget_copied();
        self.forget_written();
        self.remove_temporary_files();
        match std::fs::remove_file(self.record()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", self.record(), error));
            }
            _ => {}
        }
        if std::fs::remove_dir(&self.directory).is_err() {
            sync_directory(&self.directory)?;
        }
        Ok(())
    }

    /// The lock of a record in state `creating`; `None` if somebody else has it.
    pub(super) fn lock(&self) -> Result<Option<Lock>> {
        let path = self.record();
        match File::open(&path) {
            Ok(file) => Ok(Lock::take(file)),
            Err(error) => Err(Error::io("open", path, error)),
        }
    }

    /// A new record, on disk but not yet under its name. It has no name at all where the file system allows that: a process
    /// that is killed now leaves nothing, not even a temporary file that no record would ever lead to.
    fn write_draft(&self, record: &Record) -> Result<(Draft, File)> {
        let fail = |error| Error::io("write", self.record(), error);
        match nameless::create(&self.directory).map_err(fail)? {
            Some(mut file) => {
                file.write_all(&to_bytes(record)?).and_then(|()| file.sync_all()).map_err(fail)?;
                Ok((Draft::Nameless, file))
            }
            None => self.write_temporary(record).map(|(path, file)| (Draft::Named(path), file)),
        }
    }

    fn write_temporary(&self, record: &Record) -> Result<(PathBuf, File)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let bytes = to_bytes(record)?;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = self.directory.join(format!(".{}.{}.{number}.tmp", self.name, std::process::id()));
            let fail = |source| Error::io("write", &path, source);
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(mut file) => {
                    if let Err(error) = file.write_all(&bytes).and_then(|()| file.sync_all()) {
                        let _ = std::fs::remove_file(&path);
                        return Err(fail(error));
                    }
                    return Ok((path, file));
                }
                // Left by a process that had our number once.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(fail(error)),
            }
        }
    }

    /// What processes left that died between writing a record and giving it its name.
    fn remove_temporary_files(&self) {
        let prefix = format!(".{}.", self.name);
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| name.starts_with(&prefix) && name.ends_with(".tmp"))
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::debug!(path = %entry.path().display(), %error, "cannot remove a temporary file");
            }
        }
    }
}

/// A record that has not its name yet.
enum Draft {
    /// A file without a name.
    Nameless,
    /// A temporary file.
    Named(PathBuf),
}

impl Draft {
    /// Gives the record its name, if no other file has it.
    fn name_it(self, file: &File, name: &Path) -> std::io::Result<()> {
        match self {
            Self::Nameless => nameless::give_name(file, name),
            Self::Named(temporary) => {
                let linked = std::fs::hard_link(&temporary, name);
                std::fs::remove_file(&temporary)?;
                linked
            }
        }
    }
}

fn to_bytes(record: &Record) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(record).map_err(|error| Error::internal("cannot write a record").with_source(error))
}

/// A lock on a record. It goes when this is dropped or the process dies.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    fn take(file: File) -> Option<Self> {
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok().map(|()| Self(file))
    }
}

fn parse(path: &Path, file: File) -> Result<Record> {
    let bad = |why: String| Error::corrupt(format!("not a record of a snapshot: {}", path.display())).with_source(why);
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).map_err(|source| Error::io("read", path, source))?;
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    if record.version > VERSION {
        return Err(bad(format!("version {} is newer than this program", record.version)));
    }
    Ok(record)
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

pub(super) fn make_private_directory(directory: &Path, flush: Flush) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => match directory.parent() {
            Some(parent) if flush == Flush::All => sync_directory(parent),
            _ => Ok(()),
        },
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::io("make the directory", directory, error)),
    }
}

fn sync_directory(directory: &Path) -> Result<()> {
    match File::open(directory).and_then(|file| file.sync_all()) {
        // Removed meanwhile, because it was empty.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|source| Error::io("write to disk", directory, source)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::{Unreadable, scan};
    use super::*;

    fn record(name: &str) -> Record {
        Record {
            version: VERSION,
            state: RecordState::Creating,
            token: Token::from_bits(7),
            mark: "main.0123456789abcdef".into(),
            backup_id: "20260529T101112".parse().unwrap(),
            name: name.into(),
            volume: "/srv/pg".into(),
            root: "/srv/pg".into(),
            method: "copy".into(),
            tags: [("team".to_owned(), "a".to_owned())].into(),
            bytes_copied: None,
            root_mode: None,
            needs: None,
        }
    }

    #[test]
    fn a_record_can_be_begun_once_and_is_locked_meanwhile() {
        let temp = tempfile::tempdir().unwrap();
        let slot = Slot::new(&temp.path().join(SNAPSHOT_DIRECTORY), "x");
        let lock = slot.begin(&record("x"), Flush::All).unwrap();
        assert_eq!(slot.begin(&record("x"), Flush::All).unwrap_err().kind(), ErrorKind::Conflict);
        assert!(slot.lock().unwrap().is_none());
        drop(lock);
        assert!(slot.lock().unwrap().is_some());
        assert_eq!(slot.read().unwrap(), Some(record("x")));
        slot.end().unwrap();
        slot.end().unwrap();
        assert!(!slot.directory.exists());
    }

    #[test]
    fn a_record_can_be_replaced_where_it_lies_by_a_longer_and_by_a_shorter_one() {
        let temp = tempfile::tempdir().unwrap();
        let slot = Slot::new(&temp.path().join(SNAPSHOT_DIRECTORY), "x");
        drop(slot.begin(&record("x"), Flush::All).unwrap());
        let failed = Record { state: RecordState::Failed { reason: "no space left".into() }, ..record("x") };
        for next in [failed, record("x")] {
            slot.overwrite(&next).unwrap();
            assert_eq!(slot.read().unwrap(), Some(next));
        }
    }

    #[test]
    fn a_tree_without_a_record_is_not_taken_over() {
        let temp = tempfile::tempdir().unwrap();
        let slot = Slot::new(&temp.path().join(SNAPSHOT_DIRECTORY), "x");
        std::fs::create_dir_all(slot.tree()).unwrap();
        assert_eq!(slot.begin(&record("x"), Flush::All).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(slot.read().unwrap(), None);
    }

    #[test]
    fn a_note_counts_in_the_boot_it_was_written_in() {
        let temp = tempfile::tempdir().unwrap();
        let slot = Slot::new(&temp.path().join(SNAPSHOT_DIRECTORY), "x");
        drop(slot.begin(&record("x"), Flush::All).unwrap());
        let copied = Copied { bytes: 5, root_mode: 0o700 };
        slot.note_copied(&copied).unwrap();
        assert_eq!(slot.copied(), Some(copied));
        std::fs::write(slot.note(), r#"["another boot",{"bytes":5,"root_mode":448}]"#).unwrap();
        assert_eq!(slot.copied(), None);
        std::fs::write(slot.note(), r#"["anoth"#).unwrap();
        assert_eq!(slot.copied(), None);
        slot.end().unwrap();
        assert!(!slot.directory.exists());
    }

    #[test]
    fn bad_records_do_not_hide_good_ones() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join(SNAPSHOT_DIRECTORY);
        for name in ["a", "b", "c"] {
            drop(Slot::new(&directory, name).begin(&record(name), Flush::All).unwrap());
        }
        std::fs::write(directory.join("b.json"), "garbage").unwrap();
        std::fs::write(directory.join("d.json"), serde_json::to_vec(&record("other")).unwrap()).unwrap();
        let later = Record { version: VERSION + 1, ..record("e") };
        std::fs::write(directory.join("e.json"), serde_json::to_vec(&later).unwrap()).unwrap();
        let names: Vec<_> =
            scan(&directory, Unreadable::LeaveOut).unwrap().into_iter().map(|record| record.name).collect();
        assert_eq!(names, ["a", "c"]);
        let error = scan(&directory, Unreadable::Refuse).unwrap_err();
        assert!(error.hint().is_some_and(|hint| hint.contains("looked for")), "{error}");
        assert!(scan(&temp.path().join("absent"), Unreadable::Refuse).unwrap().is_empty());
    }

    #[test]
    fn the_stored_form_is_what_later_versions_will_read() {
        let ready = Record { state: RecordState::Ready, bytes_copied: Some(5), root_mode: Some(0o700), ..record("x") };
        let text = serde_json::to_string(&ready).unwrap();
        assert_eq!(
            text,
            r#"{"version":1,"state":"ready","token":"00000000000000000000000000000007","mark":"main.0123456789abcdef","backup_id":"20260529T101112","name":"x","volume":"/srv/pg","root":"/srv/pg","method":"copy","tags":{"team":"a"},"bytes_copied":5,"root_mode":448}"#
        );
    }

    #[test]
    fn a_ticket_that_leads_elsewhere_is_refused() {
        let ticket = |snapshot: &str, name: &str| Ticket {
            snapshot: snapshot.into(),
            name: name.into(),
            ..record("x").ticket(Path::new("/m/.barman_snap"))
        };
        Slot::of_ticket(&ticket("/m/.barman_snap/x", "x")).unwrap();
        for (snapshot, name) in [
            ("/m/x", "x"),
            ("/m/.barman_snap/x", "y"),
            ("m/.barman_snap/x", "x"),
            ("/m/../.barman_snap/x", "x"),
            ("/m/.barman_snap/..", ".."),
            ("/m/.barman_snap/x/y", "y"),
            ("", ""),
        ] {
            assert!(Slot::of_ticket(&ticket(snapshot, name)).is_err(), "{snapshot}");
        }
    }
}
