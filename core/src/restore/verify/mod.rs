//! Verify: restore a backup to a throw-away place, start it, look at what came out, and record that as a [`Proof`].
//!
//! # What is proven
//! That the snapshots can be read, that the WAL needed for consistency is there, that PostgreSQL can read the restored
//! configuration, recovers and opens, that it is the right cluster, that heap and B-tree pages are well formed
//! (`pg_amcheck`), that checksums are right (`pg_checksums`), and that the user's SQL returns what it should.
//!
//! # The invariants
//! What is verified is what is restored: the plan is that of a clone, made and carried out by the same code, with the same
//! files and settings. [Isolation](crate::restore::server) is only added, on the command line of the server.
//!
//! The original is not touched. The tablespaces go to the throw-away place as well, the server is private, and everything is
//! removed afterwards, on success, failure and cancellation. When the whole process is killed, its server ends with it, and
//! the next verification removes its directories (`barman-snap-verify-*`). Of a provider that restores to devices, new volumes are mounted in
//! the throw-away place, and unmounted, detached and deleted before it is removed; when the process is killed, or the
//! future is dropped, they stay attached.
//!
//! # Errors
//! An `Err` means that nothing could be proven either way: a bad request, no programs of that version, no place, no space, or
//! cancelled. What went wrong with the backup itself is a [`Proof`] that has not passed.

mod amcheck;
mod left_out;
mod run;
mod shortage;
mod strays;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use self::run::Run;

use crate::catalog::Chosen;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, Token};
use crate::model::{BackupInfo, EngineRecord};
use crate::restore::claims;
use crate::restore::devices::{DeviceFacts, carry_out, look_at, throw_away};
use crate::restore::host::look;
use crate::restore::plan::{
    ArchiveFacts, DeviceWishes, Owner, PlanInput, RestorePlan, RestoreRequest, places_to_look_at, plan,
};
use crate::restore::proof::{Check, Outcome, PROOF_VERSION, Proof, SqlCheck};
use crate::restore::provision::{Restored, Tools, millis};
use crate::restore::server::Binaries;
use crate::restore::settings::{Purpose, Setting, WalSource, shell_quoted};
use crate::restore::tablespaces::TablespaceMapping;
use crate::restore::target::{RecoveryTarget, TargetPoint, TargetTimeline};
use crate::restore::workplace::Workplace;

/// How far the throw-away server recovers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum VerifyDepth {
    /// To the end of the backup. Proves the backup; takes seconds.
    #[default]
    Consistency,
    /// To the end of the archive. Proves all WAL since then as well; takes as long as a real restore.
    EndOfWal,
}

/// The options of a verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Where to put the throw-away directories; by default on the file system of each snapshot.
    pub work_dir: Option<PathBuf>,
    /// Where the programs of PostgreSQL are; see [`Binaries::find`].
    pub bin_dir: Option<PathBuf>,
    /// How far to recover.
    pub depth: VerifyDepth,
    /// To the end of the WAL: along which timeline, as for a restore.
    pub timeline: TargetTimeline,
    /// A superuser to connect as. By default those that usually exist are tried; if none does, one is made in the throw-away
    /// server.
    pub user: Option<String>,
    /// Statements to run.
    pub sql: Vec<SqlCheck>,
    /// Settings of the throw-away server, for clusters that do not start without (`shared_preload_libraries`).
    pub settings: Vec<Setting>,
    /// How long recovery may take.
    pub recovery_limit: Duration,
    /// Run `pg_amcheck`.
    pub amcheck: bool,
    /// Run `pg_checksums`.
    pub checksums: bool,
    /// For a provider that restores to devices: which instance.
    pub devices: Option<DeviceWishes>,
    /// As whom the server runs when we are root and the snapshot's files belong to root.
    pub owner: Option<Owner>,
    /// How the backup was chosen: for the proof.
    pub chosen: Option<Chosen>,
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            work_dir: None,
            bin_dir: None,
            depth: VerifyDepth::default(),
            timeline: TargetTimeline::default(),
            user: None,
            sql: Vec::new(),
            settings: Vec::new(),
            recovery_limit: Duration::from_secs(3600),
            amcheck: true,
            checksums: true,
            devices: None,
            owner: None,
            chosen: None,
        }
    }
}

impl VerifyOptions {
    /// Leaves checks out, by their names: `amcheck`, `checksums`.
    ///
    /// # Errors
    /// `invalid_input` for any other name: without the other checks nothing is proven.
    pub fn without(mut self, checks: &[String]) -> Result<Self> {
        for check in checks {
            match check.as_str() {
                "amcheck" => self.amcheck = false,
                "checksums" => self.checksums = false,
                other => {
                    return Err(Error::invalid(format!("no check that can be left out: {other:?}"))
                        .with_hint("amcheck, checksums"));
                }
            }
        }
        Ok(self)
    }
}

