//! The one seam between the engine and its object store: small verbs on keys, with our errors.
//!
//! What it is: [`ObjectSpace`], a concrete, cheaply cloned handle over a directory, over any [`ObjectStore`], or over memory
//! for tests. What it is not: aware of what the keys mean; that is [`layout`](super::layout).
//!
//! The invariants:
//! * A put is atomic and durable when it returns. `put_new` never replaces anything; `put_if_version` replaces only what
//!   was read. Both hold between machines.
//! * Absent is a value (`None`), never an error. Deleting what is absent is success.
//! * A write whose reply was lost fails with [`Retry::Unknown`]. Doing it again is safe: `put_new` then says `Exists` with the
//!   bytes, and the caller sees whether they are its own.

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::{StreamExt, TryStreamExt};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::{Path as StorePath, PathPart};
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};

use super::fault::{Access, translate};
use super::local::{LocalStore, LocalVersion};
use crate::error::{Error, ErrorKind, Result, Retry};

/// How many requests one call makes at the same time.
pub(crate) const PARALLEL: usize = 16;

/// How long an operation on a directory may take, besides [`PER_MIB`]. A network file system whose server is gone lets a call
/// hang for ever. Requests to other stores have limits of their own ([`store`](super::store)).
const DIRECTORY_LIMIT: Duration = Duration::from_secs(120);
/// How much longer for each MiB of the object.
const PER_MIB: Duration = Duration::from_secs(1);
/// A store may answer with an empty page and say that there are more.
const EMPTY_PAGES: u32 = 8;

/// What a list says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When it was last written, by the clock of the store.
    pub last_modified: DateTime<Utc>,
}

/// The objects and the folders directly in a folder, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirListing {
    /// The objects.
    pub objects: Vec<ObjectInfo>,
    /// The names (not keys) of the folders.
    pub dirs: Vec<String>,
}

/// What came of [`ObjectSpace::put_new`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutNew {
    /// The object is new and ours.
    Created,
    /// There is one already, with these bytes. If they are what was to be written, an earlier attempt of the caller may have
    /// made it; only the caller can know.
    Exists(Bytes),
}

/// What came of [`ObjectSpace::put_if_version`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutIf<V = Version> {
    /// Replaced; this is the new version.
    Replaced(V),
    /// The object is not the one that was read, or is gone. Nothing was written.
    Changed,
}

/// Which content of an object was read: for [`ObjectSpace::put_if_version`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(Repr);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Repr {
    Local(LocalVersion),
    Remote { e_tag: Option<String>, version: Option<String> },
}

/// An operation, as a [`StoreHook`] sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the method of the same name")]
pub enum StoreOp {
    PutNew,
    Put,
    PutIfVersion,
    Get,
    Head,
    List,
    Delete,
}

/// Something that is asked before and after each operation, and may make it fail: for tests.
///
/// An error of `before` keeps the operation from happening. An error of `after` is a lost reply: the operation has happened.
pub trait StoreHook: Send + Sync + fmt::Debug {
    /// Called before the operation.
    fn before(&self, op: StoreOp, key: &str) -> Result<()>;
    /// Called after an operation that succeeded.
    fn after(&self, op: StoreOp, key: &str) -> Result<()>;
}

#[derive(Clone, Debug)]
enum Backend {
    Local(LocalStore),
    Remote(Arc<dyn ObjectStore>),
}

/// The same store, asked for one page of a list.
#[derive(Clone)]
struct Pages(Arc<dyn PaginatedListStore>);

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pages")
    }
}

/// An object store. See the [module documentation](self).
#[derive(Clone, Debug)]
pub struct ObjectSpace {
    backend: Backend,
    pages: Option<Pages>,
    name: Arc<str>,
    hook: Option<Arc<dyn StoreHook>>,
    limit: Duration,
}

impl ObjectSpace {
    /// The objects below a directory, which is made by the first write.
    pub fn local(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        let name = root.display().to_string().into();
        Self { backend: Backend::Local(LocalStore::new(root)), pages: None, name, hook: None, limit: DIRECTORY_LIMIT }
    }

