//! The catalog: the backups of one server in one object store.
//!
//! The story, bottom up: [`store`] opens a URL, [`space`] has the verbs, [`layout`] has the keys, [`Catalog`] reads and writes
//! backups, [`keep`] keeps them, [`retention`] says which ones are obsolete, [`delete`] deletes them;
//! whose catalog it is says [`Catalog::pinned_system_id`].
//!
//! The invariants:
//! * A backup is what has a `backup.info`. It is created before anything else of a backup that must be found again, and
//!   deleted after everything else.
//! * One unreadable `backup.info` spoils nothing but itself: it is reported beside the others, never deleted by a policy, and
//!   as long as it is there no WAL is deleted, because nobody knows which WAL it needs.
//! * What Barman wrote, Barman can still read; what it did not write (`sessions/`, `proofs/`) it never sees.

pub mod delete;
mod fault;
pub mod keep;
pub mod layout;
mod local;
mod place;
mod private;
pub mod resolve;
pub mod retention;
pub mod space;
pub mod store;
mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt};

use crate::error::{Error, ErrorKind, Result, Retry};
use crate::id::BackupId;
use crate::model::{BackupInfo, BackupStatus};

pub(crate) use local::write_pieces;

pub use delete::{DeletePlan, DeleteRequest};
pub use keep::Keep;
pub use layout::{Layout, ObjectKind, ServerName};
pub use resolve::{Chosen, PassedOver};
pub use retention::{Retention, RetentionPolicy};
pub use space::{DirListing, ObjectInfo, ObjectSpace, PutIf, PutNew, StoreHook, StoreOp, Version};
pub use store::{CatalogUrl, StoreOptions};

/// The backups of one server.
#[derive(Clone, Debug)]
pub struct Catalog {
    space: ObjectSpace,
    layout: Layout,
}

/// One backup, as [`Catalog::list`] finds it.
#[derive(Debug)]
pub struct CatalogEntry {
    /// Its id.
    pub id: BackupId,
    /// What its `backup.info` says, or why it cannot be read.
    pub info: Result<BackupInfo>,
    /// Whether it is kept.
    pub keep: Option<Keep>,
    /// What a person should know about its `backup.info`: one line each.
    pub warnings: Vec<String>,
}

impl CatalogEntry {
    /// Its status; none if it cannot be read.
    pub fn status(&self) -> Option<BackupStatus> {
        self.info.as_ref().ok().map(|info| info.status)
    }

    /// The name that the user gave it.
    pub fn name(&self) -> Option<&str> {
        self.info.as_ref().ok()?.backup_name.as_deref()
    }
}

impl Catalog {
    /// Opens the catalog of `server` at a URL. Nothing of it needs to exist yet.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a wrong URL, server name or option.
    pub async fn open(url: &str, options: &StoreOptions, server: &str) -> Result<Self> {
        let server = ServerName::new(server)?;
        let url = CatalogUrl::parse(url)?;
        let layout = Layout::new(url.prefix(), server)?;
        let layout = if url.has_annotation_quirk() { layout.with_annotation_quirk() } else { layout };
        Ok(Self::new(store::open(&url, options).await?, layout))
    }

    /// The catalog with these keys in this store.
    pub fn new(space: ObjectSpace, layout: Layout) -> Self {
        Self { space, layout }
    }

    /// Its store.
    pub fn space(&self) -> &ObjectSpace {
        &self.space
    }

    /// Its keys.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its server.
    pub fn server(&self) -> &ServerName {
        self.layout.server()
    }

