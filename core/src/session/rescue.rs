//! `recover`: gathers the facts, lets [`recover::decide`](super::recover::decide) decide, and carries the plan out dully.

use serde::Serialize;

use super::driver::{Driver, Tools};
use super::effects;
use super::owner::Liveness;
use super::phase::Phase;
use super::progress::CancelToken;
use super::recover::{Action, Facts, RecoveryPlan, Wishes, decide};
use super::sight::{self, seen_volumes};
use super::state::SessionState;
use crate::error::{Error, ErrorKind, Result};
use crate::id::BackupId;

/// What became of one session.
#[derive(Debug, Serialize)]
pub struct Rescue {
    /// The plan.
    #[serde(flatten)]
    pub plan: RecoveryPlan,
    /// The phase afterwards; the same as before in a dry run.
    pub ended: Phase,
    /// Why it did not work, if it did not.
    #[serde(serialize_with = "as_text")]
    pub error: Option<Error>,
}

fn as_text<S: serde::Serializer>(error: &Option<Error>, serializer: S) -> Result<S::Ok, S::Error> {
    match error {
        Some(error) => serializer.serialize_some(&error.chain()),
        None => serializer.serialize_none(),
    }
}

/// The state of one session, or `None` if its journal has no entry.
pub(crate) async fn load(tools: &Tools, id: &BackupId) -> Result<Option<SessionState>> {
    let entries = tools.journal.read(id).await?;
    if entries.is_empty() {
        return Ok(None);
    }
    SessionState::replay(&entries).map(Some)
}

/// What to do about one session.
async fn plan(tools: &Tools, state: &SessionState, wishes: Wishes) -> Result<RecoveryPlan> {
    if state.phase.is_final() {
        return Ok(RecoveryPlan {
            backup_id: state.plan.backup_id.clone(),
            phase: state.phase,
            action: Action::Nothing,
            snapshots: Vec::new(),
        });
    }
    // What was seen to be gone needs no look.
    let unseen = match state.snapshots_deleted {
        true => None,
        false => sight::why_out_of_sight(tools.provider.as_ref(), state).await?,
    };
    let volumes = match unseen {
        Some(_) => seen_volumes(tools, state).await?,
        None => state.plan.plain_volumes(),
    };
    let found = tools.provider.find(&state.plan.token, &volumes).await?;
    let mut found: Vec<String> = found.into_iter().map(|ticket| ticket.name).collect();
    let id = &state.plan.backup_id;
    let owner = state.owner.liveness();
    // Of a process on this host it is known whether it lives.
    let silent_s = match owner {
        Liveness::Elsewhere => tools.journal.silence(id, tools.ids.as_ref(), tools.clock.now()).await?.unwrap_or(0),
        Liveness::Alive | Liveness::Dead => 0,
    };
    for ticket in &state.tickets {
        // Only what the provider says is gone counts as lost; a look that failed says nothing.
        if unseen.is_none() && !found.contains(&ticket.name) {
            match tools.provider.status(ticket).await {
                Ok(_) => found.push(ticket.name.clone()),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.with_context("snapshot", ticket.snapshot.clone())),
            }
        }
    }
    let facts = Facts {
        owner,
        silent_s,
        found,
        unseen,
        catalog: effects::catalog_fact(&tools.catalog, id, &state.plan.token).await?,
    };
    Ok(decide(state, &facts, wishes))
}

/// Brings one session to its end, as its plan says; without a `cancel` token it only plans. An error is in what it returns,
/// because it is no reason to leave the other sessions alone.
pub(crate) async fn rescue(tools: &Tools, state: SessionState, wishes: Wishes, cancel: Option<CancelToken>) -> Rescue {
    let (phase, id) = (state.phase, state.plan.backup_id.clone());
    let planned = async {
        // What is over needs no provider; its may not even be there any more.
        let tools = if phase.is_final() { tools.clone() } else { tools.for_session(&state.plan).await? };
        let tools = Tools { snapshots_gone: wishes.snapshots_gone, ..tools };
        let plan = plan(&tools, &state, wishes).await?;
        Ok::<_, Error>((tools, plan))
    };
    let (tools, plan) = match planned.await {
        Ok(planned) => planned,
        Err(error) => {
            let action = Action::LeaveAlone { why: "nothing can be said of it now".into() };
            let plan = RecoveryPlan { backup_id: id, phase, action, snapshots: Vec::new() };
            return Rescue { plan, ended: phase, error: Some(error) };
        }
    };
    let nothing_to_do = matches!(plan.action, Action::Nothing | Action::LeaveAlone { .. } | Action::NotVisible { .. });
    let Some(cancel) = cancel.filter(|_| !nothing_to_do) else { return Rescue { plan, ended: phase, error: None } };
    let mut driver = Driver::new(tools, state, None, cancel);
    let result = drive(&mut driver, &plan.action).await;
    Rescue { ended: driver.state.phase, plan, error: result.err() }
}

async fn drive(driver: &mut Driver, action: &Action) -> Result<()> {
    driver.adopt().await?;
    match action {
        Action::Undo { why } if driver.state.phase != Phase::Undoing => driver.intend_undo(why).await?,
        Action::GoForward { .. } if driver.state.phase == Phase::Stuck => driver.intend_finish().await?,
        _ => {}
    }
    let result = driver.run().await;
    match (driver.state.phase, result) {
        // The way forward turned out to be gone, and the undo worked: that is an end, too.
        (Phase::Undone, Err(error)) if error.kind() != ErrorKind::Fenced => {
            tracing::warn!(error = error.chain(), "could not go forward; undone");
            Ok(())
        }
        (_, result) => result,
    }
}
