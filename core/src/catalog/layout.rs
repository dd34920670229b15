//! Where everything lies: the one file in which the keys of a catalog are built and parsed.
//!
//! What it is: string arithmetic. What it is not: I/O; nothing here asks whether an object exists. `docs/format/layout.md`
//! is the written specification of the same thing.
//!
//! The invariants:
//! * A key that this file builds is parsed by this file to what it was built from.
//! * No part that comes from outside (server name, WAL name, backup id) can leave its place: each is validated by its type
//!   or here, so that no key contains `.`, `..` or an empty segment. The one exception is the *quirk* below.
//! * Our own objects (`sessions/`, `proofs/`) lie beside `base/` and `wals/`, which are the two places that stock tools walk. The
//!   one exception is what a restore needs, `base/<ID>/private/`: who copies a backup copies it, too.
//!
//! # The trailing slash quirk
//! On S3 and Azure, Barman joins the path of the URL and the rest of a key so that a trailing slash vanishes, except for the
//! keys of annotations: `s3://bucket/p/` has its backups at `p/srv/base/…` but its keep annotations at `p//srv/base/…`. We
//! read both places and write the one that Barman looks up for the same URL.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::model::{Compression, WalName, WalObject};

/// The name of a server: one segment of a key and of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerName(String);

impl ServerName {
    /// The longest name, in bytes: what every file system and every provider's label can hold.
    pub const MAX_BYTES: usize = 200;

    /// Checks a name. [`ErrorKind::InvalidInput`](crate::error::ErrorKind::InvalidInput) says what is wrong with it.
    pub fn new(name: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Err(Error::invalid(format!("not a server name: {name:?} {why}"))
                .with_hint("a server name is one word such as pg1; it becomes a folder of the catalog"))
        };
        match name {
            "" => refuse("is empty"),
            "." | ".." => refuse("is a relative path"),
            _ if name.contains(['/', '\\']) => refuse("contains a slash"),
            _ if name.chars().any(char::is_control) => refuse("contains a control character"),
            _ if name.len() > Self::MAX_BYTES => refuse("is longer than 200 bytes"),
            _ if name.trim() != name => refuse("begins or ends with a blank"),
            _ => Ok(Self(name.to_owned())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServerName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl TryFrom<String> for ServerName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::new(&text)
    }
}

impl From<ServerName> for String {
    fn from(name: ServerName) -> Self {
        name.0
    }
}

/// What a key of this server means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// `base/<ID>/backup.info`
    BackupInfo(BackupId),
    /// `base/<ID>/backup_label`
    BackupLabel(BackupId),
    /// `base/<ID>/annotations/keep`
    Keep(BackupId),
    /// `base/<ID>/private/config.json`
    SavedConfig(BackupId),
    /// A tar that Barman uploaded: `data.tar`, `data_0001.tar.gz`, `16387.tar`, …
    Tar {
        /// The backup.
        id: BackupId,
        /// The oid of the tablespace; none for the data directory.
        tablespace: Option<u32>,
        /// The part, from 0.
        part: u32,
    },
    /// Anything else below `base/<ID>/`.
    OtherOfBackup(BackupId),
    /// A segment, a partial segment, a backup history file, or a timeline history file. Names are read in either case; to
    /// touch the object itself, use the key that was parsed.
    Wal(WalObject),
    /// An entry of a session's journal.
    SessionEntry {
        /// The backup of the session.
        id: BackupId,
        /// Its number.
        seq: u64,
    },
    /// The lease of a session's driver.
    SessionAlive(BackupId),
    /// The identity of the catalog.
    Identity,
    /// The system identifier of the cluster.
    SystemId,
    /// The result of a verification.
    Proof {
        /// The backup.
        id: BackupId,
        /// When, as it stands in the key.
        stamp: String,
    },
    /// Nothing that this engine or Barman writes.
    Foreign,
}

/// The keys of one server in one catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    prefix: String,
    /// True where stock tools look for annotations below `<prefix>//` rather than `<prefix>/`.
    trailing_slash: bool,
    /// True on S3 and Azure, where the quirk exists at all.
    quirk: bool,
    server: ServerName,
}

impl Layout {
    /// The keys below `prefix` (the path of a URL; may be empty, one trailing slash is allowed).
    pub fn new(prefix: &str, server: ServerName) -> Result<Self> {
        let path = prefix.trim_start_matches('/');
        let prefix = path.trim_end_matches('/');
        let bad = |part: &str| matches!(part, "" | "." | "..") || part.chars().any(char::is_control);
        if !prefix.is_empty() && prefix.split('/').any(bad) {
            return Err(Error::invalid(format!("not a path for a catalog: {prefix:?}"))
                .with_hint("no empty segments, no `.` or `..`, no control characters"));
        }
        if path.len() > prefix.len() + 1 {
            return Err(
                Error::invalid(format!("not a path for a catalog: {path:?}")).with_hint("at most one slash at the end")
            );
        }
        Ok(Self { prefix: prefix.to_owned(), trailing_slash: path.len() > prefix.len(), quirk: false, server })
    }

