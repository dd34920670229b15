//! The plan of a session: everything that is decided before the first effect, and all that a process which adopts the
//! session needs to go forward without a database.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::owner::Owner;
use crate::host::Sighting;
use crate::id::{BackupId, Token};
use crate::model::{ExcludedTablespace, SavedConfig, SavedConfigRef};
use crate::postgres::ServerFacts;
use crate::provider::{AfterCut, CreateRequest, Instance, Volume, VolumeSnapshot};

/// Who keeps the WAL of the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WalPolicy {
    /// The catalog. The backup is published only when every segment from begin to stop is there.
    #[default]
    Catalog,
    /// Another tool, by the user's word. The backup is published without a look at its WAL, and says so.
    External,
}

/// See the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionPlan {
    /// The server, as named in the catalog.
    pub server: String,
    /// Server and identity of the catalog, which every snapshot carries, too; see
    /// [`CreateRequest::mark`](crate::provider::CreateRequest::mark).
    pub mark: String,
    /// The id of the backup; also the id of the session.
    pub backup_id: BackupId,
    /// The name the user gave to the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_name: Option<String>,
    /// The token that every snapshot carries.
    pub token: Token,
    /// When the plan was made.
    pub planned_at: DateTime<Utc>,
    /// Who drives the session.
    pub owner: Owner,
    /// The provider.
    pub provider: String,
    /// The instance with the volumes.
    pub instance: Instance,
    /// The volumes and the names of their snapshots.
    pub volumes: Vec<VolumeSnapshot>,
    /// Indices into `volumes`, in the order in which they are cut: all of one wave at once, the next wave when the one
    /// before is cut. On a standby the volume with `global/pg_control` is alone in the last wave.
    pub waves: Vec<Vec<usize>>,
    /// True if one create call takes all volumes of a wave.
    pub group: bool,
    /// The waves that take the place of the only one if the call for all volumes turns out to be forbidden, and each is cut by a
    /// call of its own. Empty: a group cut was asked for, or is not meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apart: Vec<Vec<usize>>,
    /// What is left to do for the snapshots after backup mode.
    #[serde(default)]
    pub after_cut: AfterCut,
    /// Ask PostgreSQL for an immediate checkpoint.
    pub immediate_checkpoint: bool,
    /// Who keeps the WAL.
    pub wal: WalPolicy,
    /// Tags of the user.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Facts of the server before the backup.
    pub facts: ServerFacts,
    /// Which server it is, as it was seen before the backup; `None` where the connection could not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sighting: Option<Sighting>,
    /// Paths that PostgreSQL names by way of a link, and where they really are.
    #[serde(default)]
    pub real_paths: BTreeMap<String, String>,
    /// Tablespaces that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded_tablespaces: Vec<ExcludedTablespace>,
    /// Directories of the cluster whose file systems are to be flushed before the cut. Not stored: who adopts a session does not
    /// start the backup again.
    #[serde(skip)]
    pub flush: Vec<PathBuf>,
    /// Configuration files outside the data directory, path and content, where an older version has made the plan.
    #[serde(default)]
    pub config_files: BTreeMap<String, String>,
    /// The object with the configuration files that no snapshot has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved_config: Option<SavedConfigRef>,
    /// What that object holds. Not stored: the object is written before the backup is announced, and behind that nobody needs
    /// the content.
    #[serde(skip)]
    pub saved: Option<SavedConfig>,
}

impl SessionPlan {
    /// The volumes without the names of their snapshots.
    pub fn plain_volumes(&self) -> Vec<Volume> {
        self.volumes.iter().map(|planned| planned.volume.clone()).collect()
    }

    /// The create calls of a wave: one for each volume, or one for all.
    pub fn requests(&self, wave: usize) -> Vec<CreateRequest> {
        self.calls(&self.waves[wave], self.group)
    }

    /// The create calls of each of the waves that are [apart](Self::apart).
    pub fn requests_apart(&self) -> Vec<Vec<CreateRequest>> {
        self.apart.iter().map(|wave| self.calls(wave, false)).collect()
    }

    fn calls(&self, wave: &[usize], group: bool) -> Vec<CreateRequest> {
        let volumes = wave.iter().map(|at| self.volumes[*at].clone());
        let calls: Vec<Vec<VolumeSnapshot>> =
            if group { vec![volumes.collect()] } else { volumes.map(|volume| vec![volume]).collect() };
        let request = |volumes| CreateRequest {
            token: self.token.clone(),
            mark: self.mark.clone(),
            backup_id: self.backup_id.clone(),
            instance: self.instance.clone(),
            volumes,
            tags: self.tags.clone(),
        };
        calls.into_iter().map(request).collect()
    }

    /// The create calls of all waves.
    pub fn all_requests(&self) -> Vec<CreateRequest> {
        (0..self.waves.len()).flat_map(|wave| self.requests(wave)).collect()
    }

    /// The waves for a server: one on a primary or with a group cut, two on a standby.
    ///
    /// On a standby, recovery takes the end of the backup from `pg_control`, therefore nothing may be cut after it
    /// (PostgreSQL manual, "Making a Base Backup Using the Low Level API", backup of a standby).
    pub fn waves_for(volumes: usize, control_volume: usize, in_recovery: bool, group: bool) -> Vec<Vec<usize>> {
        if !in_recovery || group || volumes < 2 {
            return vec![(0..volumes).collect()];
        }
        vec![(0..volumes).filter(|volume| *volume != control_volume).collect(), vec![control_volume]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_is_cut_in_one_wave() {
        assert_eq!(SessionPlan::waves_for(3, 1, false, false), [vec![0, 1, 2]]);
    }

    #[test]
    fn a_standby_is_cut_with_pg_control_last() {
        assert_eq!(SessionPlan::waves_for(3, 1, true, false), [vec![0, 2], vec![1]]);
        assert_eq!(SessionPlan::waves_for(1, 0, true, false), [vec![0]]);
    }

    #[test]
    fn one_group_cut_covers_a_standby_too() {
        assert_eq!(SessionPlan::waves_for(3, 1, true, true), [vec![0, 1, 2]]);
    }
}
