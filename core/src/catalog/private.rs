//! The private object of a backup: the configuration files that no snapshot has.
//!
//! It is written before `backup.info` says anything of the backup, deleted before `backup.info` is, and read by a restore only.
//! The invariant: nothing but this file reads it or writes it, and no error repeats what is in it.

use super::layout::ObjectKind;
use super::{Catalog, PutNew};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::id::{BackupId, Token};
use crate::model::{SavedConfig, SavedConfigRef, SavedFile};

impl Catalog {
    /// Stores the configuration files of a backup. Doing it again is harmless.
    ///
    /// # Errors
    /// What the store says; [`Conflict`](ErrorKind::Conflict) if there is one of another session that made a backup with this id.
    pub async fn store_config(&self, id: &BackupId, config: &SavedConfig) -> Result<()> {
        let key = self.layout.saved_config(id);
        let bytes = config.encode()?;
        let mut stored = self.space.put_new(&key, bytes.clone()).await;
        if matches!(&stored, Err(error) if error.retry() == Retry::Unknown) {
            // Lost reply: what is there may be what we have just written.
            stored = self.space.put_new(&key, bytes.clone()).await;
        }
        let failed = |error: Error| {
            Error::new(error.kind(), format!("cannot store the configuration files of backup {id} in the catalog"))
                .with_retry(error.retry())
                .with_source(error)
        };
        match stored.map_err(failed)? {
            PutNew::Created => Ok(()),
            PutNew::Exists(found) if found == bytes => Ok(()),
            PutNew::Exists(_) => {
                Err(Error::new(ErrorKind::Conflict, format!("{key} is that of another backup, which is gone"))
                    .with_hint("`barman-snap gc --apply` removes it"))
            }
        }
    }

    /// The configuration files of a backup.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`Corrupt`](ErrorKind::Corrupt) if what is there is not what `reference` speaks of.
    pub async fn read_config(
        &self,
        id: &BackupId,
        reference: &SavedConfigRef,
        token: &Token,
    ) -> Result<Vec<SavedFile>> {
        let key = self.layout.saved_config(id);
        let missing = || Error::not_found(format!("the saved configuration of backup {id} is missing: {key}"));
        let named = |error: Error| error.with_context("key", key.clone());
        // Its size first: what was put there instead is not taken into memory.
        let head = self.space.head(&key).await?.ok_or_else(missing)?;
        reference.check_size(head.size).map_err(named)?;
        let (bytes, _) = self.space.get(&key).await?.ok_or_else(missing)?;
        Ok(SavedConfig::decode(&bytes, reference, token).map_err(named)?.files)
    }

    /// Removes the configuration files that the session `token` has stored for a backup, and those of nobody else.
    pub async fn remove_config(&self, id: &BackupId, token: &Token) -> Result<()> {
        let key = self.layout.saved_config(id);
        match self.space.get(&key).await? {
            Some((bytes, _)) if SavedConfig::token_of(&bytes).as_ref() == Some(token) => self.space.delete(&key).await,
            _ => Ok(()),
        }
    }

    /// The ids for which there are configuration files, whether or not there is a backup.
    pub async fn saved_configs(&self) -> Result<Vec<BackupId>> {
        let objects = self.space.list(&self.layout.base()).await?;
        let id = |key: &str| match self.layout.parse(key) {
            ObjectKind::SavedConfig(id) => Some(id),
            _ => None,
        };
        Ok(objects.iter().filter_map(|object| id(&object.key)).collect())
    }

    /// Removes the configuration files of a backup that is gone.
    ///
    /// # Errors
    /// [`Precondition`](ErrorKind::Precondition) if there is such a backup.
    pub async fn drop_orphaned_config(&self, id: &BackupId) -> Result<()> {
        if self.space.head(&self.layout.backup_info(id)).await?.is_some() {
            return Err(Error::precondition(format!("the saved configuration of {id} stays: the backup is there")));
        }
        self.space.delete(&self.layout.saved_config(id)).await
    }
}