    /// Any object store that can put conditionally. `name` is what messages call it; keys are below its root.
    pub fn remote(store: Arc<dyn ObjectStore>, name: &str) -> Self {
        Self { backend: Backend::Remote(store), pages: None, name: name.into(), hook: None, limit: DIRECTORY_LIMIT }
    }

    /// As [`remote`](Self::remote), of a store that can be asked for one page of a list.
    pub(super) fn paged<S: ObjectStore + PaginatedListStore>(store: S, name: &str) -> Self {
        let store = Arc::new(store);
        Self { pages: Some(Pages(Arc::clone(&store) as _)), ..Self::remote(store, name) }
    }

    /// A store that vanishes with the process.
    pub fn in_memory() -> Self {
        Self::remote(Arc::new(object_store::memory::InMemory::new()), "memory")
    }

    /// The same store, with `hook` asked before and after each operation.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_hook(&self, hook: Arc<dyn StoreHook>) -> Self {
        Self { hook: Some(hook), ..self.clone() }
    }

    /// The same store, with another limit for each operation on a directory.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn with_limit(&self, limit: Duration) -> Self {
        Self { limit, ..self.clone() }
    }

    /// The directory, if it is one: it may be on a file system that comes and goes.
    pub(crate) fn directory(&self) -> Option<&Path> {
        match &self.backend {
            Backend::Local(local) => Some(local.root()),
            Backend::Remote(_) => None,
        }
    }

    /// What messages call it: a path, or a URL and its endpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes a new object, or gives back the one that exists.
    pub async fn put_new(&self, key: &str, bytes: impl Into<Bytes>) -> Result<PutNew> {
        let bytes = bytes.into();
        self.hooked(StoreOp::PutNew, key, async {
            match &self.backend {
                Backend::Local(local) => {
                    let (local, key) = (local.clone(), key.to_owned());
                    self.on_disk(bytes.len() as u64, move || local.put_new(&key, &bytes)).await
                }
                Backend::Remote(store) => self.remote_put_new(store, key, bytes).await,
            }
        })
        .await
    }

    async fn remote_put_new(&self, store: &Arc<dyn ObjectStore>, key: &str, bytes: Bytes) -> Result<PutNew> {
        let path = store_path(key)?;
        // A loop, because the object that is in the way can be deleted before it is read; S3 also answers "conflict" while
        // another writer of the same key is under way.
        for _ in 0..4 {
            let options = PutOptions::from(PutMode::Create);
            match store.put_opts(&path, bytes.clone().into(), options).await {
                Ok(_) => return Ok(PutNew::Created),
                Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {}
                Err(error) => return Err(self.fail(Access::Write, key, error)),
            }
            if let Some((existing, _)) = self.remote_get(store, key).await? {
                return Ok(PutNew::Exists(existing));
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("cannot create {key} in {}: others write it", self.name))
            .with_retry(Retry::Safe))
    }

    /// Writes an object, whether or not there was one.
    pub async fn put(&self, key: &str, bytes: impl Into<Bytes>) -> Result<()> {
        let bytes = bytes.into();
        self.hooked(StoreOp::Put, key, async {
            match &self.backend {
                Backend::Local(local) => {
                    let (local, key) = (local.clone(), key.to_owned());
                    self.on_disk(bytes.len() as u64, move || local.put(&key, &bytes)).await
                }
                Backend::Remote(store) => {
                    let put = store.put(&store_path(key)?, bytes.into()).await;
                    put.map(drop).map_err(|error| self.fail(Access::Write, key, error))
                }
            }
        })
        .await
    }

    /// Replaces an object if it is still the one that was read.
    pub async fn put_if_version(&self, key: &str, bytes: impl Into<Bytes>, version: &Version) -> Result<PutIf> {
        let bytes = bytes.into();
        self.hooked(StoreOp::PutIfVersion, key, async {
            match (&self.backend, &version.0) {
                (Backend::Local(local), Repr::Local(version)) => {
                    let (local, key, version) = (local.clone(), key.to_owned(), *version);
                    let put = move || local.put_if_version(&key, &bytes, &version);
                    self.on_disk(0, put).await.map(|done| match done {
                        PutIf::Replaced(version) => PutIf::Replaced(Version(Repr::Local(version))),
                        PutIf::Changed => PutIf::Changed,
                    })
                }
                (Backend::Remote(store), Repr::Remote { e_tag, version }) => {
                    let expected = UpdateVersion { e_tag: e_tag.clone(), version: version.clone() };
                    let options = PutOptions::from(PutMode::Update(expected));
                    match store.put_opts(&store_path(key)?, bytes.into(), options).await {
                        Ok(done) => Ok(PutIf::Replaced(remote_version(done.e_tag, done.version))),
                        Err(
                            object_store::Error::Precondition { .. }
                            | object_store::Error::AlreadyExists { .. }
                            | object_store::Error::NotFound { .. },
                        ) => Ok(PutIf::Changed),
                        Err(error) => Err(self.fail(Access::Write, key, error)),
                    }
                }
                _ => Err(Error::internal(format!("the version of {key} is of another store"))),
            }
        })
        .await
    }

    /// The bytes of an object, and their version.
    pub async fn get(&self, key: &str) -> Result<Option<(Bytes, Version)>> {
        self.hooked(StoreOp::Get, key, async {
            match &self.backend {
                Backend::Local(local) => {
                    let (local, key) = (local.clone(), key.to_owned());
                    let size = self.size_on_disk(&local, &key).await?;
                    refuse_larger(&key, size)?;
                    let got = self.on_disk(size, move || local.get(&key)).await?;
                    Ok(got.map(|(bytes, version)| (bytes, Version(Repr::Local(version)))))
                }
                Backend::Remote(store) => self.remote_get(store, key).await,
            }
        })
        .await
    }

    async fn remote_get(&self, store: &Arc<dyn ObjectStore>, key: &str) -> Result<Option<(Bytes, Version)>> {
        let got = match store.get(&store_path(key)?).await {
            Ok(got) => got,
            Err(error) => return self.absent_is_none(Access::Read, key, error),
        };
        let version = remote_version(got.meta.e_tag.clone(), got.meta.version.clone());
        refuse_larger(key, got.meta.size)?;
        let bytes = got.bytes().await.map_err(|error| self.fail(Access::Read, key, error))?;
        Ok(Some((bytes, version)))
    }

    /// Writes the bytes of an object to the end of an open file, without holding all of them in memory, and says how many
    /// there were. The caller flushes.
    pub async fn get_to_file(&self, key: &str, file: &File) -> Result<Option<u64>> {
        let file = file.try_clone().map_err(|error| Error::io("duplicate a descriptor for", key, error))?;
        self.hooked(StoreOp::Get, key, async {
            let store = match &self.backend {
                Backend::Local(local) => {
                    let (local, key) = (local.clone(), key.to_owned());
                    let size = self.size_on_disk(&local, &key).await?;
                    return self.on_disk(size, move || local.get_to_file(&key, &file)).await;
                }
                Backend::Remote(store) => store,
            };
            let got = match store.get(&store_path(key)?).await {
                Ok(got) => got,
                Err(error) => return self.absent_is_none(Access::Read, key, error),
            };
            let mut stream = got.into_stream();
            let (mut file, mut size) = (file, 0);
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.map_err(|error| self.fail(Access::Read, key, error))?;
                size += chunk.len() as u64;
                let name = key.to_owned();
                file = blocking(move || {
                    file.write_all(&chunk).map_err(|error| Error::io("write what was read of", name, error))?;
                    Ok(file)
                })
                .await?;
            }
            Ok(Some(size))
        })
        .await
    }

    /// Whether there is such an object, and what it is like.
    pub async fn head(&self, key: &str) -> Result<Option<ObjectInfo>> {
        self.hooked(StoreOp::Head, key, async {
            match &self.backend {
                Backend::Local(local) => {
                    let (local, key) = (local.clone(), key.to_owned());
                    self.on_disk(0, move || local.head(&key)).await
                }
                Backend::Remote(store) => match store.head(&store_path(key)?).await {
                    Ok(meta) => Ok(Some(object_info(meta))),
                    Err(error) => self.absent_is_none(Access::Read, key, error),
                },
            }
        })
        .await
    }

    /// All objects below a folder, at any depth, sorted by key.
    pub async fn list(&self, folder: &str) -> Result<Vec<ObjectInfo>> {
        self.hooked(StoreOp::List, folder, async {
            let mut found: Vec<_> = match &self.backend {
                Backend::Local(local) => {
                    let (local, folder) = (local.clone(), folder.to_owned());
                    self.on_disk(0, move || local.list(&folder)).await?
                }
                Backend::Remote(store) => {
                    let path = store_path(folder)?;
                    let list = store.list(Some(&path)).map_ok(object_info).try_collect().await;
                    list.map_err(|error| self.fail(Access::List, folder, error))?
                }
            };
            found.sort_unstable_by(|a: &ObjectInfo, b| a.key.cmp(&b.key));
            Ok(found)
        })
        .await
    }

    /// The objects and folders directly in a folder.
    pub async fn list_dir(&self, folder: &str) -> Result<DirListing> {
        self.hooked(StoreOp::List, folder, async {
            let (mut objects, mut dirs): (Vec<ObjectInfo>, Vec<String>) = match &self.backend {
                Backend::Local(local) => {
                    let (local, folder) = (local.clone(), folder.to_owned());
                    self.on_disk(0, move || local.list_dir(&folder)).await?
                }
                Backend::Remote(store) => {
                    let path = store_path(folder)?;
                    let list = store.list_with_delimiter(Some(&path)).await;
                    let list = list.map_err(|error| self.fail(Access::List, folder, error))?;
                    let dirs = list.common_prefixes.iter().filter_map(|dir| dir.filename().map(str::to_owned));
                    (list.objects.into_iter().map(object_info).collect(), dirs.collect())
                }
            };
            objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            dirs.sort_unstable();
            Ok(DirListing { objects, dirs })
        })
        .await
    }

    /// Whether there is any object below a folder, at any depth. One small request, however many there are.
    pub async fn holds_any(&self, folder: &str) -> Result<bool> {
        self.hooked(StoreOp::List, folder, async {
            match (&self.backend, &self.pages) {
                (Backend::Local(local), _) => {
                    let (local, folder) = (local.clone(), folder.to_owned());
                    self.on_disk(0, move || local.holds_any(&folder)).await
                }
                (Backend::Remote(_), Some(Pages(pages))) => self.first_page_holds_any(pages.as_ref(), folder).await,
                (Backend::Remote(store), None) => {
                    let first = store.list(Some(&store_path(folder)?)).next().await.transpose();
                    first.map(|object| object.is_some()).map_err(|error| self.fail(Access::List, folder, error))
                }
            }
        })
        .await
    }

    async fn first_page_holds_any(&self, pages: &dyn PaginatedListStore, folder: &str) -> Result<bool> {
        let prefix = format!("{}/", store_path(folder)?);
        let mut options = PaginatedListOptions { max_keys: Some(1), ..PaginatedListOptions::default() };
        for _ in 0..EMPTY_PAGES {
            let page = pages.list_paginated(Some(&prefix), options.clone()).await;
            let page = page.map_err(|error| self.fail(Access::List, folder, error))?;
            if !page.result.objects.is_empty() {
                return Ok(true);
            }
            match page.page_token {
                Some(token) => options.page_token = Some(token),
                None => break,
            }
        }
        Ok(false)
    }

    /// Deletes an object. Gone already is success.
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.hooked(StoreOp::Delete, key, async {
            match &self.backend {
                Backend::Local(local) => {
                    let (local, key) = (local.clone(), key.to_owned());
                    self.on_disk(0, move || local.delete(&key)).await
                }
                Backend::Remote(store) => match store.delete(&store_path(key)?).await {
                    Ok(()) => Ok(()),
                    Err(error) => self.absent_is_none::<()>(Access::Write, key, error).map(drop),
                },
            }
        })
        .await
    }

    /// Deletes many objects, several at a time. All are tried; the first error is returned.
    pub async fn delete_many(&self, keys: &[String]) -> Result<()> {
        let deleted: Vec<Result<()>> = futures::stream::iter(keys.to_vec())
            .map(|key| async move { self.delete(&key).await })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        deleted.into_iter().collect()
    }

    /// Deletes everything below a folder and says how many objects that were.
    pub async fn delete_prefix(&self, folder: &str) -> Result<usize> {
        let keys: Vec<String> = self.list(folder).await?.into_iter().map(|object| object.key).collect();
        self.delete_many(&keys).await?;
        Ok(keys.len())
    }

    /// Works on the files of a directory, within a limit.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        bytes: u64,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mib = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        let limit = self.limit.saturating_add(PER_MIB.saturating_mul(mib));
        let name = Arc::clone(&self.name);
        blocking(move || within(limit, &name, work)).await
    }

    async fn size_on_disk(&self, local: &LocalStore, key: &str) -> Result<u64> {
        let (local, key) = (local.clone(), key.to_owned());
        Ok(self.on_disk(0, move || local.head(&key)).await?.map_or(0, |object| object.size))
    }

    async fn hooked<T>(&self, op: StoreOp, key: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        if let Some(hook) = &self.hook {
            hook.before(op, key)?;
        }
        let done = work.await.map_err(|error| error.with_context("key", key))?;
        if let Some(hook) = &self.hook {
            hook.after(op, key)?;
        }
        Ok(done)
    }

    fn fail(&self, access: Access, key: &str, error: object_store::Error) -> Error {
        translate(access, &self.name, key, error)
    }

    /// Absent is a value, but an absent bucket is an error.
    fn absent_is_none<T>(&self, access: Access, key: &str, error: object_store::Error) -> Result<Option<T>> {
        match error {
            object_store::Error::NotFound { .. } if !super::fault::bucket_is_missing(&error) => Ok(None),
            error => Err(self.fail(access, key, error)),
        }
    }
}