    /// Says that stock tools have the trailing slash quirk in this kind of store (S3 and Azure).
    #[must_use]
    pub fn with_annotation_quirk(mut self) -> Self {
        // At the root of a bucket there is no path that could end with a slash.
        self.quirk = !self.prefix.is_empty();
        self
    }

    /// The server.
    pub fn server(&self) -> &ServerName {
        &self.server
    }

    /// The path of the URL without slashes at its ends.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn root(&self) -> String {
        match self.prefix.as_str() {
            "" => self.server.0.clone(),
            prefix => format!("{prefix}/{}", self.server),
        }
    }

    /// The folder of all backups.
    pub fn base(&self) -> String {
        format!("{}/base", self.root())
    }

    /// The folder of one backup.
    pub fn backup(&self, id: &BackupId) -> String {
        format!("{}/base/{id}", self.root())
    }

    /// `backup.info`.
    pub fn backup_info(&self, id: &BackupId) -> String {
        format!("{}/backup.info", self.backup(id))
    }

    /// `backup_label`, the text that `pg_backup_stop` returned.
    pub fn backup_label(&self, id: &BackupId) -> String {
        format!("{}/backup_label", self.backup(id))
    }

    /// The configuration files that no snapshot has. They may hold passwords: `*/private/*` is what a policy of the store can
    /// keep from who only lists backups.
    pub fn saved_config(&self, id: &BackupId) -> String {
        format!("{}/private/config.json", self.backup(id))
    }

    /// Where the keep annotation may lie: first the place that stock tools use for the same URL, which is the one to write.
    pub fn keeps(&self, id: &BackupId) -> Vec<String> {
        let plain = format!("{}/annotations/keep", self.backup(id));
        if !self.quirk {
            return vec![plain];
        }
        let doubled = format!("{}//{}/base/{id}/annotations/keep", self.prefix, self.server);
        if self.trailing_slash { vec![doubled, plain] } else { vec![plain, doubled] }
    }

    /// The folder of all WAL.
    pub fn wals(&self) -> String {
        format!("{}/wals", self.root())
    }

    /// The folder of the segments of one timeline that share the upper half of their positions: [`Segment::directory`].
    ///
    /// [`Segment::directory`]: crate::model::Segment::directory
    pub fn wal_dir(&self, directory: &str) -> String {
        format!("{}/{directory}", self.wals())
    }

    /// The key of a WAL file.
    pub fn wal(&self, name: WalName, compression: Option<Compression>) -> String {
        let object = WalObject { name, compression };
        match name.directory() {
            Some(directory) => format!("{}/{object}", self.wal_dir(&directory)),
            None => format!("{}/{object}", self.wals()),
        }
    }

    /// The folder of all journals.
    pub fn sessions(&self) -> String {
        format!("{}/sessions", self.root())
    }

    /// The identity of this server's catalog: sixteen hex digits, made at the first use, part of the mark of every snapshot.
    pub fn catalog_identity(&self) -> String {
        format!("{}/identity", self.sessions())
    }

    /// The system identifier of the cluster whose catalog this is, in digits.
    pub fn system_id(&self) -> String {
        format!("{}/system-id", self.sessions())
    }

    /// The folder of one session.
    pub fn session(&self, id: &BackupId) -> String {
        format!("{}/{id}", self.sessions())
    }

    /// One entry of a journal.
    pub fn session_entry(&self, id: &BackupId, seq: u64) -> String {
        format!("{}/{seq:08}.json", self.session(id))
    }

    /// The lease of the driver of a session.
    pub fn session_alive(&self, id: &BackupId) -> String {
        format!("{}/alive", self.session(id))
    }

    /// An object that is written and deleted to see whether that works. `tag` is any word.
    pub fn probe(&self, tag: &str) -> String {
        format!("{}/probe-{tag}", self.sessions())
    }

    /// The folder of the proofs of one backup.
    pub fn proofs(&self, id: &BackupId) -> String {
        format!("{}/proofs/{id}", self.root())
    }

    /// One proof; `stamp` is a time in digits and letters (`20260529T101500Z`).
    pub fn proof(&self, id: &BackupId, stamp: &str) -> Result<String> {
        if is_stamp(stamp) {
            Ok(format!("{}/{stamp}.json", self.proofs(id)))
        } else {
            Err(Error::invalid(format!("not a time stamp for a key: {stamp:?}")))
        }
    }

    /// What a key means. Keys of other servers, and of nobody, are [`ObjectKind::Foreign`].
    pub fn parse(&self, key: &str) -> ObjectKind {
        for root in [self.root(), format!("{}//{}", self.prefix, self.server)] {
            if let Some(rest) = key.strip_prefix(&root).and_then(|rest| rest.strip_prefix('/')) {
                return parse_below(rest).unwrap_or(ObjectKind::Foreign);
            }
        }
        ObjectKind::Foreign
    }
}

