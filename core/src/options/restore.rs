//! Restore and verify.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::EngineOptions;
use crate::engine::Engine;
use crate::engine::restore::{RestoreListener, wal_source};
use crate::error::{Error, Result};
use crate::restore::target::{parse_time, parse_timeline};
use crate::restore::{
    self, DeviceWishes, Proof, Purpose, RecoveryTarget, RestoreRequest, SqlCheck, TablespaceMapping, TargetAction,
    TargetOptions, TargetTimeline, VerifyDepth, WalSource,
};
use crate::session::CancelToken;

/// The command line, when nothing else is said to fetch the WAL.
const PROGRAM: &str = "barman-snap";

/// How to restore.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestoreOptions {
    /// Where tablespaces go that do not go where they were: name or old directory, and new directory.
    pub tablespaces: BTreeMap<String, PathBuf>,
    /// Where the WAL goes, absent or empty; without it, into the data directory, or in place where it was.
    pub waldir: Option<PathBuf>,
    /// Replace what is in the target directory.
    pub in_place: bool,
    /// Recover up to this time; without a zone, local time of this host.
    pub target_time: Option<String>,
    /// Recover up to this WAL position.
    pub target_lsn: Option<String>,
    /// Recover up to this transaction.
    pub target_xid: Option<u64>,
    /// Recover up to this restore point.
    pub target_name: Option<String>,
    /// Recover only as far as consistency.
    pub target_immediate: bool,
    /// Recover along this timeline: a number, `current` or `latest`.
    pub target_tli: Option<String>,
    /// Stop just before the target rather than just after.
    pub target_exclusive: bool,
    /// What PostgreSQL does at the target: `promote`, `pause` or `shutdown`.
    pub target_action: Option<TargetAction>,
    /// The `restore_command` to write, as it is.
    pub restore_command: Option<String>,
    /// The words before `wal-restore [--new-tablespaces inside] URL SERVER %f %p` in the `restore_command` otherwise; without it,
    /// `barman-snap` with the options that reach the same store. Its status has to be 1 where there is no such file, and only then.
    pub wal_restore_program: Vec<String>,
    /// The server lives beside the original: it archives nothing, and no background worker of it reaches out. Without any of
    /// `clone`, `replace` and `standby`: a clone if the original is seen to run on this host, else a replacement.
    pub clone: bool,
    /// The server takes the place of the original.
    pub replace: bool,
    /// The server follows another one.
    pub standby: bool,
    /// Of a provider that restores to devices: the instance that volumes are attached to, which is this host.
    pub snapshot_recovery_instance: Option<String>,
    /// The volumes have been made of the snapshots, attached and mounted already.
    pub mounted: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl RestoreOptions {
    /// Restores `backup` (an id, a name, `first`, `last`, or `auto` for the one that suits the target) to `target`, and says
    /// what was done; in a dry run, the plan.
    ///
    /// # Errors
    /// Every refusal comes before anything is changed. What was made is removed again on a failure.
    pub async fn run(
        &self,
        engine: &Engine,
        wal: &CatalogAddress<'_>,
        (backup, target): (&str, &Path),
        cancel: &CancelToken,
        listener: &RestoreListener,
    ) -> Result<Value> {
        let recovery = self.target()?;
        let chosen = engine.choose(backup, &recovery).await?;
        let id = chosen.backup_id.clone();
        let target = std::path::absolute(target)
            .map_err(|error| Error::invalid(format!("not a directory: {}", target.display())).with_source(error))?;
        let mut request = RestoreRequest::new(target, self.wal(wal), engine.ids().token());
        request.recovery = recovery;
        request.chosen = Some(chosen);
        request.in_place = self.in_place;
        request.waldir.clone_from(&self.waldir);
        request.purpose = Purpose::from_flags(self.clone, self.replace, self.standby)?;
        request.tablespaces = self.mappings()?;
        request.devices =
            Some(DeviceWishes { instance: self.snapshot_recovery_instance.clone(), mounted: self.mounted });
        let plan = engine.plan_restore(&id, &request).await?;
        if self.dry_run {
            return json(&plan);
        }
        json(&engine.restore(&plan, cancel, listener).await?)
    }

    fn wal(&self, address: &CatalogAddress<'_>) -> WalSource {
        match (&self.restore_command, self.wal_restore_program.as_slice()) {
            (Some(command), _) => WalSource::Command(command.clone()),
            (None, program) => address.wal_source(program),
        }
    }

    fn mappings(&self) -> Result<Vec<TablespaceMapping>> {
        self.tablespaces.iter().map(|(from, to)| format!("{from}:{}", to.display()).parse()).collect()
    }

    fn target(&self) -> Result<RecoveryTarget> {
        let options = TargetOptions {
            time: self.target_time.as_deref().map(|text| parse_time(text, &chrono::Local)).transpose()?,
            lsn: self.target_lsn.as_deref().map(str::parse).transpose()?,
            xid: self.target_xid,
            name: self.target_name.clone(),
            immediate: self.target_immediate,
            exclusive: self.target_exclusive,
            timeline: self.target_tli.as_deref().map_or(Ok(TargetTimeline::default()), parse_timeline)?,
            action: self.target_action,
        };
        options.into_target()
    }
}

/// Where the catalog is, for a program that the restored server runs.
#[derive(Clone, Copy, Debug)]
pub struct CatalogAddress<'a> {
    /// Its URL, as it was given.
    pub url: &'a str,
    /// The server in it.
    pub server: &'a str,
    /// The options with which it was opened.
    pub options: &'a EngineOptions,
}

