//! Preflight: everything that would stop a backup, looked at one after the other, as a report.
//!
//! It goes on after a failure as far as it makes sense, so that one run shows all that is wrong. It changes nothing but a
//! probe object in the catalog and a file that the server makes to show its data directory; both are removed again.

mod archiving;

use crate::engine::Engine;
use crate::error::{Error, ErrorKind};
use crate::host::{PgPaths, cover, sight, volatile};
use crate::postgres::{BackupControl, ServerFacts};
use crate::provider::{CreateRequest, Findings, VolumeSelection, VolumeSnapshot};
use crate::session::begin::{NO_GROUP, check_borders, check_host};
use crate::session::exclude;
use crate::session::owner::Liveness;
use crate::session::{BackupRequest, Phase, WalPolicy};
use crate::wal::WalArchive;

impl Engine {
    /// Looks at everything that a backup needs. `control` is an error if the connection could not be made.
    pub async fn check(&self, control: Result<Box<dyn BackupControl>, Error>, request: &BackupRequest) -> Findings {
        let mut report = Findings::default();
        report.take("catalog writable", self.catalog().check_writable().await, |()| {
            self.catalog().space().name().to_owned()
        });
        self.check_sessions(&mut report).await;
        let connected = report.take("PostgreSQL", control, |_| "connected".into());
        let Some(mut control) = connected else { return report };
        report.take("privileges", control.check_privileges().await, |()| "sufficient for a backup".into());
        let facts = control.facts().await;
        let facts = report.take("server", facts, |facts| {
            let role = if facts.in_recovery { "standby" } else { "primary" };
            format!("PostgreSQL {}, {role}, system {}", version(facts.version), facts.system_id)
        });
        if let Some(facts) = facts {
            let new = request.new_system_id.as_deref();
            let cluster = self.catalog().check_system_id(&facts.system_id, new).await;
            report.take("catalog of this cluster", cluster, |()| format!("system {}", facts.system_id));
            self.check_archiving(&mut report, control.as_mut(), &facts, request.wal).await;
            self.check_volumes(&mut report, control.as_mut(), &facts, request).await;
        }
        // What a backup would refuse is not for this report to forget.
        if report.is_ok()
            && let Err(error) = self.plan_backup(control.as_mut(), request).await
        {
            report.error("plan of a backup", &error);
        }
        control.close().await;
        report
    }