/// Parses a key relative to the folder of its server.
fn parse_below(rest: &str) -> Option<ObjectKind> {
    let parts: Vec<&str> = rest.split('/').collect();
    match parts.as_slice() {
        ["base", id, file @ ..] if !file.is_empty() => {
            let id: BackupId = id.parse().ok()?;
            Some(match file {
                ["backup.info"] => ObjectKind::BackupInfo(id),
                ["backup_label"] => ObjectKind::BackupLabel(id),
                ["annotations", "keep"] => ObjectKind::Keep(id),
                ["private", "config.json"] => ObjectKind::SavedConfig(id),
                [name] => match parse_tar(name) {
                    Some((tablespace, part)) => ObjectKind::Tar { id, tablespace, part },
                    None => ObjectKind::OtherOfBackup(id),
                },
                _ => ObjectKind::OtherOfBackup(id),
            })
        }
        ["wals", name] => wal_in(None, name),
        ["wals", directory, name] => wal_in(Some(directory), name),
        ["sessions", "identity"] => Some(ObjectKind::Identity),
        ["sessions", "system-id"] => Some(ObjectKind::SystemId),
        ["sessions", id, "alive"] => Some(ObjectKind::SessionAlive(id.parse().ok()?)),
        ["sessions", id, entry] => {
            let digits = entry.strip_suffix(".json")?;
            // Eight digits at least; a session with more entries than that would be a defect, not a reason to lose them.
            let seq = (digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(digits)?;
            Some(ObjectKind::SessionEntry { id: id.parse().ok()?, seq: seq.parse().ok()? })
        }
        ["proofs", id, proof] => {
            let stamp = proof.strip_suffix(".json").filter(|stamp| is_stamp(stamp))?;
            Some(ObjectKind::Proof { id: id.parse().ok()?, stamp: stamp.to_owned() })
        }
        _ => None,
    }
}

/// `data.tar`, `data_0001.tar.gz`, `16387.tar`, `16387_0002.tar.lz4`: tablespace and part.
fn parse_tar(name: &str) -> Option<(Option<u32>, u32)> {
    let (stem, extension) = name.split_once('.')?;
    if !["tar", "tar.gz", "tar.bz2", "tar.snappy", "tar.lz4"].contains(&extension) {
        return None;
    }
    let (owner, part) = match stem.split_once('_') {
        Some((owner, part)) if part.len() >= 4 && part.bytes().all(|byte| byte.is_ascii_digit()) => {
            (owner, part.parse().ok()?)
        }
        Some(_) => return None,
        None => (stem, 0),
    };
    match owner {
        "data" => Some((None, part)),
        oid if !oid.is_empty() && oid.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some((Some(oid.parse().ok()?), part))
        }
        _ => None,
    }
}

/// A WAL object, if it lies where it belongs.
fn wal_in(directory: Option<&str>, object: &str) -> Option<ObjectKind> {
    let object: WalObject = object.parse().ok()?;
    (object.name.directory().as_deref() == directory).then_some(ObjectKind::Wal(object))
}