/// Something that fetches files of the WAL archive within this process.
#[async_trait]
pub trait WalReader: Send + Sync {
    /// Writes the segment or history file `name`, decompressed, to `destination`, which does not exist. A missing one is
    /// `not_found`.
    async fn fetch(&self, name: &str, destination: &Path) -> Result<()>;
}

/// What is verified.
#[derive(Clone, Copy)]
pub struct VerifyInput<'a> {
    /// The server, as the catalog names it.
    pub server: &'a str,
    /// The backup.
    pub backup_id: &'a BackupId,
    /// Its metadata, with `backup_label` filled in.
    pub info: &'a BackupInfo,
    /// Our record about it.
    pub record: &'a EngineRecord,
    /// What is in the archive.
    pub archive: &'a ArchiveFacts,
    /// What is known of the instance, as in [`PlanInput::devices`].
    pub devices: Option<&'a DeviceFacts>,
    /// A token for this verification.
    pub token: &'a Token,
    /// Where the throw-away server gets its WAL from.
    pub wal: &'a WalSource,
    /// With a reader, and to the depth of consistency, the few segments of the backup are fetched by this process, which may
    /// read a catalog that the user of the server may not. Otherwise the server runs `wal`.
    pub reader: Option<&'a dyn WalReader>,
    /// The options.
    pub options: &'a VerifyOptions,
}

impl std::fmt::Debug for VerifyInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifyInput")
            .field("backup_id", self.backup_id)
            .field("options", self.options)
            .finish_non_exhaustive()
    }
}

/// Verifies a backup. See the [module documentation](self).
pub async fn verify(input: VerifyInput<'_>, tools: Tools<'_>) -> Result<Proof> {
    let major = input.info.version.map_or(0, |version| version / 10_000);
    claims::check(input.info, input.record)?;
    let binaries = Binaries::find(major, input.options.bin_dir.as_deref(), &needed(&input, major)).await?;
    let started_at = tools.clock.now();
    let started = tools.clock.monotonic();

    let mut work = Workplace::new(input.info, input.options.work_dir.as_deref(), input.wal.directory(), input.token);
    let pgdata = input.info.pgdata.clone().unwrap_or_default();
    let home = match input.devices {
        Some(_) => work.anywhere()?,
        None => work.near(input.record, Path::new(&pgdata))?,
    };
    let wal = wal_source(&input, &home);
    let request = request(&input, &mut work, &home, wal)?;
    let planned = async {
        let plan = make_plan(&input, &request, tools)?;
        crate::restore::space::check(&plan, tools).await?;
        Ok(plan)
    };
    let planned: Result<RestorePlan> = planned.await;

    let mut proof = Proof {
        version: PROOF_VERSION,
        server: input.server.to_owned(),
        backup_id: input.backup_id.clone(),
        passed: false,
        started_at,
        finished_at: started_at,
        duration_ms: 0,
        engine: format!("barman-snap {}", env!("CARGO_PKG_VERSION")),
        postgres: binaries.version.clone(),
        target: target_in_words(&input, &request),
        reached: None,
        bytes_copied: None,
        checks: Vec::new(),
        sql: Vec::new(),
        log: Vec::new(),
        chosen: input.options.chosen.clone(),
        contained: None,
    };
    let plan = match planned {
        Ok(plan) => plan,
        // What the backup lacks: that is what a verification is for.
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
            let detail = error.chain();
            proof.checks.push(Check { name: "restore".to_owned(), outcome: Outcome::Failed, detail, duration_ms: 0 });
            work.clean()?;
            proof.finished_at = tools.clock.now();
            return Ok(proof);
        }
        Err(error) => return Err(error),
    };
    let mut restored = None;
    let worked = Run { input, tools, binaries, plan, home, proof: &mut proof, restored: &mut restored }.run().await;
    let taken_back = take_back(restored, input.token, tools).await;
    // A directory that cannot be removed fills somebody's disk: that is an error even when all checks passed.
    let cleaned = work.clean();
    worked?;
    taken_back?;
    cleaned?;
    proof.passed = proof.checks.iter().all(|check| check.outcome != Outcome::Failed);
    proof.finished_at = tools.clock.now();
    proof.duration_ms = millis(tools.clock.monotonic().saturating_sub(started));
    Ok(proof)
}

