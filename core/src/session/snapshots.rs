//! The dealings of a session with its provider: create all at once, wait for the slowest, delete everything.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;

use super::driver::Tools;
use super::journal::Record;
use super::progress::Progress;
use super::sight;
use super::state::SessionState;
use super::step::Step;
use super::wait::{LONGEST_READ_PAUSE, Wait, with_lease};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::provider::{CreateRequest, SnapshotState, Ticket, Volume};

/// How long a create call is tried again that did not get through. Backup mode waits meanwhile.
const CREATE_PATIENCE: Duration = Duration::from_secs(60);

/// How long one is tried again that the provider refuses for now, most of all for a limit of rate. It tells when to come again, and
/// a few minutes more of backup mode cost less than a backup that fails.
const RATE_PATIENCE: Duration = Duration::from_secs(300);

/// How long a look for what a create call may have made is asked again, in backup mode.
const LOOK_PATIENCE: Duration = Duration::from_secs(300);

/// The same where backup mode does not wait for it.
const READ_PATIENCE: Duration = Duration::from_secs(900);

/// How long nothing may be seen of a snapshot that is being cut, in backup mode, …
const BLIND_IN_BACKUP_MODE: Duration = Duration::from_secs(900);

/// … and of one that is being copied, behind it.
const BLIND: Duration = Duration::from_secs(3600);

/// How often nothing must be found, half a second apart, before an unanswered create call counts as without effect.
const EMPTY_LOOKS: u32 = 4;

/// How long a list may show what was deleted.
const SHOWS_DELETED: Duration = Duration::from_secs(60);

/// Takes the snapshots of a wave: one call each, all at once, or one call for all.
pub(super) async fn take(tools: &Tools, state: &SessionState, wave: usize) -> Result<Record> {
    let requests = state.plan.requests(wave);
    let results = join_all(requests.iter().map(|request| create(tools, state, request))).await;
    let mut tickets = Vec::new();
    let mut first = None;
    for result in results {
        match result {
            Ok(made) => tickets.extend(made),
            Err(error) => first = first.or(Some(error)),
        }
    }
    // What the other calls made is found again by its token.
    match first {
        Some(error) if error.kind() == ErrorKind::PermissionDenied && !state.plan.apart.is_empty() => {
            tracing::warn!(error = error.chain(), "one call for all volumes is not permitted; each is cut by its own");
            Ok(Record::TicketsReceived { wave, tickets: take_apart(tools, state).await? })
        }
        Some(error) => Err(error),
        None => Ok(Record::TicketsReceived { wave, tickets }),
    }
}

/// Takes by a call for each volume what was to be taken by one call for all, which was refused for good and has made nothing. On a
/// standby one volume has to be cut after the others.
async fn take_apart(tools: &Tools, state: &SessionState) -> Result<Vec<Ticket>> {
    let mut tickets: Vec<Ticket> = Vec::new();
    for requests in state.plan.requests_apart() {
        let before: Vec<&Ticket> = tickets.iter().collect();
        let wait = Wait::new(tools, tools.patience.cut, Duration::from_millis(2), Duration::from_millis(500));
        let is_cut = |reached: &SnapshotState| matches!(reached, SnapshotState::Cut | SnapshotState::Ready);
        await_all(tools, state, Step::AwaitCut(0), &before, wait, is_cut).await?;
        let made = join_all(requests.iter().map(|request| create(tools, state, request))).await;
        tickets.extend(made.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten());
    }
    Ok(tickets)
}

/// One create call. Never repeated blindly: after an unknown outcome, and after a conflict, it looks first.
async fn create(tools: &Tools, state: &SessionState, request: &CreateRequest) -> Result<Vec<Ticket>> {
    let mut wait = Wait::new(tools, None, Duration::from_millis(250), Duration::from_secs(8));
    loop {
        let error = match tools.provider.create(request).await {
            Ok(tickets) => return Ok(tickets),
            Err(error) => error,
        };
        let names: Vec<&str> = request.volumes.iter().map(|volume| volume.volume.id.as_str()).collect();
        let error = error.with_context("volume", names.join(", "));
        let (asked, limit) = match error.retry() {
            Retry::Unknown => return look(tools, state, request, error).await,
            _ if error.kind() == ErrorKind::Conflict => return look(tools, state, request, error).await,
            Retry::Never => return Err(error),
            Retry::After(asked) => (asked, RATE_PATIENCE),
            Retry::Safe => (Duration::ZERO, CREATE_PATIENCE),
        };
        if wait.has_time(asked, limit) {
            tracing::warn!(error = error.chain(), "the snapshot cannot be started yet");
        }
        if wait.pause_within(state, asked, limit).await.is_err() {
            return Err(error);
        }
    }
}

