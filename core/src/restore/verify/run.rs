//! The checks of one verification, in their order.
//!
//! Not here: what is restored and where ([`super`]). The invariant: a check that fails says why in words that can be shown,
//! with the line of the server's log that belongs to it; and whatever happens, no server runs any more at the end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{VerifyDepth, VerifyInput, fetches_itself};
use super::{amcheck, left_out, shortage, strays};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Segment, SegmentSize, Timeline};
use crate::redact;
use crate::restore::left_out::pages_of_others;
use crate::restore::plan::{ArchiveFacts, Owner, RestorePlan};
use crate::restore::proof::{Check, Outcome, Proof, ROWS_KEPT, Reached, SqlCheck, SqlResult};
use crate::restore::provision::{RestoreEvent, Restored, Tools, blocking, millis, provision};
use crate::restore::server::{Binaries, PrivateServer, ServerSpec, check_checksums, configured};
use crate::restore::settings::WalSource;
use crate::restore::workplace::place_of;

/// A verification on its way.
pub(super) struct Run<'a> {
    pub(super) input: VerifyInput<'a>,
    pub(super) tools: Tools<'a>,
    pub(super) binaries: Binaries,
    pub(super) plan: RestorePlan,
    pub(super) home: PathBuf,
    pub(super) proof: &'a mut Proof,
    pub(super) restored: &'a mut Option<Restored>,
}

/// What a check has to say, or that it is not made.
pub(super) enum Verdict {
    Good(String),
    Bad(String),
    NotMade(String),
}

