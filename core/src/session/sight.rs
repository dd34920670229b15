//! Whether this process can see where the snapshots of a session lie.
//!
//! "Not found" means "gone" only to the one who looks in the right place: local snapshots lie on one host and on file systems
//! that may not be mounted, while the catalog is seen by many. The journal is what names them, so it must outlive them;
//! whoever wants to drop it asks here first.

use super::owner::Liveness;
use super::plan::SessionPlan;
use super::state::SessionState;
use crate::error::Result;
use crate::host::MountTable;
use crate::provider::registry::ProviderSource;
use crate::provider::{SnapshotProvider, Ticket};

/// Why the snapshots of a session cannot be seen from here, if they cannot; in words that name the host or the file system.
pub(crate) async fn why_out_of_sight(provider: &dyn SnapshotProvider, plan: &SessionPlan) -> Result<Option<String>> {
    if !provider.capabilities().host_bound {
        return Ok(None);
    }
    let (made_on, here) = (&plan.instance.name, provider.instance(None).await?.name);
    if *made_on != here {
        return Ok(Some(format!("its snapshots lie on host {made_on}, this is {here}")));
    }
    // Names of hosts repeat, and every container has mounts of its own.
    if plan.owner.liveness() == Liveness::Elsewhere {
        return Ok(Some(format!("its snapshots lie on another machine or container that is also named {made_on}")));
    }
    let mounts = MountTable::current()?;
    let is_mounted = |at: &std::path::Path| mounts.iter().any(|mount| mount.mount_point == at);
    let missing = plan.volumes.iter().map(|planned| &planned.volume.mount_point).find(|at| !is_mounted(at));
    Ok(missing.map(|at| format!("its snapshots lie on the file system of {}, which is not mounted", at.display())))
}

/// Why the journal of a session that is over has to stay, if it has to: its snapshots cannot be looked for, or are there.
pub(crate) async fn why_journal_stays(providers: &dyn ProviderSource, state: &SessionState) -> Result<Option<String>> {
    let plan = &state.plan;
    let provider = match providers.open(&plan.provider).await {
        Ok(provider) => provider,
        Err(error) => return Ok(Some(error.chain())),
    };
    if let Some(why) = why_out_of_sight(provider.as_ref(), plan).await? {
        return Ok(Some(why));
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