    /// Writes and deletes a small object below `sessions/`, and makes sure that the store really refuses to create an object
    /// twice, which is what keeps two drivers of one session apart.
    ///
    /// # Errors
    /// What the store says; [`Unsupported`](ErrorKind::Unsupported) if it replaces what it was asked to create.
    pub async fn check_writable(&self) -> Result<()> {
        self.check_mounted().await?;
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let tag = format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let key = self.layout.probe(&tag);
        // A leftover of a process with our number would only confuse the second question.
        self.space.delete(&key).await?;
        self.space.put_new(&key, "first").await?;
        let second = self.space.put_new(&key, "second").await;
        self.space.delete(&key).await?;
        match second? {
            PutNew::Exists(bytes) if bytes == "first" => Ok(()),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                format!("{} does not keep its promise to create an object only once", self.space.name()),
            )
            .with_hint("the store ignores conditional writes (If-None-Match); update it or use another one")),
        }
    }

    /// All backups, sorted by id. Unreadable ones are among them, each with its error.
    ///
    /// # Errors
    /// Only if the store fails.
    pub async fn list(&self) -> Result<Vec<CatalogEntry>> {
        let (mut ids, mut kept) = (BTreeSet::new(), BTreeSet::new());
        for object in self.space.list(&self.layout.base()).await? {
            match self.layout.parse(&object.key) {
                ObjectKind::BackupInfo(id) => drop(ids.insert(id)),
                ObjectKind::Keep(id) => drop(kept.insert(id)),
                _ => {}
            }
        }
        let has_other_place = |id: &BackupId| self.layout.keeps(id).len() > 1;
        let entries = futures::stream::iter(ids).map(|id| {
            // Annotations in the other place are not below `base/` and have to be asked for.
            let ask = kept.contains(&id) || has_other_place(&id);
            async move { self.load(id, ask).await }
        });
        let entries: Vec<_> = entries.buffered(space::PARALLEL).try_collect().await?;
        // Deleted between the list and the read.
        Ok(entries.into_iter().flatten().collect())
    }

    /// One backup with all that [`list`](Self::list) says of it.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound).
    pub async fn entry(&self, id: &BackupId) -> Result<CatalogEntry> {
        self.load(id.clone(), true).await?.ok_or_else(|| self.no_such(id))
    }

    async fn load(&self, id: BackupId, ask_keep: bool) -> Result<Option<CatalogEntry>> {
        let Some((bytes, _)) = self.space.get(&self.layout.backup_info(&id)).await? else { return Ok(None) };
        let keep = if ask_keep { self.keep(&id).await? } else { None };
        Ok(Some(match BackupInfo::parse_bytes(&bytes) {
            Ok(parsed) => CatalogEntry { id, info: Ok(parsed.info), keep, warnings: parsed.warnings },
            Err(error) => {
                let error = error.with_context("backup_id", id.to_string());
                CatalogEntry { id, info: Err(error), keep, warnings: Vec::new() }
            }
        }))
    }

    /// What the `backup.info` of a backup says.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), [`Corrupt`](ErrorKind::Corrupt).
    pub async fn read(&self, id: &BackupId) -> Result<BackupInfo> {
        let entry = self.load(id.clone(), false).await?.ok_or_else(|| self.no_such(id))?;
        for warning in &entry.warnings {
            tracing::warn!(backup_id = %id, "{warning}");
        }
        entry.info
    }

    /// Creates a backup. False if it exists with exactly these fields: an earlier attempt of the caller may have made it.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) if there is another backup with this id.
    pub async fn create(&self, id: &BackupId, info: &BackupInfo) -> Result<bool> {
        let text = info.to_text()?;
        match self.space.put_new(&self.layout.backup_info(id), text.clone()).await? {
            PutNew::Created => Ok(true),
            PutNew::Exists(bytes) if bytes == text => Ok(false),
            PutNew::Exists(_) => Err(Error::new(
                ErrorKind::Conflict,
                format!("the catalog of {} has a backup {id} already", self.server()),
            )),
        }
    }

    /// Replaces the `backup.info` of a backup.
    pub async fn replace(&self, id: &BackupId, info: &BackupInfo) -> Result<()> {
        self.space.put(&self.layout.backup_info(id), info.to_text()?).await
    }

    /// Replaces the `backup.info` of a backup if `may` says so of the one that is there, and nobody changes it in between. False
    /// if there is none, or one that may not be replaced.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) if the one that is there cannot be read.
    pub async fn replace_if(
        &self,
        id: &BackupId,
        info: &BackupInfo,
        may: impl Fn(&BackupInfo) -> bool + Send + Sync,
    ) -> Result<bool> {
        let key = self.layout.backup_info(id);
        let text = info.to_text()?;
        for _ in 0..5 {
            let Some((bytes, version)) = self.space.get(&key).await? else { return Ok(false) };
            // Also when the reply to an earlier attempt was lost.
            if bytes == text {
                return Ok(true);
            }
            if !may(&BackupInfo::parse_bytes(&bytes)?.info) {
                return Ok(false);
            }
            match self.space.put_if_version(&key, text.clone(), &version).await? {
                PutIf::Replaced(_) => return Ok(true),
                PutIf::Changed => {}
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("the backup.info of {id} keeps changing")).with_retry(Retry::Safe))
    }

    /// Stores the label that `pg_backup_stop` returned.
    pub async fn write_label(&self, id: &BackupId, label: &str) -> Result<()> {
        self.space.put(&self.layout.backup_label(id), label.to_owned()).await
    }

    /// The label that `pg_backup_stop` returned, byte for byte; none if the backup has none as an object.
    pub async fn read_label(&self, id: &BackupId) -> Result<Option<String>> {
        let Some((bytes, _)) = self.space.get(&self.layout.backup_label(id)).await? else { return Ok(None) };
        match String::from_utf8(bytes.into()) {
            Ok(label) => Ok(Some(label)),
            Err(error) => Err(Error::corrupt(format!("the backup_label of {id} is not UTF-8")).with_source(error)),
        }
    }

    /// Removes a backup from the catalog: label, saved configuration, tars and annotation, `backup.info` last. Not its snapshots, its WAL, its
    /// journal and its proofs; objects that nobody knows stay. Gone already is success.
    pub async fn remove(&self, id: &BackupId) -> Result<()> {
        let keys = self.objects_of(id).await?;
        self.space.delete_many(&keys).await?;
        self.release_keep(id).await?;
        self.space.delete(&self.layout.backup_info(id)).await
    }

    /// The keys of the label, the saved configuration and the tars of a backup.
    async fn objects_of(&self, id: &BackupId) -> Result<Vec<String>> {
        let objects = self.space.list(&self.layout.backup(id)).await?;
        let known = |key: &String| {
            use ObjectKind::{BackupLabel, SavedConfig, Tar};
            matches!(self.layout.parse(key), BackupLabel(_) | SavedConfig(_) | Tar { .. })
        };
        Ok(objects.into_iter().map(|object| object.key).filter(known).collect())
    }

    /// The highest id that is taken, whether or not the backup is complete. One request.
    pub async fn latest_id(&self) -> Result<Option<BackupId>> {
        let listing = self.space.list_dir(&self.layout.base()).await?;
        Ok(listing.dirs.iter().filter_map(|dir| dir.parse().ok()).max())
    }

    /// The backup that the user means: an id, a name, or `first`, `last`, … See [`resolve`](resolve::resolve).
    pub async fn resolve(&self, text: &str) -> Result<BackupId> {
        self.choose(text).await.map(|chosen| chosen.backup_id)
    }

    /// As [`resolve`](Self::resolve), with the reasons.
    pub async fn choose(&self, text: &str) -> Result<Chosen> {
        let is_id = BackupId::looks_like(text);
        let entries = if is_id { Vec::new() } else { self.list().await? };
        if entries.is_empty() && !is_id {
            self.check_there()?;
        }
        resolve::resolve(text, &entries)
    }

    /// The sessions that have left anything: the keys of each.
    pub async fn sessions(&self) -> Result<BTreeMap<BackupId, Vec<String>>> {
        let mut sessions: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for object in self.space.list(&self.layout.sessions()).await? {
            if let ObjectKind::SessionEntry { id, .. } | ObjectKind::SessionAlive(id) = self.layout.parse(&object.key) {
                sessions.entry(id).or_default().push(object.key);
            }
        }
        Ok(sessions)
    }

    fn no_such(&self, id: &BackupId) -> Error {
        Error::not_found(format!("there is no backup {id} of {}", self.server())).with_hint("see barman-snap list")
    }
}