/// Looks for snapshots whose create call may have taken effect. They may take a while to show; also one that another call was
/// refused for, as it is there already.
async fn look(tools: &Tools, state: &SessionState, request: &CreateRequest, error: Error) -> Result<Vec<Ticket>> {
    let patience = match error.retry() {
        Retry::Unknown => Duration::from_secs(15),
        _ => Duration::from_secs(4),
    };
    let mut wait = Wait::new(tools, Some(patience), Duration::from_millis(250), Duration::from_secs(4));
    loop {
        let found = find(tools, state, &state.plan.plain_volumes(), LOOK_PATIENCE).await?;
        let ours: Vec<Ticket> = request
            .volumes
            .iter()
            .filter_map(|volume| found.iter().find(|ticket| ticket.volume == volume.volume.id).cloned())
            .collect();
        if ours.len() == request.volumes.len() {
            return Ok(ours);
        }
        if wait.pause(state).await.is_err() {
            return Err(error);
        }
    }
}

/// All that carries the token of the session. That a look was throttled says nothing about what it would have found, so it is made
/// again, for at most `patience`.
async fn find(tools: &Tools, state: &SessionState, volumes: &[Volume], patience: Duration) -> Result<Vec<Ticket>> {
    let mut wait = Wait::new(tools, None, Duration::from_millis(500), LONGEST_READ_PAUSE);
    loop {
        let error = match tools.provider.find(&state.plan.token, volumes).await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let asked = match error.retry() {
            Retry::After(asked) => asked.min(LONGEST_READ_PAUSE),
            Retry::Safe => Duration::ZERO,
            Retry::Never | Retry::Unknown => return Err(error),
        };
        tracing::warn!(error = error.chain(), "the snapshots of the session cannot be looked for yet");
        if wait.pause_within(state, asked, patience).await.is_err() {
            return Err(error);
        }
    }
}

/// Waits until every snapshot of a wave has its point in time.
pub(super) async fn await_cut(tools: &Tools, state: &SessionState, wave: usize) -> Result<Record> {
    let begun = tools.clock.monotonic();
    let volumes: BTreeSet<&str> =
        state.plan.waves[wave].iter().map(|at| state.plan.volumes[*at].volume.id.as_str()).collect();
    let tickets: Vec<&Ticket> =
        state.tickets.iter().filter(|ticket| volumes.contains(ticket.volume.as_str())).collect();
    let wait = Wait::new(tools, tools.patience.cut, Duration::from_millis(2), Duration::from_millis(500));
    let bytes_copied = await_all(tools, state, Step::AwaitCut(wave), &tickets, wait, |reached| {
        matches!(reached, SnapshotState::Cut | SnapshotState::Ready)
    })
    .await?;
    let elapsed = tools.clock.monotonic().saturating_sub(begun);
    let cut_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    Ok(Record::CutReached { wave, cut_ms, bytes_copied })
}

/// Waits until every snapshot can be restored from.
pub(super) async fn await_ready(tools: &Tools, state: &SessionState) -> Result<Record> {
    let tickets: Vec<&Ticket> = state.tickets.iter().collect();
    let wait = Wait::new(tools, tools.patience.ready, Duration::from_millis(20), Duration::from_secs(5));
    await_all(tools, state, Step::AwaitReady, &tickets, wait, |reached| matches!(reached, SnapshotState::Ready))
        .await?;
    Ok(Record::SnapshotsReady)
}

/// Makes durable snapshots of what was cut; their tickets.
pub(super) async fn promote(tools: &Tools, state: &SessionState) -> Result<Vec<Ticket>> {
    let requests = state.plan.all_requests();
    let promoted = with_lease(tools, state, tools.provider.promote(&requests, &state.tickets)).await?;
    same_volumes(state, promoted)
}

