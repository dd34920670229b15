//! Whether this process can see where the snapshots of a session lie.
//!
//! "Not found" means "gone" only to the one who looks in the right place: local snapshots lie on one host and on file systems
//! that may not be mounted, while the catalog is seen by many. The journal is what names them, so it must outlive them;
//! whoever wants to undo, to delete or to drop anything asks here first. There are three answers: a snapshot is *here*, *gone*,
//! or *not visible from here*; on the last one nothing is undone, deleted, recorded as deleted, or forgotten. The way out, for
//! the user who knows that a host or a disk no longer exists, is to say so ([`Wishes::snapshots_gone`]).
//!
//! [`Wishes::snapshots_gone`]: super::recover::Wishes::snapshots_gone

use super::driver::Tools;
use super::owner::Liveness;
use super::plan::SessionPlan;
use super::state::SessionState;
use crate::error::Result;
use crate::provider::registry::ProviderSource;
use crate::provider::{SnapshotProvider, Ticket, Volume, local};

/// Why the snapshots of a session cannot be seen from here, if they cannot; in words that name the host, the file system, the
/// account. A session whose snapshots are all to be seen is in sight, wherever it was made.
pub(crate) async fn why_out_of_sight(provider: &dyn SnapshotProvider, state: &SessionState) -> Result<Option<String>> {
    let plan = &state.plan;
    let volumes = plan.plain_volumes();
    let why = match provider.unseen(&plan.instance, &volumes).await? {
        Some(why) => why,
        None => match why_of_owner(provider, plan) {
            Some(why) => why,
            None => return Ok(None),
        },
    };
    // Only the snapshots themselves tell that a disk has moved here. Looking may fail where they are not.
    let found = match provider.capabilities().host_bound && !state.tickets.is_empty() {
        true => provider.find(&plan.token, &volumes).await.unwrap_or_default(),
        false => Vec::new(),
    };
    let is_found = |ticket: &Ticket| found.iter().any(|found| found.snapshot == ticket.snapshot);
    Ok((state.tickets.is_empty() || !state.tickets.iter().all(is_found)).then_some(why))
}

/// Of the volumes of a session those whose snapshots can be seen from here.
pub(super) async fn seen_volumes(tools: &Tools, state: &SessionState) -> Result<Vec<Volume>> {
    let mut seen = Vec::new();
    for volume in state.plan.plain_volumes() {
        if tools.provider.unseen(&state.plan.instance, std::slice::from_ref(&volume)).await?.is_none() {
            seen.push(volume);
        }
    }
    Ok(seen)
}

/// Names of hosts repeat, and every container has mounts of its own. Of volumes that an older version has planned nothing else
/// is known.
fn why_of_owner(provider: &dyn SnapshotProvider, plan: &SessionPlan) -> Option<String> {
    let tells = |volume: &Volume| volume.attributes.contains_key(local::WHERE) || volume.method == "zfs";
    let is_old = provider.capabilities().host_bound && !plan.volumes.iter().all(|planned| tells(&planned.volume));
    (is_old && plan.owner.liveness() == Liveness::Elsewhere)
        .then(|| format!("its snapshots lie on another machine or container that is also named {}", plan.instance.name))
}

/// Why the journal of a session that is over has to stay, if it has to: its snapshots cannot be looked for, or are there.
pub(crate) async fn why_journal_stays(providers: &dyn ProviderSource, state: &SessionState) -> Result<Option<String>> {
    let plan = &state.plan;
    let provider = match providers.open(&plan.provider).await {
        Ok(provider) => provider,
        Err(error) => return Ok(Some(error.chain())),
    };
    match why_out_of_sight(provider.as_ref(), state).await {
        Ok(None) => {}
        Ok(Some(why)) => return Ok(Some(why)),
        Err(error) => return Ok(Some(format!("its snapshots cannot be looked for: {}", error.chain()))),
    }
    match provider.find(&plan.token, &plan.plain_volumes()).await {
        Ok(found) if found.is_empty() => Ok(None),
        Ok(found) => Ok(Some(format!("snapshots of it exist: {}", names(&found)))),
        Err(error) => Ok(Some(format!("its snapshots cannot be looked for: {}", error.chain()))),
    }
}

/// Names for people, not too many.
fn names(tickets: &[Ticket]) -> String {
    const SHOWN: usize = 3;
    let mut text: Vec<&str> = tickets.iter().take(SHOWN).map(|ticket| ticket.name.as_str()).collect();
    if tickets.len() > SHOWN {
        text.push("…");
    }
    text.join(", ")
}