/// The programs that the checks need: one that is missing must not make a proof of less.
fn needed(input: &VerifyInput<'_>, major: u32) -> Vec<&'static str> {
    let amcheck = input.options.amcheck && major >= amcheck::SINCE;
    let checksums = input.options.checksums && input.info.data_checksums.as_deref() != Some("off");
    let programs = [(amcheck, "pg_amcheck"), (checksums, "pg_checksums")];
    programs.into_iter().filter(|(wanted, _)| *wanted).map(|(_, program)| program).collect()
}

/// How far the server recovers, as a user would say it.
fn target_in_words(input: &VerifyInput<'_>, request: &RestoreRequest) -> String {
    match input.options.depth {
        VerifyDepth::Consistency => {
            RecoveryTarget { point: TargetPoint::Immediate, ..request.recovery.clone() }.to_string()
        }
        VerifyDepth::EndOfWal => request.recovery.to_string(),
    }
}

/// Unmounts, detaches and deletes the volumes of a throw-away restore.
async fn take_back(restored: Option<Restored>, token: &Token, tools: Tools<'_>) -> Result<()> {
    let Some(Restored { volumes, devices: Some(devices), .. }) = restored else { return Ok(()) };
    match carry_out::take_back(&volumes, &devices, token, tools).await.as_slice() {
        [] => Ok(()),
        left => {
            Err(Error::precondition(format!("the verification could not take everything back: {}", left.join("; ")))
                .with_hint("unmount, detach and delete it by hand"))
        }
    }
}

/// True if the segments of the backup are fetched by this process.
fn fetches_itself(input: &VerifyInput<'_>) -> bool {
    input.reader.is_some() && input.options.depth == VerifyDepth::Consistency && !input.record.wal_external
}

fn wal_source(input: &VerifyInput<'_>, home: &Path) -> WalSource {
    if !fetches_itself(input) {
        return input.wal.clone();
    }
    let directory = shell_quoted(&home.join("wal").to_string_lossy()).replace('%', "%%");
    WalSource::Command(format!("cp {directory}/%f %p"))
}

fn request(input: &VerifyInput<'_>, work: &mut Workplace, home: &Path, wal: WalSource) -> Result<RestoreRequest> {
    let mut request = RestoreRequest::new(home.join("data"), wal, input.token.clone());
    match input.devices {
        Some(_) => (request.target, request.tablespaces) = throw_away(input.info, input.record, home)?,
        None => request.tablespaces = tablespaces_beside(input, work, home)?,
    }
    request.recovery = match input.options.depth {
        // Only the WAL of the backup is there, and its end is the target. PostgreSQL would look for consistency in the record
        // behind it, and a backup that ends with a segment has none there.
        VerifyDepth::Consistency if fetches_itself(input) => {
            RecoveryTarget { timeline: TargetTimeline::Current, ..RecoveryTarget::default() }
        }
        // The timeline of the backup: a later one may have branched off before the backup, and would be an error.
        VerifyDepth::Consistency => RecoveryTarget {
            point: TargetPoint::Immediate,
            timeline: TargetTimeline::Current,
            ..RecoveryTarget::default()
        },
        VerifyDepth::EndOfWal => RecoveryTarget { timeline: input.options.timeline, ..RecoveryTarget::default() },
    };
    request.purpose = Some(Purpose::Clone);
    request.owner = input.options.owner;
    Ok(request)
}

/// Each tablespace in a throw-away place on its own file system.
fn tablespaces_beside(input: &VerifyInput<'_>, work: &mut Workplace, home: &Path) -> Result<Vec<TablespaceMapping>> {
    let pgdata = input.info.pgdata.clone().unwrap_or_default();
    let outside = input.info.tablespaces.iter().flatten().filter(|one| !Path::new(&one.location).starts_with(&pgdata));
    let beside = outside.map(|one| {
        let place = match input.record.leaves_out(one.oid) {
            true => home.to_owned(),
            false => work.near(input.record, Path::new(&one.location))?,
        };
        Ok(TablespaceMapping { from: one.name.clone(), to: place.join(format!("tablespace-{}", one.oid)) })
    });
    beside.collect()
}

fn make_plan(input: &VerifyInput<'_>, request: &RestoreRequest, tools: Tools<'_>) -> Result<RestorePlan> {
    let mut places = places_to_look_at(input.info, request)?;
    if input.devices.is_some() {
        places.extend(look_at(input.info, input.record, request)?);
    }
    let host = look(&places)?;
    plan(PlanInput {
        backup_id: input.backup_id,
        info: input.info,
        record: input.record,
        request,
        host: &host,
        archive: input.archive,
        devices: input.devices,
        now: tools.clock.now(),
    })
}
