//! Preflight: everything that would stop a backup, looked at one after the other, as a report.
//!
//! It goes on after a failure as far as it makes sense, so that one run shows all that is wrong. It changes nothing but a
//! probe object in the catalog, which it removes again.

use serde::Serialize;

use crate::engine::Engine;
use crate::error::Error;
use crate::host::{MountTable, PgPaths, cover};
use crate::postgres::{BackupControl, ServerFacts};
use crate::provider::{CreateRequest, Volume, VolumeSelection, VolumeSnapshot};
use crate::session::owner::Liveness;
use crate::session::{BackupRequest, Phase, WalPolicy};

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckLine {
    /// What was looked at.
    pub name: String,
    /// Whether it is all right.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do, if it is not.
    pub hint: Option<String>,
}

/// The report.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct CheckReport {
    /// The lines, in the order in which things were looked at.
    pub lines: Vec<CheckLine>,
}

impl CheckReport {
    /// Whether every line is.
    pub fn is_ok(&self) -> bool {
        self.lines.iter().all(|line| line.ok)
    }

    fn good(&mut self, name: &str, detail: impl Into<String>) {
        self.lines.push(CheckLine { name: name.into(), ok: true, detail: detail.into(), hint: None });
    }

    fn bad(&mut self, name: &str, detail: impl Into<String>, hint: Option<&str>) {
        let hint = hint.map(str::to_owned);
        self.lines.push(CheckLine { name: name.into(), ok: false, detail: detail.into(), hint });
    }

    /// Takes in a result; `None` after an error.
    fn line<T>(&mut self, name: &str, result: Result<T, Error>, detail: impl FnOnce(&T) -> String) -> Option<T> {
        match result {
            Ok(value) => {
                self.good(name, detail(&value));
                Some(value)
            }
            Err(error) => {
                let hint = error.hint().map(str::to_owned);
                let detail = match &hint {
                    Some(hint) => error.chain().replace(&format!(" ({hint})"), ""),
                    None => error.chain(),
                };
                self.bad(name, detail, hint.as_deref());
                None
            }
        }
    }
}

impl Engine {
    /// Looks at everything that a backup needs. `control` is an error if the connection could not be made.
    pub async fn check(&self, control: Result<Box<dyn BackupControl>, Error>, request: &BackupRequest) -> CheckReport {
        let mut report = CheckReport::default();
        report.line("catalog writable", self.catalog().check_writable().await, |()| {
            self.catalog().space().name().to_owned()
        });
        self.check_sessions(&mut report).await;
        let connected = report.line("PostgreSQL", control, |_| "connected".into());
        let Some(mut control) = connected else { return report };
        report.line("privileges", control.check_privileges().await, |()| "sufficient for a backup".into());
        let facts = control.facts().await;
        let facts = report.line("server", facts, |facts| {
            let role = if facts.in_recovery { "standby" } else { "primary" };
            format!("PostgreSQL {}, {role}, system {}", version(facts.version), facts.system_id)
        });
        if let Some(facts) = facts {
            check_archiving(&mut report, &facts, request.wal);
            self.check_volumes(&mut report, &facts, request).await;
        }
        control.close().await;
        report
    }

    async fn check_sessions(&self, report: &mut CheckReport) {
        let sessions = match self.sessions().await {
            Ok(sessions) => sessions,
            Err(error) => {
                report.line::<()>("sessions", Err(error), |()| String::new());
                return;
            }
        };
        let (states, broken) = sessions;
        if let Some((id, error)) = broken.first() {
            return report.bad("sessions", format!("journal of {id}: {}", error.chain()), None);
        }
        let (mut running, mut left) = (Vec::new(), Vec::new());
        for state in states.iter().filter(|state| !state.phase.is_final()) {
            let text = format!(
                "{} ({}, process {} on {})",
                state.plan.backup_id, state.phase, state.owner.pid, state.owner.host
            );
            // What another host is doing cannot be told from here; that is for `recover` there.
            match state.owner.liveness() {
                Liveness::Dead => left.push(text),
                Liveness::Alive | Liveness::Elsewhere if state.phase == Phase::Stuck => left.push(text),
                Liveness::Alive | Liveness::Elsewhere => running.push(text),
            }
        }
        match (left.is_empty(), running.is_empty()) {
            (false, _) => report.bad(
                "sessions",
                format!("left by their process: {}", left.join(", ")),
                Some("run `barman-snap recover`"),
            ),
            (true, false) => report.good("sessions", format!("running: {}", running.join(", "))),
            (true, true) => report.good("sessions", "none is unfinished"),
        }
    }

    async fn check_volumes(&self, report: &mut CheckReport, facts: &ServerFacts, request: &BackupRequest) {
        let provider = self.provider();
        let instance = provider.instance(request.instance.as_deref()).await;
        let Some(instance) = report.line("instance", instance, |instance| instance.name.clone()) else { return };
        let Some(paths) = report.line("paths", PgPaths::resolve(facts), describe_paths) else { return };
        let selection = match request.volumes.as_slice() {
            [] => VolumeSelection::Holding(paths.real()),
            named => VolumeSelection::Named(named.to_vec()),
        };
        let volumes = provider.volumes(&instance, &selection).await;
        let Some(volumes) = report.line("volumes", volumes, |volumes| describe_volumes(volumes)) else { return };
        let covered = MountTable::current().and_then(|mounts| cover(&paths, &volumes, &mounts).require());
        report.line("coverage", covered, |_| "every path of the cluster lies on a volume".into());
        let backup_id = crate::id::BackupId::at(self.clock().local().naive_local());
        let wanted = volumes
            .into_iter()
            .map(|volume| VolumeSnapshot { name: provider.snapshot_name(&volume, &backup_id), volume });
        let requests: Vec<CreateRequest> = wanted
            .map(|volume| CreateRequest {
                token: self.ids().token(),
                mark: self.catalog().server().to_string(),
                backup_id: backup_id.clone(),
                instance: instance.clone(),
                volumes: vec![volume],
                tags: request.tags.clone(),
            })
            .collect();
        report.line("snapshots possible", provider.check_requests(&requests).await, |()| {
            "names, space, permissions".into()
        });
    }
}

fn check_archiving(report: &mut CheckReport, facts: &ServerFacts, wal: WalPolicy) {
    if wal == WalPolicy::External {
        return report.good("archiving", "left to another tool, as asked for");
    }
    let detail = format!("archive_mode = {}, archive_command = {:?}", facts.archive_mode, facts.archive_command);
    let hint = "without it there is no recovery to a point in time; a single backup is still complete, as the engine stores \
                the WAL of the backup itself";
    match facts.archive_mode.as_str() {
        "off" => report.bad("archiving", detail, Some(hint)),
        "on" if facts.in_recovery => {
            report.bad("archiving", detail, Some("a standby archives only with archive_mode = always"));
        }
        _ if facts.archive_command.is_empty() => report.bad("archiving", detail, Some(hint)),
        _ => report.good("archiving", detail),
    }
}

fn describe_paths(paths: &PgPaths) -> String {
    paths.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn describe_volumes(volumes: &[Volume]) -> String {
    volumes.iter().map(|volume| format!("{} ({})", volume.id, volume.method)).collect::<Vec<_>>().join(", ")
}

/// `170011` as `17.11`.
fn version(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}
