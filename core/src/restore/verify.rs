//! Verify: restore a backup to a throw-away place, start it, look at what came out, and record that as a [`Proof`].
//!
//! # What is proven
//! That the snapshots can be read, that the WAL needed for consistency is there, that PostgreSQL recovers and opens, that
//! it is the right cluster, that heap and B-tree pages are well formed (`pg_amcheck`), that checksums are right
//! (`pg_checksums`), and that the user's SQL returns what it should.
//!
//! # The invariant
//! The original is not touched. The tablespaces go to the throw-away place as well, the server is [private](super::server),
//! and everything is removed afterwards, on success, failure and cancellation. (When the whole process is killed, what is
//! left is directories named `barman-snap-verify-*`.) Of a provider that restores to devices, new volumes are mounted in
//! the throw-away place, and unmounted, detached and deleted before it is removed; when the process is killed, or the
//! future is dropped, they stay attached.
//!
//! # Errors
//! An `Err` means that nothing could be proven either way: a bad request, no programs of that version, no place, or
//! cancelled. What went wrong with the backup itself is a [`Proof`] that has not passed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;

use super::devices::{DeviceFacts, carry_out, look_at, throw_away};
use super::host::look;
use super::pgdata::remove_any;
use super::plan::{ArchiveFacts, DeviceWishes, Owner, PlanInput, RestorePlan, RestoreRequest, places_to_look_at, plan};
use super::proof::{Check, Outcome, PROOF_VERSION, Proof, ROWS_KEPT, Reached, SqlCheck, SqlResult};
use super::provision::{RestoreEvent, Restored, Tools, millis, provision};
use super::server::{Binaries, PrivateServer, ServerSpec, check_checksums};
use super::settings::{Setting, WalSource, shell_quoted};
use super::tablespaces::TablespaceMapping;
use super::target::{RecoveryTarget, TargetPoint, TargetTimeline};
use super::workplace::Workplace;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, Token};
use crate::model::{BackupInfo, EngineRecord, Segment, SegmentSize, Timeline};

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
    /// A role to connect as; by default `postgres`.
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
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self {
            work_dir: None,
            bin_dir: None,
            depth: VerifyDepth::default(),
            user: None,
            sql: Vec::new(),
            settings: Vec::new(),
            recovery_limit: Duration::from_secs(3600),
            amcheck: true,
            checksums: true,
            devices: None,
            owner: None,
        }
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
    let binaries = Binaries::find(major, input.options.bin_dir.as_deref()).await?;
    let started_at = tools.clock.now();
    let started = tools.clock.monotonic();

    let mut work = Workplace::new(input.info, input.options.work_dir.as_deref(), input.token);
    let pgdata = input.info.pgdata.clone().unwrap_or_default();
    let home = match input.devices {
        Some(_) => work.anywhere()?,
        None => work.near(input.record, Path::new(&pgdata))?,
    };
    let wal = wal_source(&input, &home);
    let request = request(&input, &mut work, &home, wal)?;
    let plan = make_plan(&input, &request, tools)?;

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
        target: plan.recovery.to_string(),
        reached: None,
        bytes_copied: None,
        checks: Vec::new(),
        sql: Vec::new(),
        log: Vec::new(),
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
        None => request.tablespaces = tablespaces_beside(input, work)?,
    }
    request.recovery = match input.options.depth {
        // The timeline of the backup: a later one may have branched off before the backup, and would be an error.
        VerifyDepth::Consistency => RecoveryTarget {
            point: TargetPoint::Immediate,
            timeline: TargetTimeline::Current,
            ..RecoveryTarget::default()
        },
        VerifyDepth::EndOfWal => RecoveryTarget::default(),
    };
    request.archiving_off = true;
    request.fresh_settings = true;
    request.owner = input.options.owner;
    Ok(request)
}