    async fn check_sessions(&self, report: &mut Findings) {
        let sessions = match self.sessions().await {
            Ok(sessions) => sessions,
            Err(error) => {
                report.error("sessions", &error);
                return;
            }
        };
        let (states, broken) = sessions;
        if let Some((id, error)) = broken.first() {
            return report.bad(
                "sessions",
                format!("journal of {id}: {}", error.chain()),
                Some("look at what is stored under sessions/ of the server; gc removes nothing as long as it cannot be read"),
            );
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

    async fn check_archiving(
        &self,
        report: &mut Findings,
        control: &mut dyn BackupControl,
        facts: &ServerFacts,
        wal: WalPolicy,
    ) {
        if wal == WalPolicy::External {
            return report.good("archiving", "left to another tool, as asked for");
        }
        if !archiving::settings(report, facts) {
            return;
        }
        match control.archiver().await {
            Ok(Some(state)) => match WalArchive::new(self.catalog()).archived_elsewhere(&state).await {
                Ok(elsewhere) => archiving::archiver(report, &state, elsewhere.is_some()),
                Err(error) => report.error("archiver", &error),
            },
            Ok(None) => {}
            Err(error) => report.error("archiver", &error),
        }
    }

    async fn check_volumes(
        &self,
        report: &mut Findings,
        control: &mut dyn BackupControl,
        facts: &ServerFacts,
        request: &BackupRequest,
    ) {
        let excluded = match exclude::left_out(control, facts, &request.exclude_tablespaces).await {
            Ok(excluded) => excluded,
            Err(error) => return report.error("left out", &error),
        };
        let paths = self.host().paths_without(facts, &excluded);
        let Some(paths) = report.take("paths", paths, describe_paths) else { return };
        match sight(control, self.clock().as_ref(), self.host(), facts, &paths).await {
            Ok(Some(seen)) => {
                report.good("data directory", format!("it is that of the server at {}", seen.identity.reached));
            }
            Ok(None) => {}
            Err(error) => return report.error("data directory", &error),
        }
        if self.host().is_here()
            && let Err(error) = self.catalog().check_apart(paths.real()).await
        {
            report.error("catalog apart", &error);
        }
        let mounts = match self.host().mounts() {
            Ok(mounts) => mounts,
            Err(error) => return report.error("coverage", &error),
        };
        if let Err(error) = volatile::refuse(&paths, &mounts) {
            return report.error("tablespaces", &error);
        }
        let selection = match request.volumes.as_slice() {
            [] => VolumeSelection::Holding(paths.real()),
            named => VolumeSelection::Named(named.to_vec()),
        };
        let provider = self.provider();
        if let Err(error) = check_host(provider.as_ref(), self.host()) {
            return report.error("host", &error);
        }
        let found = provider.preflight(request.instance.as_deref(), &selection).await;
        report.extend(found.findings);
        let (Some(instance), Some(volumes)) = (found.instance, found.volumes) else { return };
        let covered = cover(&paths, &volumes, &mounts).require();
        report.take("coverage", covered, |_| "every path of the cluster lies on a volume".into());
        let excluded = exclude::with_volumes(excluded, &paths, &volumes, &mounts);
        if !excluded.is_empty() {
            report.good("left out", format!("tablespace {}: restored empty", exclude::in_words(&excluded)));
        }
        if let Err(error) = check_borders(provider.as_ref(), self.host(), request, &paths, &volumes).await {
            report.error("borders", &error);
        }
        let group = request.group.unwrap_or(true) && provider.can_group(&volumes);
        if request.group == Some(true) && !group {
            report.bad(
                "consistency",
                format!("provider {} cannot cut these volumes by one call", provider.name()),
                Some(NO_GROUP),
            );
        }
        // The one that the backup would get: names that a backup of this very second has taken are none of its own.
        let backup_id = match self.next_id(request).await {
            Ok(id) => id,
            Err(error) => return report.error("backup id", &error),
        };
        // What it carries decides what a role permits, and which older snapshots can be asked about.
        let mark = match self.proposed_mark().await {
            Ok(mark) => mark,
            Err(error) => return report.error("identity of the catalog", &error),
        };
        let volumes: Vec<VolumeSnapshot> = volumes
            .into_iter()
            .map(|volume| VolumeSnapshot { name: provider.snapshot_name(&volume, &backup_id), volume })
            .collect();
        let ask = |volumes: &[VolumeSnapshot]| CreateRequest {
            token: self.ids().token(),
            mark: mark.clone(),
            backup_id: backup_id.clone(),
            instance: instance.clone(),
            volumes: volumes.to_vec(),
            tags: request.tags.clone(),
        };
        let at_once = if group { volumes.len().max(1) } else { 1 };
        let mut requests: Vec<CreateRequest> = volumes.chunks(at_once).map(ask).collect();
        // A backup would go on without; so does this.
        if group
            && request.group.is_none()
            && let Err(error) = provider.check_requests(&requests).await
            && error.kind() == ErrorKind::PermissionDenied
        {
            let detail =
                format!("each volume by a call of its own, as one call for all is not permitted: {}", error.chain());
            report.good("consistency", detail);
            let apart =
                |one: &VolumeSnapshot| VolumeSnapshot { volume: provider.apart(one.volume.clone()), ..one.clone() };
            let volumes: Vec<VolumeSnapshot> = volumes.iter().map(apart).collect();
            requests = volumes.chunks(1).map(ask).collect();
        }
        report.extend(provider.preflight_requests(&requests).await);
    }
}

fn describe_paths(paths: &PgPaths) -> String {
    paths.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// `170011` as `17.11`.
fn version(number: u32) -> String {
    format!("{}.{}", number / 10_000, number % 10_000)
}