impl Run<'_> {
    /// All checks in their order. Only a cancellation and what has nothing to do with the backup is an error.
    pub(super) async fn run(mut self) -> Result<()> {
        self.steps().await?;
        if !self.has_failed() {
            return Ok(());
        }
        let tablespaces = self.plan.tablespaces.iter().map(|one| one.location.as_path());
        let places = [self.home.as_path(), &self.plan.target].into_iter().chain(tablespaces);
        shortage::of_room(places).map_or(Ok(()), Err)
    }

    fn has_failed(&self) -> bool {
        self.proof.checks.iter().any(|check| check.outcome == Outcome::Failed)
    }

    async fn steps(&mut self) -> Result<()> {
        let at = self.begin("restore")?;
        let restored = self.restore().await;
        if !self.end("restore", at, restored)? {
            return Ok(());
        }
        let at = self.begin("configuration")?;
        let mut hba = PathBuf::new();
        let configuration = self.configuration(&mut hba).await;
        if !self.end("configuration", at, configuration)? {
            return Ok(());
        }
        let at = self.begin("recovery")?;
        let mut server = PrivateServer::start(self.server_spec(hba)).await?;
        self.proof.contained = Some(server.is_contained());
        let go_on = || self.tools.go_on();
        let open = server.wait_until_open(self.input.options.recovery_limit, self.tools.clock, &go_on).await;
        let open = match open {
            Ok(()) => self.passed_over(&server),
            Err(error) => self.about_wal(error),
        };
        let worked = match self.end("recovery", at, open) {
            Ok(true) => self.examine(&mut server).await,
            other => other.map(|_| ()),
        };
        let failed = self.has_failed();
        let mut short = None;
        if failed {
            self.proof.log = server.log_tail().iter().map(|line| redact::text(line).into_owned()).collect();
        }
        // To the end of the WAL is proven only where none was taken for missing because it could not be written.
        if failed || self.input.options.depth == VerifyDepth::EndOfWal {
            short =
                server.log_lines(shortage::is_told).unwrap_or_default().iter().find_map(|line| shortage::error(line));
        }
        // Whatever happened, nothing runs any more when the directories are removed.
        server.kill(self.tools.clock).await;
        short.map_or(worked, Err)
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

    /// Recovery may pass over missing pages of tablespaces that were left out, and of nothing else.
    fn passed_over(&self, server: &PrivateServer) -> Result<Verdict> {
        let oids: Vec<u32> = self.input.record.excluded_tablespaces.iter().map(|one| one.oid).collect();
        let lines = match oids.as_slice() {
            [] => Vec::new(),
            _ => server.log_lines(|line| line.contains(" of relation "))?,
        };
        Ok(match pages_of_others(&lines, &oids).as_slice() {
            [] => Verdict::Good("the server has reached consistency and opened".to_owned()),
            some => Verdict::Bad(format!(
                "the WAL refers to pages that the restored files do not have: {}",
                brief(&some.join("\n"))
            )),
        })
    }

    /// PostgreSQL does not name the WAL that it could not read, only that it ended too early.
    fn about_wal(&self, error: Error) -> Result<Verdict> {
        let info = self.input.info;
        match (&info.begin_wal, &info.end_wal) {
            (Some(begin), Some(end)) if error.message().contains("WAL ends before") => {
                Ok(Verdict::Bad(format!("{} (the WAL of the backup is {begin} to {end})", error.message())))
            }
            _ => Err(error),
        }
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
            // Seen in the list of the archive: that is no failure to look.
            if lacks(self.input.archive, &segment) {
                return Err(Error::not_found(format!("the archive lacks {segment}, which the backup needs")));
            }
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

    /// Whether PostgreSQL can read the configuration as it was restored, and would start here and nowhere else.
    async fn configuration(&self, hba: &mut PathBuf) -> Result<Verdict> {
        let target = &self.plan.target;
        for name in ["data_directory", "hba_file"] {
            let (good, said) = configured(&self.binaries, target, name).await?;
            if !good {
                return Ok(Verdict::Bad(format!("PostgreSQL refuses the restored configuration: {}", brief(&said))));
            }
            let path = PathBuf::from(said.lines().next().unwrap_or_default());
            match name {
                "data_directory" if std::fs::canonicalize(&path).ok() != std::fs::canonicalize(target).ok() => {
                    return Ok(Verdict::Bad(format!(
                        "starting {} would start the server of {}",
                        target.display(),
                        path.display()
                    )));
                }
                "hba_file" => *hba = path,
                _ => {}
            }
        }
        if !hba.is_file() {
            return Ok(Verdict::Bad(format!("the server would not start: there is no {}", hba.display())));
        }
        Ok(Verdict::Good("PostgreSQL reads the restored configuration".to_owned()))
    }

    fn server_spec(&self, hba: PathBuf) -> ServerSpec {
        let options = self.input.options;
        ServerSpec {
            binaries: self.binaries.clone(),
            pgdata: self.plan.target.clone(),
            work: self.home.clone(),
            major: self.plan.major,
            hba,
            settings: options.settings.clone(),
            users: options.user.clone().map_or_else(|| vec!["postgres".to_owned()], |user| vec![user]),
            spare_user: format!("barman_snap_{}", self.input.token),
            places: self.writable(),
        }
    }

    /// Where the server may write: its own places. A command of the user may have to write anywhere.
    fn writable(&self) -> Option<Vec<PathBuf>> {
        // Nor may volumes that are detached afterwards, here or by a restore beside this one, be held by a namespace.
        let commanded = matches!(self.input.wal, WalSource::Command(_)) && !fetches_itself(&self.input);
        if commanded || self.input.devices.is_some() {
            return None;
        }
        let spaces = self.plan.tablespaces.iter().map(|one| &one.location);
        let places = std::iter::once(&self.plan.target).chain(spaces).filter_map(|path| place_of(path));
        Some(std::iter::once(self.home.clone()).chain(places.map(Path::to_owned)).collect())
    }

    /// The checks of the open server, its shutdown, and those of the closed one.
    async fn examine(&mut self, server: &mut PrivateServer) -> Result<()> {
        let at = self.begin("identity")?;
        let identity = self.identity(server).await;
        self.end("identity", at, identity)?;

        // Before anything of the user's or of the backup's could be in the way of the answer.
        let checksums = server.query_anywhere("SHOW data_checksums").await;
        amcheck::possible(self, server).await?;
        let at = self.begin("amcheck")?;
        let mut whole = Vec::new();
        let amcheck = amcheck::check(self, server, &mut whole).await;
        self.end("amcheck", at, amcheck)?;
        let excluded = &self.input.record.excluded_tablespaces;
        if !excluded.is_empty() {
            let at = self.begin("tablespaces")?;
            self.end("tablespaces", at, Ok(Verdict::NotMade(left_out::in_words(excluded, &whole))))?;
        }

        for check in &self.input.options.sql {
            let at = self.begin("sql")?;
            let verdict = self.sql(server, check).await;
            self.end("sql", at, verdict)?;
        }
        let at = self.begin("shutdown")?;
        let stopped = server.stop(Duration::from_secs(300), self.tools.clock).await;
        let stopped = stopped.map(|()| Verdict::Good("the server shut down cleanly".to_owned()));
        let clean = self.end("shutdown", at, stopped)?;

        let at = self.begin("checksums")?;
        let on = checksums.map(|rows| rows.first().and_then(|row| row.first()?.as_deref()) == Some("on"));
        let verdict = match (self.input.options.checksums, on, clean) {
            (false, ..) => Ok(Verdict::NotMade("switched off".to_owned())),
            (_, Err(error), _) => Err(error),
            (_, Ok(false), _) => Ok(Verdict::NotMade("the cluster has no data checksums".to_owned())),
            (_, _, false) => Ok(Verdict::NotMade("the server did not shut down cleanly".to_owned())),
            _ => self.checksums(server.user()).await,
        };
        self.end("checksums", at, verdict)?;
        Ok(())
    }

    async fn identity(&mut self, server: &PrivateServer) -> Result<Verdict> {
        let rows = server.query_anywhere(IDENTITY).await?;
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
        let gap = self.plan.gap.clone().filter(|_| self.input.options.depth == VerifyDepth::EndOfWal);
        let verdict = if let Some(gap) = gap {
            Verdict::Bad(gap)
        } else if wanted != reached.system_id {
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

    async fn sql(&mut self, server: &PrivateServer, check: &SqlCheck) -> Result<Verdict> {
        let mut rows = server.query(&check.database, &check.sql).await?;
        let row_count = rows.len() as u64;
        let first = rows.first().and_then(|row| row.first().cloned().flatten());
        rows.truncate(ROWS_KEPT);
        let shown = SqlCheck { sql: redact::text(&check.sql).into_owned(), ..check.clone() };
        self.proof.sql.push(SqlResult { check: shown, row_count, rows });
        Ok(match &check.expect {
            Some(expected) if first.as_ref() != Some(expected) => {
                let found = first.unwrap_or_else(|| "nothing".to_owned());
                Verdict::Bad(format!("{} returned {found}, expected {expected}", check.sql))
            }
            _ => Verdict::Good(format!("{} returned {row_count} rows", check.sql)),
        })
    }

    async fn checksums(&self, user: Option<Owner>) -> Result<Verdict> {
        let target = self.plan.target.clone();
        let spaces: Vec<_> = self.plan.tablespaces.iter().map(|one| one.location.clone()).collect();
        let strays = blocking(move || strays::remove(&target, &spaces)).await?;
        let (good, output) = check_checksums(&self.binaries, &self.plan.target, user).await?;
        let blocks = output.lines().find_map(|line| line.strip_prefix("Blocks scanned:")).map_or("", str::trim);
        let others = match strays {
            0 => String::new(),
            count => format!("; {count} files that are no relations were not looked at"),
        };
        Ok(match good {
            true => Verdict::Good(format!("{blocks} blocks, none bad{others}")),
            false => Verdict::Bad(brief(&output)),
        })
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
            Ok(Verdict::Bad(detail)) => match shortage::error(&detail) {
                Some(short) => return Err(short),
                None => (Outcome::Failed, detail),
            },
            Ok(Verdict::NotMade(reason)) => (Outcome::Skipped, reason),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Cancelled
                        | ErrorKind::InvalidInput
                        | ErrorKind::Internal
                        | ErrorKind::Exhausted
                        | ErrorKind::Unavailable
                ) =>
            {
                return Err(error);
            }
            // Of PostgreSQL's, in its log or in the words of a tool.
            Err(error) => match shortage::error(&error.chain()) {
                Some(short) => return Err(short.with_source(error)),
                None => (Outcome::Failed, error.chain()),
            },
        };
        let duration_ms = millis(self.tools.clock.monotonic().saturating_sub(began));
        let detail = redact::text(&detail).into_owned();
        self.proof.checks.push(Check { name: name.to_owned(), outcome, detail, duration_ms });
        Ok(outcome != Outcome::Failed)
    }
}

/// Who the restored server is and how far it came. Names are those of `pg_catalog`, which is our `search_path`. The control file is used for the timeline because it is the one that the
/// server has opened, after the end of recovery.
const IDENTITY: &str = "SELECT (SELECT system_identifier FROM pg_control_system()), \
     coalesce(pg_last_wal_replay_lsn(), pg_current_wal_lsn()), \
     ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int, \
     pg_last_xact_replay_timestamp(), (SELECT count(*) FROM pg_database WHERE datallowconn), \
     (SELECT sum(pg_database_size(oid)) FROM pg_database)";

fn lacks(archive: &ArchiveFacts, segment: &Segment) -> bool {
    archive.segments.as_ref().is_some_and(|have| !have.contains(&segment.to_string()))
}

/// The first lines of what a program said.
pub(super) fn brief(output: &str) -> String {
    output.lines().take(5).collect::<Vec<_>>().join("; ")
}