/// Locks and copies.
pub(super) async fn secure(tools: &Tools, state: &SessionState) -> Result<Record> {
    let requests = state.plan.all_requests();
    let secured = with_lease(tools, state, tools.provider.secure(&requests, &state.tickets)).await?;
    Ok(Record::Secured { tickets: same_volumes(state, secured)? })
}

/// One ticket for each, or nobody would know the rest.
fn same_volumes(state: &SessionState, tickets: Vec<Ticket>) -> Result<Vec<Ticket>> {
    let volumes = |tickets: &[Ticket]| tickets.iter().map(|ticket| ticket.volume.clone()).collect::<Vec<_>>();
    if volumes(&tickets) == volumes(&state.tickets) {
        return Ok(tickets);
    }
    Err(Error::internal(format!("provider {} has returned tickets of other volumes", state.plan.provider)))
}

/// Waits until all tickets are as far as `enough` asks; the sum of the bytes copied, where it is known.
async fn await_all(
    tools: &Tools,
    state: &SessionState,
    step: Step,
    tickets: &[&Ticket],
    mut wait: Wait<'_>,
    enough: impl Fn(&SnapshotState) -> bool,
) -> Result<Option<u64>> {
    let mut blind = Blind::new(tools, state);
    loop {
        let mut done = 0;
        let mut percent: Option<u8> = None;
        let mut bytes: Option<u64> = None;
        let mut unseen = None;
        let statuses = join_all(tickets.iter().map(|ticket| tools.provider.status(ticket))).await;
        for (ticket, status) in tickets.iter().zip(statuses) {
            let status = match status {
                Ok(status) => status,
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(failed(ticket, "it is gone")),
                // A look that failed says nothing about the snapshot.
                Err(error) if error.retry() != Retry::Never => {
                    unseen = Some((*ticket, error));
                    continue;
                }
                // Nor does one that will fail again; but waiting on makes no sense.
                Err(error) => return Err(out_of_sight(ticket, error)),
            };
            if let SnapshotState::Failed { reason } = &status.state {
                return Err(failed(ticket, reason));
            }
            done += usize::from(enough(&status.state));
            percent = [percent, status.percent].into_iter().flatten().min();
            bytes = match (bytes, status.bytes_copied) {
                (Some(before), Some(now)) => Some(before + now),
                (before, now) => before.or(now),
            };
        }
        if done == tickets.len() {
            return Ok(bytes);
        }
        tools.listener.tell(&Progress::Waiting { step, done, of: tickets.len(), percent });
        let asked = blind.look(unseen)?;
        wait.pause_at_least(state, asked).await?;
    }
}

/// Keeps an eye on looks that fail: says so now and then, does as the provider asks, and ends when there is no hope.
struct Blind<'a> {
    tools: &'a Tools,
    limit: Duration,
    /// Since when, and when it was last told.
    since: Option<(Duration, Duration)>,
}

impl<'a> Blind<'a> {
    fn new(tools: &'a Tools, state: &SessionState) -> Self {
        let limit = if state.is_past_the_line() { BLIND } else { BLIND_IN_BACKUP_MODE };
        Self { tools, limit, since: None }
    }

    /// Takes in whether a look has failed; how long to wait before the next one.
    fn look(&mut self, unseen: Option<(&Ticket, Error)>) -> Result<Duration> {
        let Some((ticket, error)) = unseen else {
            self.since = None;
            return Ok(Duration::ZERO);
        };
        let now = self.tools.clock.monotonic();
        let (since, told) = *self.since.get_or_insert((now, now));
        if now.saturating_sub(since) >= self.limit {
            return Err(out_of_sight(ticket, error));
        }
        if now.saturating_sub(told) >= Duration::from_secs(60) {
            self.since = Some((since, now));
            let seconds = now.saturating_sub(since).as_secs();
            tracing::warn!(snapshot = ticket.name, seconds, error = error.chain(), "it cannot be seen how far it is");
        }
        Ok(match error.retry() {
            Retry::After(asked) => asked.min(LONGEST_READ_PAUSE),
            _ => Duration::ZERO,
        })
    }
}

/// Waiting on makes no sense: nothing can be seen.
fn out_of_sight(ticket: &Ticket, error: Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("cannot see how far snapshot {} is", ticket.name))
        .with_context("volume", ticket.volume.clone())
        .with_source(error)
}

