//! Whose catalog it is: the system identifier of the cluster, pinned beside the journals.
//!
//! Two clusters that archive under one server name destroy each other's archive, and a name alone does not tell them apart.
//! So the first backup or the first archived segment writes the identifier down ([`Layout::system_id`]), and every later one is
//! compared with it. What it is not: a proof about files that carry no identifier (histories of timelines, backup history
//! files).
//!
//! The invariant: what is pinned changes only when the user names the new identifier, which is then the one the cluster has.
//!
//! [`Layout::system_id`]: super::Layout::system_id

use super::{Catalog, PutIf, PutNew, Version};
use crate::error::{Error, ErrorKind, Result, Retry};

/// How often a pin that others change at the same time is looked at again.
const ATTEMPTS: u32 = 5;

impl Catalog {
    /// The system identifier that is pinned; none in a new catalog, or in one that a stock tool has made.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) if the object is not what it should be.
    pub async fn pinned_system_id(&self) -> Result<Option<String>> {
        Ok(self.pin().await?.map(|(known, _)| known))
    }

    /// Refuses a cluster that this is not the catalog of. Changes nothing. `new` is the identifier that the user has named
    /// as the new one.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict), naming both.
    pub async fn check_system_id(&self, have: &str, new: Option<&str>) -> Result<()> {
        let known = match self.pinned_system_id().await? {
            Some(known) => Some(known),
            None => self.system_id_of_backups().await?,
        };
        known.map_or(Ok(()), |known| self.compare_system_ids(&known, have, new))
    }

    /// As [`check_system_id`](Self::check_system_id), and pins `have` if it is the first, or the new one.
    ///
    /// # Errors
    /// As there.
    pub async fn pin_system_id(&self, have: &str, new: Option<&str>) -> Result<()> {
        let key = self.layout().system_id();
        for _ in 0..ATTEMPTS {
            let Some((known, version)) = self.pin().await? else {
                let first = self.system_id_of_backups().await?.unwrap_or_else(|| have.to_owned());
                // Whatever is there now is looked at in the next round, also if an earlier attempt of ours has written it.
                let (PutNew::Created | PutNew::Exists(_)) = self.space().put_new(&key, first).await?;
                continue;
            };
            self.compare_system_ids(&known, have, new)?;
            if known == have {
                return Ok(());
            }
            if let PutIf::Replaced(_) = self.space().put_if_version(&key, have.to_owned(), &version).await? {
                tracing::warn!(server = %self.server(), from = known, to = have, "the catalog is of a new cluster now");
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("{key} keeps changing")).with_retry(Retry::Safe))
    }

    /// Refuses `have` if it is neither the known cluster nor the one that the user has named.
    pub(crate) fn compare_system_ids(&self, known: &str, have: &str, new: Option<&str>) -> Result<()> {
        if known == have || new == Some(have) {
            return Ok(());
        }
        let server = self.server();
        Err(Error::new(
            ErrorKind::Conflict,
            format!("server {server} of this catalog is the cluster {known}, and this is the cluster {have}"),
        )
        .with_hint(format!(
            "give this one another server name; or if it has replaced the other one (pg_upgrade, initdb), say so once with \
             --new-system-id {have}"
        )))
    }

    async fn pin(&self) -> Result<Option<(String, Version)>> {
        let key = self.layout().system_id();
        let Some((bytes, version)) = self.space().get(&key).await? else { return Ok(None) };
        let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
        if text.parse::<u64>().is_ok() {
            return Ok(Some((text.to_owned(), version)));
        }
        Err(Error::corrupt(format!("{key} is not the system identifier of a cluster"))
            .with_hint("it holds digits; restore it, or remove it if the cluster is the right one"))
    }

    /// What the newest backup says that says anything.
    async fn system_id_of_backups(&self) -> Result<Option<String>> {
        let entries = self.list().await?;
        Ok(entries.into_iter().rev().find_map(|entry| entry.info.ok()?.systemid))
    }
}