impl CatalogAddress<'_> {
    /// WAL from the catalog, fetched by `program`, or by the command line if that is empty.
    fn wal_source(&self, program: &[String]) -> WalSource {
        let words = match program {
            [] => [vec![PROGRAM.to_owned()], self.options.store_arguments()].concat(),
            program => program.to_vec(),
        };
        wal_source(words, self.url, self.server)
    }
}

/// How to verify.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VerifyOptions {
    /// Directory for the throw-away server; without it, beside the snapshot.
    pub work_dir: Option<PathBuf>,
    /// Directory with the programs of the PostgreSQL version of the backup.
    pub pg_bin_dir: Option<PathBuf>,
    /// Statements to run on the restored server.
    pub sql: Vec<String>,
    /// The database for them.
    pub sql_database: String,
    /// Replay all WAL in the catalog, not only as far as consistency.
    pub all_wal: bool,
    /// With `all_wal`: along this timeline, a number, `current` or `latest`.
    pub target_tli: Option<String>,
    /// Of a provider that restores to devices: the instance that volumes are attached to, which is this host.
    pub snapshot_recovery_instance: Option<String>,
    /// Checks to leave out: `amcheck`, `checksums`.
    pub without: Vec<String>,
    /// How long the server may take to be consistent.
    pub timeout_ms: Option<u64>,
    /// As in [`RestoreOptions`].
    pub wal_restore_program: Vec<String>,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            work_dir: None,
            pg_bin_dir: None,
            sql: Vec::new(),
            sql_database: "postgres".to_owned(),
            all_wal: false,
            target_tli: None,
            snapshot_recovery_instance: None,
            without: Vec::new(),
            timeout_ms: None,
            wal_restore_program: Vec::new(),
        }
    }
}

impl VerifyOptions {
    /// Verifies `backup`, and gives the proof, which may say that it did not pass.
    ///
    /// # Errors
    /// If nothing could be proven either way.
    pub async fn run(
        &self,
        engine: &Engine,
        wal: &CatalogAddress<'_>,
        backup: &str,
        cancel: &CancelToken,
        listener: &RestoreListener,
    ) -> Result<Proof> {
        let chosen = engine.choose(backup, &RecoveryTarget::default()).await?;
        let id = chosen.backup_id.clone();
        let check = |sql: &String| SqlCheck { database: self.sql_database.clone(), sql: sql.clone(), expect: None };
        let default = restore::VerifyOptions::default();
        let options = restore::VerifyOptions {
            work_dir: self.work_dir.clone(),
            bin_dir: self.pg_bin_dir.clone(),
            depth: if self.all_wal { VerifyDepth::EndOfWal } else { VerifyDepth::Consistency },
            timeline: self.target_tli.as_deref().map_or(Ok(TargetTimeline::default()), parse_timeline)?,
            sql: self.sql.iter().map(check).collect(),
            devices: Some(DeviceWishes { instance: self.snapshot_recovery_instance.clone(), mounted: false }),
            recovery_limit: self.timeout_ms.map_or(default.recovery_limit, Duration::from_millis),
            chosen: Some(chosen),
            ..default
        };
        let options = options.without(&self.without)?;
        engine.verify(&id, &wal.wal_source(&self.wal_restore_program), &options, cancel, listener).await
    }
}

fn json(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::internal("cannot write JSON").with_source(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::from_json;

    #[test]
    fn the_restored_server_fetches_its_wal_with_the_command_line_unless_told_otherwise() {
        let engine = EngineOptions::default();
        let address = CatalogAddress { url: "/c", server: "pg1", options: &engine };
        let command = |json: &str| {
            let options: RestoreOptions = from_json(Some(json)).unwrap();
            options.wal(&address).restore_command().unwrap()
        };
        assert_eq!(command("{}"), "barman-snap wal-restore /c pg1 %f %p");
        assert_eq!(command(r#"{"wal_restore_program": ["/x y", "-v"]}"#), "'/x y' -v wal-restore /c pg1 %f %p");
        assert_eq!(command(r#"{"restore_command": "cp /a/%f %p"}"#), "cp /a/%f %p");
    }

    #[test]
    fn a_server_has_one_purpose() {
        let purpose = |json: &str| {
            let options: RestoreOptions = from_json(Some(json)).unwrap();
            Purpose::from_flags(options.clone, options.replace, options.standby)
        };
        assert_eq!(purpose("{}").unwrap(), None);
        assert_eq!(purpose(r#"{"clone": true}"#).unwrap(), Some(Purpose::Clone));
        assert!(purpose(r#"{"clone": true, "standby": true}"#).is_err());
    }

    #[test]
    fn two_targets_are_refused() {
        let options: RestoreOptions = from_json(Some(r#"{"target_xid": 700, "target_immediate": true}"#)).unwrap();
        assert!(options.target().is_err());
    }

    #[test]
    fn tablespaces_are_mapped_to_absolute_places() {
        let options: RestoreOptions = from_json(Some(r#"{"tablespaces": {"fast": "/new/fast"}}"#)).unwrap();
        assert_eq!(options.mappings().unwrap()[0].to, Path::new("/new/fast"));
        let options: RestoreOptions = from_json(Some(r#"{"tablespaces": {"fast": "new"}}"#)).unwrap();
        assert!(options.mappings().is_err());
    }
}