fn failed(ticket: &Ticket, reason: &str) -> Error {
    Error::new(ErrorKind::Provider, format!("snapshot {} of volume {} failed: {reason}", ticket.name, ticket.volume))
        .with_context("volume", ticket.volume.clone())
        .with_context("snapshot", ticket.snapshot.clone())
}

/// Deletes everything that carries the token, and looks again until nothing does. If a create call may still be on its way
/// (this process has dropped it, or another has died in it), one empty look is not enough. A list may also go on to show for a
/// while what was deleted.
pub(super) async fn delete_all(tools: &Tools, state: &SessionState) -> Result<Record> {
    let (volumes, mut known) = in_sight(tools, state).await?;
    let mut deleted = BTreeSet::new();
    let mut empty_looks = if state.may_still_make() { 0 } else { EMPTY_LOOKS };
    let mut wait = Wait::new(tools, Some(SHOWS_DELETED), Duration::from_millis(500), Duration::from_secs(8));
    loop {
        known.extend(find(tools, state, &volumes, READ_PATIENCE).await?);
        known.sort_by(|a, b| a.snapshot.cmp(&b.snapshot));
        known.dedup_by(|a, b| a.snapshot == b.snapshot);
        if known.is_empty() && empty_looks < EMPTY_LOOKS {
            empty_looks += 1;
            tools.clock.sleep(Duration::from_millis(500)).await;
            continue;
        }
        if known.is_empty() {
            return Ok(Record::SnapshotsDeleted { deleted: deleted.into_iter().collect() });
        }
        let results = join_all(known.iter().map(|ticket| tools.provider.delete(ticket))).await;
        let mut failed = Vec::new();
        let mut new = false;
        for (ticket, result) in known.drain(..).zip(results) {
            match result {
                Ok(()) => new |= deleted.insert(ticket.name),
                Err(error) => failed.push((ticket, error)),
            }
        }
        if !failed.is_empty() {
            return Err(why_not_deleted(tools, failed).await);
        }
        if !new && wait.pause(state).await.is_err() {
            break;
        }
    }
    Err(Error::new(ErrorKind::Provider, "snapshots with the token of this session keep appearing")
        .with_retry(Retry::Safe)
        .with_hint("is another process still taking this backup?"))
}

/// The volumes on which snapshots are looked for, and the snapshots that are known of them. Refused while any cannot be seen:
/// what is not looked for must not be recorded as deleted.
async fn in_sight(tools: &Tools, state: &SessionState) -> Result<(Vec<Volume>, Vec<Ticket>)> {
    let Some(why) = sight::why_out_of_sight(tools.provider.as_ref(), state).await? else {
        return Ok((state.plan.plain_volumes(), state.tickets.clone()));
    };
    if !tools.snapshots_gone {
        return Err(Error::precondition(format!("the snapshots of this backup cannot be deleted: {why}")));
    }
    let volumes = sight::seen_volumes(tools, state).await?;
    let is_seen = |ticket: &&Ticket| volumes.iter().any(|volume| volume.id == ticket.volume);
    let tickets = state.tickets.iter().filter(is_seen).cloned().collect();
    tracing::warn!(why, "snapshots that cannot be seen are taken for gone");
    Ok((volumes, tickets))
}

/// Of snapshots that could not be deleted: those that are locked or of somebody else, all together; else the first error.
async fn why_not_deleted(tools: &Tools, failed: Vec<(Ticket, Error)>) -> Error {
    let (tickets, errors): (Vec<Ticket>, Vec<Error>) = failed.into_iter().unzip();
    if let Err(locked) = tools.provider.check_delete(&tickets).await
        && locked.kind() == ErrorKind::Precondition
    {
        // A provider that says why knows better.
        return match locked.hint() {
            Some(_) => locked,
            None => locked.with_hint("it can be deleted when the lock has expired or was released"),
        };
    }
    match (tickets.into_iter().next(), errors.into_iter().next()) {
        (Some(ticket), Some(error)) => {
            error.with_context("volume", ticket.volume).with_context("snapshot", ticket.snapshot)
        }
        _ => Error::internal("no snapshot has failed"),
    }
}