fn is_stamp(stamp: &str) -> bool {
    !stamp.is_empty()
        && stamp.len() <= 64
        && stamp.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(prefix: &str) -> Layout {
        Layout::new(prefix, ServerName::new("pg1").unwrap()).unwrap()
    }

    fn id() -> BackupId {
        "20260529T101112".parse().unwrap()
    }

    #[test]
    fn a_server_name_cannot_leave_its_folder() {
        for bad in ["", ".", "..", "../x", "a/b", "a\\b", "a\nb", "a\0", " a", &"x".repeat(201)] {
            let error = ServerName::new(bad).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::InvalidInput, "{bad:?}");
        }
        for good in ["pg1", "db.example.com", "größe", "a..b", ".hidden"] {
            assert_eq!(ServerName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_prefix_cannot_leave_its_bucket() {
        for bad in ["a//b", "../a", "a/./b", "a/..", "a//", "a\u{7}"] {
            assert!(Layout::new(bad, ServerName::new("pg1").unwrap()).is_err(), "{bad:?}");
        }
        assert_eq!(layout("").base(), "pg1/base");
        assert_eq!(layout("/a/b/").base(), "a/b/pg1/base");
    }

    #[test]
    fn keys_are_those_of_barman() {
        let layout = layout("a/b");
        assert_eq!(layout.backup_info(&id()), "a/b/pg1/base/20260529T101112/backup.info");
        assert_eq!(layout.backup_label(&id()), "a/b/pg1/base/20260529T101112/backup_label");
        let wal = |name: &str, compression| layout.wal(name.parse().unwrap(), compression);
        assert_eq!(
            wal("00000001000000000000000A", Some(Compression::Gzip)),
            "a/b/pg1/wals/0000000100000000/00000001000000000000000A.gz"
        );
        assert_eq!(
            wal("0000000A000000AB00000009.00000028.backup", None),
            "a/b/pg1/wals/0000000A000000AB/0000000A000000AB00000009.00000028.backup"
        );
        assert_eq!(wal("00000002.history", Some(Compression::Zstd)), "a/b/pg1/wals/00000002.history.zst");
    }

    #[test]
    fn keep_is_written_where_stock_looks_and_read_in_both_places() {
        let plain = "a/pg1/base/20260529T101112/annotations/keep".to_owned();
        let doubled = "a//pg1/base/20260529T101112/annotations/keep".to_owned();
        assert_eq!(layout("a").keeps(&id()), vec![plain.clone()]);
        assert_eq!(layout("a/").keeps(&id()), vec![plain.clone()]);
        assert_eq!(layout("a").with_annotation_quirk().keeps(&id()), [plain.clone(), doubled.clone()]);
        assert_eq!(layout("a/").with_annotation_quirk().keeps(&id()), [doubled, plain]);
        assert_eq!(layout("/").with_annotation_quirk().keeps(&id()), ["pg1/base/20260529T101112/annotations/keep"]);
    }

    #[test]
    fn every_key_parses_to_what_it_was_built_from() {
        for layout in [layout(""), layout("a/b"), layout("a/b/").with_annotation_quirk()] {
            assert_eq!(layout.parse(&layout.backup_info(&id())), ObjectKind::BackupInfo(id()));
            assert_eq!(layout.parse(&layout.backup_label(&id())), ObjectKind::BackupLabel(id()));
            assert_eq!(layout.parse(&layout.saved_config(&id())), ObjectKind::SavedConfig(id()));
            for keep in layout.keeps(&id()) {
                assert_eq!(layout.parse(&keep), ObjectKind::Keep(id()));
            }
            for seq in [0, 7, 99_999_999, 123_456_789] {
                assert_eq!(layout.parse(&layout.session_entry(&id(), seq)), ObjectKind::SessionEntry { id: id(), seq });
            }
            assert_eq!(layout.parse(&layout.session_alive(&id())), ObjectKind::SessionAlive(id()));
            assert_eq!(layout.parse(&layout.catalog_identity()), ObjectKind::Identity);
            assert_eq!(layout.parse(&layout.system_id()), ObjectKind::SystemId);
            let proof = layout.proof(&id(), "20260529T101500Z").unwrap();
            assert_eq!(layout.parse(&proof), ObjectKind::Proof { id: id(), stamp: "20260529T101500Z".into() });
            for name in ["000000010000000000000009", "000000010000000000000009.partial", "00000003.history"] {
                for compression in [None, Some(Compression::Gzip), Some(Compression::Zstd)] {
                    let object = WalObject { name: name.parse().unwrap(), compression };
                    assert_eq!(layout.parse(&layout.wal(object.name, compression)), ObjectKind::Wal(object));
                }
            }
        }
    }

    #[test]
    fn tars_are_recognised_and_other_files_are_not_tars() {
        let layout = layout("");
        let kind = |file: &str| layout.parse(&format!("{}/{file}", layout.backup(&id())));
        assert_eq!(kind("data.tar"), ObjectKind::Tar { id: id(), tablespace: None, part: 0 });
        assert_eq!(kind("data_0001.tar.gz"), ObjectKind::Tar { id: id(), tablespace: None, part: 1 });
        assert_eq!(kind("16387_0012.tar.lz4"), ObjectKind::Tar { id: id(), tablespace: Some(16387), part: 12 });
        for other in ["data.tar.zst", "database.tar", "data_1.tar", "x/data.tar", "99999999999.tar"] {
            assert_eq!(kind(other), ObjectKind::OtherOfBackup(id()), "{other}");
        }
    }

    #[test]
    fn strangers_are_foreign() {
        let layout = layout("a");
        for key in [
            "a/pg11/base/20260529T101112/backup.info",
            "pg1/base/20260529T101112/backup.info",
            "a/pg1/base/notanid/backup.info",
            "a/pg1/wals/0000000100000001/000000010000000000000009",
            "a/pg1/wals/000000010000000000000009.gz.gz",
            "a/pg1/sessions/20260529T101112/1.json",
            "a/pg1/sessions/probe-1",
        ] {
            assert_eq!(layout.parse(key), ObjectKind::Foreign, "{key}");
        }
    }
}