/// A key as the library wants it. Its parser refuses empty segments, which Barman's annotation keys can have.
fn store_path(key: &str) -> Result<StorePath> {
    let bad = |error: object_store::path::Error| Error::invalid(format!("not a key: {key:?}")).with_source(error);
    if !key.contains("//") {
        return StorePath::parse(key).map_err(bad);
    }
    let mut path = StorePath::ROOT;
    for part in key.split('/') {
        let part =
            PathPart::parse(part).map_err(|error| Error::invalid(format!("not a key: {key:?}")).with_source(error))?;
        path = path.join(part);
    }
    Ok(path)
}

fn object_info(meta: object_store::ObjectMeta) -> ObjectInfo {
    ObjectInfo { key: meta.location.into(), size: meta.size, last_modified: meta.last_modified }
}

/// No object that is read as a whole is larger, packed or not: a WAL segment has up to 1 GiB, all else is text of ours or Barman's.
fn refuse_larger(key: &str, size: u64) -> Result<()> {
    let limit: u64 = if key.split('/').any(|part| part == "wals") { (1 << 30) + (64 << 20) } else { 64 << 20 };
    if size <= limit {
        return Ok(());
    }
    Err(Error::corrupt(format!("an object of {size} bytes at {key} is larger than any that belongs there")))
}

fn remote_version(e_tag: Option<String>, version: Option<String>) -> Version {
    Version(Repr::Remote { e_tag, version })
}

/// Does `work` on a thread of its own and gives it up after `limit`: a call that hangs cannot be ended, but nobody has to wait
/// for it, nor does the end of the process.
fn within<T: Send + 'static>(
    limit: Duration,
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done, wait) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        // If nobody waits any more, nobody wants to know.
        .spawn(move || drop(done.send(work())))
        .map_err(|error| Error::io("start a thread for", name, error))?;
    wait.recv_timeout(limit).unwrap_or_else(|error| match error {
        mpsc::RecvTimeoutError::Timeout => {
            let message = format!("{name} did not answer within {} s", limit.as_secs());
            Err(Error::new(ErrorKind::Unavailable, message)
                .with_retry(Retry::Unknown)
                .with_hint("is it on a network file system whose server is gone?"))
        }
        mpsc::RecvTimeoutError::Disconnected => Err(Error::internal("a file operation did not finish")),
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::internal("a file operation did not finish").with_source(error)),
    }
}
