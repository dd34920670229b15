//! Deleting, as the engine offers it.

use std::collections::BTreeMap;

use super::Engine;
use crate::catalog::CatalogEntry;
use crate::catalog::delete::{DeletePlan, DeleteRequest, Selection, Trace};
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;
use crate::model::{BackupInfo, BackupStatus};
use crate::session::owner::Liveness;
use crate::session::{SessionState, Wishes, rescue};

impl Engine {
    /// Plans a deletion; changes nothing.
    ///
    /// # Errors
    /// If a backup must not be deleted, or the catalog cannot be read.
    pub async fn plan_delete(&self, request: &DeleteRequest) -> Result<DeletePlan> {
        self.catalog().check_there()?;
        let traces = self.traces(request).await?;
        self.catalog().plan_delete(request, self.clock().now(), self.tools.providers.as_ref(), &traces).await
    }

    /// Carries out a plan. What fails can be done again.
    ///
    /// # Errors
    /// Of the first thing that failed.
    pub async fn delete(&self, plan: &DeletePlan) -> Result<()> {
        let done = self.catalog().carry_out(plan, self.tools.providers.as_ref(), self.clock().now()).await;
        done.map_err(|error| error.with_operation("delete"))
    }

    /// What the journals say of backups whose metadata may not name all of their snapshots. Only such as the user has
    /// named: a policy touches only what is complete.
    async fn traces(&self, request: &DeleteRequest) -> Result<BTreeMap<BackupId, Trace>> {
        let mut traces = BTreeMap::new();
        let Selection::Backups(ids) = &request.selection else { return Ok(traces) };
        for id in ids {
            let entry = match self.catalog().entry(id).await {
                Ok(entry) => entry,
                // That it does not exist is for the plan to say.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            if names_all(&entry, request.even_started) {
                continue;
            }
            let state = rescue::load(&self.tools, id).await.map_err(|error| {
                let message = format!("neither the metadata nor the journal of backup {id} can be read");
                Error::new(error.kind(), message).with_hint("which snapshots it has is not known").with_source(error)
            })?;
            if let Some(state) = state {
                if !request.even_started {
                    self.check_that_nobody_works_on(&state).await?;
                }
                traces.insert(id.clone(), trace(&state));
            }
        }
        Ok(traces)
    }

    /// Refuses while the session may have a driver that lives.
    async fn check_that_nobody_works_on(&self, state: &SessionState) -> Result<()> {
        let id = &state.plan.backup_id;
        let lives = match state.owner.liveness() {
            _ if state.phase.is_final() => false,
            Liveness::Alive => true,
            Liveness::Dead => false,
            Liveness::Elsewhere => {
                let silent = self.tools.journal.silence(id, self.ids().as_ref(), self.clock().now()).await?;
                silent.is_none_or(|silent| silent < Wishes::default().stale_after_s)
            }
        };
        if !lives {
            return Ok(());
        }
        let (pid, host) = (state.owner.pid, &state.owner.host);
        Err(Error::precondition(format!("process {pid} on host {host} is working on backup {id}"))
            .with_hint("wait for its end, or cancel it"))
    }
}

/// Where to look for the snapshots of a session.
fn trace(state: &SessionState) -> Trace {
    Trace {
        provider: state.plan.provider.clone(),
        instance: state.plan.instance.clone(),
        token: state.plan.token.clone(),
        volumes: state.plan.plain_volumes(),
        tickets: state.tickets.clone(),
    }
}

/// True if the metadata of a backup name all snapshots that it can have.
fn names_all(entry: &CatalogEntry, even_started: bool) -> bool {
    let is_readable = matches!(entry.info.as_ref().map(BackupInfo::engine_record), Ok(Ok(_)));
    // One that is STARTED is refused anyway, unless its session is dead by the word of the caller.
    is_readable && (entry.status() != Some(BackupStatus::Started) || !even_started)
}