/// Each tablespace in a throw-away place on its own file system.
fn tablespaces_beside(input: &VerifyInput<'_>, work: &mut Workplace) -> Result<Vec<TablespaceMapping>> {
    let pgdata = input.info.pgdata.clone().unwrap_or_default();
    let outside = input.info.tablespaces.iter().flatten().filter(|one| !Path::new(&one.location).starts_with(&pgdata));
    let beside = outside.map(|one| {
        let place = work.near(input.record, Path::new(&one.location))?;
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

/// A verification on its way.
struct Run<'a> {
    input: VerifyInput<'a>,
    tools: Tools<'a>,
    binaries: Binaries,
    plan: RestorePlan,
    home: PathBuf,
    proof: &'a mut Proof,
    restored: &'a mut Option<Restored>,
}

/// What a check has to say, or that it is not made.
enum Verdict {
    Good(String),
    Bad(String),
    NotMade(String),
}

impl Run<'_> {
    /// All checks in their order. Only a cancellation and what has nothing to do with the backup is an error.
    async fn run(mut self) -> Result<()> {
        let at = self.begin("restore")?;
        let restored = self.restore().await;
        if !self.end("restore", at, restored)? {
            return Ok(());
        }
        let at = self.begin("recovery")?;
        let mut server = PrivateServer::start(self.server_spec()).await?;
        let go_on = || self.tools.go_on();
        let open = server.wait_until_open(self.input.options.recovery_limit, self.tools.clock, &go_on).await;
        let open = open.map(|()| Verdict::Good("the server has reached consistency and opened".to_owned()));
        let worked = match self.end("recovery", at, open) {
            Ok(true) => self.examine(&mut server).await,
            other => other.map(|_| ()),
        };
        if !self.proof.checks.iter().all(|check| check.outcome != Outcome::Failed) {
            self.proof.log = server.log_tail();
        }
        // Whatever happened, nothing runs any more when the directories are removed.
        server.kill(self.tools.clock).await;
        worked
    }

    async fn restore(&mut self) -> Result<Verdict> {
        if fetches_itself(&self.input) {
            self.fetch_wal().await?;
        }
        let restored = provision(&self.plan, self.tools).await?;
        self.proof.bytes_copied = restored.bytes_copied;
        let said = format!("{} pieces, {} files removed", restored.volumes.len(), restored.prepared.removed);
        *self.restored = Some(restored);
        Ok(Verdict::Good(said))
    }

    /// The segments of the backup, and the history of its timeline if it has one.
    async fn fetch_wal(&self) -> Result<()> {
        let Some(reader) = self.input.reader else { return Ok(()) };
        let info = self.input.info;
        let (Some(begin), Some(end), Some(timeline)) = (info.begin_xlog, info.end_xlog, info.timeline) else {
            return Err(Error::corrupt("the backup does not say which WAL it needs"));
        };
        let directory = self.home.join("wal");
        std::fs::create_dir(&directory).map_err(|error| Error::io("make the directory", &directory, error))?;
        let open = |path: &Path, mode| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
                .map_err(|error| Error::io("change the mode of", path, error))
        };
        let size = info.xlog_segment_size.unwrap_or(SegmentSize::DEFAULT);
        for segment in Segment::needed(begin, end, timeline, size) {
            self.tools.go_on()?;
            let file = directory.join(segment.to_string());
            reader.fetch(&segment.to_string(), &file).await?;
            // The server may run as another user; the directory above has no list of names for anybody else.
            open(&file, 0o644)?;
        }
        if timeline > Timeline(1) {
            let name = format!("{:08X}.history", timeline.0);
            match reader.fetch(&name, &directory.join(&name)).await {
                Ok(()) => open(&directory.join(&name), 0o644)?,
                // A backup can be restored without it; PostgreSQL then knows its own timeline only.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        open(&directory, 0o711)
    }

    fn server_spec(&self) -> ServerSpec {
        let options = self.input.options;
        let known: BTreeMap<_, _> = self.input.record.settings.iter().collect();
        let recorded = known.into_iter().map(|(name, value)| Setting::new(name, value));
        ServerSpec {
            binaries: self.binaries.clone(),
            pgdata: self.plan.target.clone(),
            work: self.home.clone(),
            major: self.plan.major,
            settings: recorded.chain(options.settings.iter().cloned()).collect(),
            users: options.user.clone().map_or_else(|| vec!["postgres".to_owned()], |user| vec![user]),
        }
    }

    /// The checks of the open server, its shutdown, and those of the closed one.
    async fn examine(&mut self, server: &mut PrivateServer) -> Result<()> {
        let at = self.begin("identity")?;
        let identity = self.identity(server).await;
        self.end("identity", at, identity)?;

        let at = self.begin("amcheck")?;
        let amcheck = self.amcheck(server).await;
        self.end("amcheck", at, amcheck)?;

        for check in &self.input.options.sql {
            let at = self.begin("sql")?;
            let verdict = self.sql(server, check).await;
            self.end("sql", at, verdict)?;
        }
        let checksums = server.query("template1", "SHOW data_checksums").await;

        let at = self.begin("shutdown")?;
        let stopped = server.stop(Duration::from_secs(300), self.tools.clock).await;
        let stopped = stopped.map(|()| Verdict::Good("the server shut down cleanly".to_owned()));
        let clean = self.end("shutdown", at, stopped)?;

        let at = self.begin("checksums")?;
        let on = checksums.is_ok_and(|rows| rows.first().and_then(|row| row.first()?.as_deref()) == Some("on"));
        let verdict = match (self.input.options.checksums, on, clean) {
            (false, ..) => Ok(Verdict::NotMade("switched off".to_owned())),
            (_, false, _) => Ok(Verdict::NotMade("the cluster has no data checksums".to_owned())),
            (_, _, false) => Ok(Verdict::NotMade("the server did not shut down cleanly".to_owned())),
            _ => self.checksums().await,
        };
        self.end("checksums", at, verdict)?;
        Ok(())
    }

    async fn identity(&mut self, server: &PrivateServer) -> Result<Verdict> {
        let rows = server.query("template1", IDENTITY).await?;
        let row = rows.first().ok_or_else(|| Error::internal("the server did not say who it is"))?;
        let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
        let number = |at: usize| text(at).parse::<u64>().unwrap_or_default();
        let reached = Reached {
            system_id: text(0),
            lsn: text(1).parse()?,
            timeline: Timeline(u32::try_from(number(2)).unwrap_or_default()),
            last_transaction: row.get(3).cloned().flatten(),
            databases: number(4),
            bytes: number(5),
        };
        let wanted = self.input.info.systemid.clone().unwrap_or_else(|| reached.system_id.clone());
        let (lsn, end) = (reached.lsn, self.input.info.end_xlog.unwrap_or(reached.lsn));
        let verdict = if wanted != reached.system_id {
            Verdict::Bad(format!("system identifier {}, the backup has {wanted}", reached.system_id))
        } else if lsn < end && !self.input.record.from_standby {
            // A backup of a standby ends where its pg_control says, which may be before what pg_backup_stop returned.
            Verdict::Bad(format!("recovery ended at {lsn}, before the end of the backup at {end}"))
        } else {
            Verdict::Good(format!("the cluster {wanted} at {lsn}, {} databases", reached.databases))
        };
        self.proof.reached = Some(reached);
        Ok(verdict)
    }

    async fn amcheck(&self, server: &PrivateServer) -> Result<Verdict> {
        if !self.input.options.amcheck {
            return Ok(Verdict::NotMade("switched off".to_owned()));
        }
        if self.binaries.program("pg_amcheck").is_none() {
            return Ok(Verdict::NotMade(format!("no pg_amcheck in {}", self.binaries.directory.display())));
        }
        let available = "SELECT 1 FROM pg_catalog.pg_available_extensions WHERE name = 'amcheck'";
        if server.query("template1", available).await?.is_empty() {
            return Ok(Verdict::NotMade("the extension amcheck is not installed on this host".to_owned()));
        }
        let (good, output) = server.client("pg_amcheck", &["--all", "--install-missing", "--jobs=2"]).await?;
        Ok(if good {
            Verdict::Good("no corruption found in tables and indexes".to_owned())
        } else {
            Verdict::Bad(brief(&output))
        })
    }

    async fn sql(&mut self, server: &PrivateServer, check: &SqlCheck) -> Result<Verdict> {
        let mut rows = server.query(&check.database, &check.sql).await?;
        let row_count = rows.len() as u64;
        let first = rows.first().and_then(|row| row.first().cloned().flatten());
        rows.truncate(ROWS_KEPT);
        self.proof.sql.push(SqlResult { check: check.clone(), row_count, rows });
        Ok(match &check.expect {
            Some(expected) if first.as_ref() != Some(expected) => {
                let found = first.unwrap_or_else(|| "nothing".to_owned());
                Verdict::Bad(format!("{} returned {found}, expected {expected}", check.sql))
            }
            _ => Verdict::Good(format!("{} returned {row_count} rows", check.sql)),
        })
    }

    async fn checksums(&self) -> Result<Verdict> {
        if self.binaries.program("pg_checksums").is_none() {
            return Ok(Verdict::NotMade(format!("no pg_checksums in {}", self.binaries.directory.display())));
        }
        let (good, output) = check_checksums(&self.binaries, &self.plan.target).await?;
        let blocks = output.lines().find_map(|line| line.strip_prefix("Blocks scanned:")).map_or("", str::trim);
        Ok(if good { Verdict::Good(format!("{blocks} blocks, none bad")) } else { Verdict::Bad(brief(&output)) })
    }

    /// Begins a check, unless the user has cancelled; returns the time.
    fn begin(&self, name: &str) -> Result<Duration> {
        self.tools.go_on()?;
        (self.tools.progress)(RestoreEvent::Checking { name: name.to_owned() });
        Ok(self.tools.clock.monotonic())
    }

    /// Records a check; true unless it failed. A cancellation is no result.
    fn end(&mut self, name: &str, began: Duration, verdict: Result<Verdict>) -> Result<bool> {
        let (outcome, detail) = match verdict {
            Ok(Verdict::Good(detail)) => (Outcome::Passed, detail),
            Ok(Verdict::Bad(detail)) => (Outcome::Failed, detail),
            Ok(Verdict::NotMade(reason)) => (Outcome::Skipped, reason),
            Err(error)
                if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::InvalidInput | ErrorKind::Internal) =>
            {
                return Err(error);
            }
            Err(error) => (Outcome::Failed, error.chain()),
        };
        let duration_ms = millis(self.tools.clock.monotonic().saturating_sub(began));
        self.proof.checks.push(Check { name: name.to_owned(), outcome, detail, duration_ms });
        Ok(outcome != Outcome::Failed)
    }
}

/// Who the restored server is and how far it came. The control file is used for the timeline because it is the one that the
/// server has opened, after the end of recovery.
const IDENTITY: &str = "SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system()), \
     coalesce(pg_catalog.pg_last_wal_replay_lsn(), pg_catalog.pg_current_wal_lsn()), \
     ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int, \
     pg_catalog.pg_last_xact_replay_timestamp(), \
     (SELECT count(*) FROM pg_catalog.pg_database WHERE datallowconn), \
     (SELECT sum(pg_catalog.pg_database_size(oid)) FROM pg_catalog.pg_database)";

/// The first lines of what a program said.
fn brief(output: &str) -> String {
    output.lines().take(5).collect::<Vec<_>>().join("; ")
}

/// Removes the throw-away directories of a verification whose process was killed.
///
/// # Errors
/// Those of the file system; a directory that is not named like one of ours is `invalid_input`.
pub fn remove_leftover(directory: &Path) -> Result<bool> {
    let ours = directory
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("barman-snap-verify-"));
    if !ours {
        return Err(Error::invalid(format!("{} is not a directory of a verification", directory.display())));
    }
    remove_any(directory)
}
