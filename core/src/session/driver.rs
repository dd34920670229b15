//! The only loop that does things: it asks [`step::next`] what comes next, does it, writes it down, and decides what an
//! error means.
//!
//! The order within a step never varies: intent, effect, result. What the effects are is in [`effects`](super::effects);
//! what is left of them after a death is [`recover`](super::recover)'s business.

use std::sync::Arc;
use std::time::Duration;

use super::effects;
use super::fault::{Fault, FaultPlan, Place};
use super::journal::{Entry, Journal, Record};
use super::phase::Phase;
use super::plan::SessionPlan;
use super::progress::{CancelToken, Listener, Progress};
use super::state::SessionState;
use super::step::{self, Step};
use super::wait::renew;
use super::wal;
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::id::IdSource;
use crate::postgres::BackupControl;
use crate::provider::SnapshotProvider;
use crate::provider::registry::ProviderSource;

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long a step is tried again that a limit of rate refuses, where backup mode does not wait for it.
const RATE_PATIENCE: Duration = Duration::from_secs(1800);

/// How long the driver waits for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For every snapshot to be cut, in backup mode. `None`: as long as it takes (a plain copy may take hours).
    pub cut: Option<Duration>,
    /// For every snapshot to be ready, after backup mode. `None`: as long as it takes.
    pub ready: Option<Duration>,
    /// For the archiver to store the last segment.
    pub wal: Duration,
    /// How often a step that may be repeated is tried, behind the dividing line and on the way back.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles each time, up to a minute.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { cut: None, ready: None, wal: Duration::from_secs(300), attempts: 4, pause: Duration::from_millis(500) }
    }
}

/// What a driver works with.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    pub(crate) catalog: Catalog,
    pub(crate) journal: Journal,
    /// The provider of the session.
    pub(crate) provider: Arc<dyn SnapshotProvider>,
    /// The providers of the backups that exist.
    pub(crate) providers: Arc<dyn ProviderSource>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: Arc<dyn IdSource>,
    pub(crate) faults: Arc<dyn FaultPlan>,
    pub(crate) listener: Listener,
    pub(crate) patience: Patience,
    /// Snapshots that cannot be seen from here are gone, by the user's word.
    pub(crate) snapshots_gone: bool,
}

impl Tools {
    /// The same tools with the provider that an existing session was begun with.
    pub(crate) async fn for_session(&self, plan: &SessionPlan) -> Result<Self> {
        Ok(Self { provider: self.providers.open(&plan.provider).await?, ..self.clone() })
    }
}

/// Why a step was not completed.
#[derive(Debug)]
enum Stop {
    /// The effect failed.
    Failed(Error),
    /// The journal could not be written: this driver must not go on, in any direction.
    Journal(Error),
    /// A fault plan killed the process.
    Killed,
}

/// What an error means for the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// Undo everything.
    Undo,
    /// Stop here; `recover` can go on.
    Leave,
    /// Somebody has to look.
    Stuck,
}

/// The rule of recovery, for a driver that is alive. Pure.
pub(crate) fn disposition(step: Step, error: &Error, state: &SessionState) -> Disposition {
    match state.phase {
        Phase::Undoing => Disposition::Stuck,
        _ if !state.is_past_the_line() => Disposition::Undo,
        // The way forward is gone: a snapshot failed after its cut, or the backup was deleted under our hands.
        _ if step == Step::AwaitReady && error.kind() == ErrorKind::Provider => Disposition::Undo,
        // What the provider will refuse again and again cannot be promoted. Where it can only not be secured, the snapshots are
        // complete: a copy or a lock that is missing is no reason to destroy them.
        _ if step == Step::Promote && error.kind() == ErrorKind::Provider && error.retry() == Retry::Never => {
            Disposition::Undo
        }
        _ if error.context().iter().any(|(key, _)| *key == effects::DELETED) => Disposition::Undo,
        _ => Disposition::Leave,
    }
}

/// Drives one session.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) tools: Tools,
    pub(crate) state: SessionState,
    pub(crate) cancel: CancelToken,
    control: Option<Box<dyn BackupControl>>,
    /// The primary of a standby, which can be asked to end its segment.
    pub(crate) primary: Option<Box<dyn BackupControl>>,
    epoch: u32,
    in_backup_mode_since: Option<Duration>,
    wave_since: Option<Duration>,
    killed: bool,
}

impl Driver {
    pub(crate) fn new(
        tools: Tools,
        state: SessionState,
        control: Option<Box<dyn BackupControl>>,
        cancel: CancelToken,
    ) -> Self {
        let epoch = state.epoch;
        Self {
            tools,
            state,
            cancel,
            control,
            primary: None,
            epoch,
            in_backup_mode_since: None,
            wave_since: None,
            killed: false,
        }
    }

    /// Runs to the end. An error is that of the step which failed first; whether the session was undone is in the state.
    pub(crate) async fn run(&mut self) -> Result<()> {
        let mut first = None;
        loop {
            match self.next_step().await {
                Ok(Some(_)) => {}
                Ok(None) => return first.map_or(Ok(()), Err),
                Err(error) => {
                    let goes_on = self.state.phase == Phase::Undoing && !self.killed && first.is_none();
                    let error = first.take().unwrap_or(error);
                    if !goes_on || error.kind() == ErrorKind::Fenced {
                        return Err(error);
                    }
                    first = Some(error);
                }
            }
        }
    }

    /// Does the next step, and says which it was; `None` when there is none. After an error the session is either
    /// undoing (then the next steps undo it), or left to `recover`.
    pub(crate) async fn next_step(&mut self) -> Result<Option<Step>> {
        if self.killed {
            return Err(Error::internal("this process counts as killed"));
        }
        let Some(step) = step::next(&self.state) else { return Ok(None) };
        let begun = self.tools.clock.monotonic();
        self.tools.listener.tell(&Progress::StepBegun { step });
        match self.perform(step).await {
            Ok(()) => {
                let elapsed = self.tools.clock.monotonic().saturating_sub(begun);
                self.tools.listener.tell(&Progress::StepDone { step, phase: self.state.phase, elapsed });
                Ok(Some(step))
            }
            Err(Stop::Killed) => {
                self.killed = true;
                // A dead process has no connection.
                self.control = None;
                Err(Error::internal(format!("killed in step {step}")))
            }
            Err(Stop::Journal(error)) => Err(self.journal_is_gone(step, error).await),
            Err(Stop::Failed(error)) => Err(self.failed(step, error).await),
        }
    }

    /// Undoes the session by the user's or the recovery's decision.
    pub(crate) async fn intend_undo(&mut self, reason: &str) -> Result<()> {
        self.release().await;
        self.tools.listener.tell(&Progress::Undoing { reason: reason.to_owned() });
        self.append(Record::UndoIntended { reason: reason.to_owned() }).await
    }

    /// Takes the session over from another process; that one is fenced from here on.
    pub(crate) async fn adopt(&mut self) -> Result<()> {
        self.epoch = self.state.epoch + 1;
        self.append(Record::Adopted { owner: super::owner::Owner::current() }).await
    }

    /// Brings a session that was stuck past the line back on its way.
    pub(crate) async fn intend_finish(&mut self) -> Result<()> {
        self.append(Record::FinishIntended).await
    }

    /// Writes one entry and takes it in.
    async fn append(&mut self, record: Record) -> Result<()> {
        let entry = Entry {
            version: record.version(),
            sequence: self.state.next_sequence,
            epoch: self.epoch,
            at: self.tools.clock.now(),
            nonce: format!("{:032x}", self.tools.ids.bits()),
            record,
        };
        // An illegal event must not reach the journal.
        let mut after = self.state.clone();
        after.apply(&entry)?;
        self.tools.journal.append(&self.state.plan.backup_id, &entry).await?;
        self.state = after;
        Ok(())
    }

    async fn perform(&mut self, step: Step) -> Result<(), Stop> {
        self.strike(step, Place::BeforeIntent)?;
        if let Some(intent) = self.intent(step) {
            self.append(intent).await.map_err(Stop::Journal)?;
        }
        self.strike(step, Place::BeforeEffect)?;
        let record = self.effect_with_retries(step).await.map_err(Stop::Failed)?;
        self.strike(step, Place::AfterEffect)?;
        self.strike(step, Place::InJournal)?;
        self.append(record).await.map_err(Stop::Journal)?;
        if step == Step::Stop && self.state.plan.wal == super::WalPolicy::External {
            self.release().await;
        }
        self.strike(step, Place::AfterResult)
    }

    /// The entry to write before the effect, unless it was written already.
    fn intent(&self, step: Step) -> Option<Record> {
        match step {
            Step::Start if self.state.phase == Phase::Planned => Some(Record::StartIntended),
            Step::Snapshot(wave) if self.state.waves_intended <= wave => Some(Record::CutIntended { wave }),
            Step::StoreLabel if self.state.phase == Phase::Stopped => Some(Record::FinishIntended),
            _ => None,
        }
    }

    /// Before the line a step is tried once, as backup mode waits; behind it, and on the way back, every step may be
    /// repeated.
    async fn effect_with_retries(&mut self, step: Step) -> Result<Record> {
        let mut pause = self.tools.patience.pause;
        let mut attempt = 1;
        let begun = self.tools.clock.monotonic();
        loop {
            let error = match self.effect(step).await {
                Ok(record) => return Ok(record),
                Err(error) => error,
            };
            let repeatable = self.state.is_past_the_line() || self.state.phase == Phase::Undoing;
            // What was only throttled was not tried: the time is the bound, not the number.
            let spent = self.tools.clock.monotonic().saturating_sub(begun);
            let throttled = matches!(error.retry(), Retry::After(_)) && spent < RATE_PATIENCE;
            let given_up = attempt >= self.tools.patience.attempts && !throttled;
            if !repeatable || error.retry() == Retry::Never || given_up {
                return Err(error);
            }
            tracing::warn!(%step, attempt, error = error.chain(), "trying again");
            // Whoever asks for more than the longest pause is asked again before.
            let wait = match error.retry() {
                Retry::After(asked) => asked.clamp(pause, LONGEST_PAUSE.max(pause)),
                _ => pause,
            };
            let undoing = self.state.phase == Phase::Undoing;
            tokio::select! {
                () = self.tools.clock.sleep(wait) => {}
                () = self.cancel.cancelled(), if !undoing => {
                    return Err(Error::new(ErrorKind::Cancelled, "the backup was cancelled"));
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            attempt += 1;
            if throttled {
                renew(&self.tools, &self.state).await;
            }
        }
    }

    /// The effect of a step, given up when the session is cancelled or its connection is lost.
    async fn effect(&mut self, step: Step) -> Result<Record> {
        let Self { tools, state, control, primary, cancel, in_backup_mode_since: since, .. } = self;
        let undoing = state.phase == Phase::Undoing;
        // These make something. Dropped half-way, they could still take effect after the undo has looked; so they come to their
        // end (the provider and the store have limits of their own), and what was noticed meanwhile counts in the next step.
        let makes = matches!(step, Step::Announce | Step::Snapshot(_) | Step::Promote);
        let cancelled = async {
            if undoing || makes {
                std::future::pending::<()>().await;
            }
            cancel.cancelled().await;
        };
        let work = async {
            match (step, control.as_mut()) {
                (Step::Start, Some(control)) => effects::start(tools, state, control.as_mut(), since).await,
                (Step::Stop, Some(control)) => effects::stop(tools, state, control.as_mut(), *since).await,
                (Step::CompleteWal, control) => {
                    let connections = wal::Connections {
                        control: control.map(|control| &mut **control),
                        primary: primary.as_mut().map(|primary| &mut **primary),
                    };
                    wal::complete(tools, state, connections).await
                }
                (step, Some(control)) if step.needs_postgres() && !makes => tokio::select! {
                    biased;
                    result = effects::without_postgres(tools, state, step) => result,
                    lost = control.lost() => Err(lost),
                },
                (step, None) if step.needs_postgres() => {
                    Err(Error::internal(format!("step {step} needs the connection of its session")))
                }
                (step, _) => effects::without_postgres(tools, state, step).await,
            }
        };
        if matches!(step, Step::Snapshot(_)) {
            self.wave_since = Some(tools.clock.monotonic());
        }
        let mut record = tokio::select! {
            biased;
            () = cancelled => Err(Error::new(ErrorKind::Cancelled, "the backup was cancelled")),
            result = work => result,
        }?;
        match &mut record {
            // Some snapshots are cut when their create call returns.
            Record::CutReached { cut_ms, .. } => {
                let elapsed = self.wave_since.map(|since| self.tools.clock.monotonic().saturating_sub(since));
                *cut_ms = elapsed.map_or(*cut_ms, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
            }
            Record::WalComplete { .. } => self.release().await,
            _ => {}
        }
        Ok(record)
    }

    fn strike(&self, step: Step, place: Place) -> Result<(), Stop> {
        match self.tools.faults.strike(step, place) {
            None => Ok(()),
            Some(Fault::Kill) => Err(Stop::Killed),
            Some(Fault::Error(error)) if place == Place::InJournal => Err(Stop::Journal(error)),
            Some(Fault::Error(error)) => Err(Stop::Failed(error)),
        }
    }

    /// Closes the connection; PostgreSQL ends what is open on it.
    async fn release(&mut self) {
        for mut connection in self.control.take().into_iter().chain(self.primary.take()) {
            connection.close().await;
        }
    }

    async fn failed(&mut self, step: Step, error: Error) -> Error {
        let error = error
            .with_operation(step.as_str())
            .with_context("backup_id", self.state.plan.backup_id.to_string())
            .with_context("phase", self.state.phase.to_string());
        match disposition(step, &error, &self.state) {
            Disposition::Leave => {
                self.release().await;
                let id = &self.state.plan.backup_id;
                let complete = if step == Step::Secure { "its snapshots are complete; " } else { "" };
                let first = match error.hint() {
                    Some(hint) => format!("{hint}; then "),
                    None if step == Step::Secure => "fix the cause, then ".to_owned(),
                    None => String::new(),
                };
                error.with_hint(format!("{complete}{first}run `barman-snap recover` to complete backup {id}"))
            }
            Disposition::Undo => match self.intend_undo(&error.chain()).await {
                Ok(()) => error,
                Err(journal) => {
                    tracing::error!(error = journal.chain(), "the undo could not be written down");
                    error
                        .with_hint("its undo could not be recorded: run `barman-snap recover` when the catalog is back")
                }
            },
            Disposition::Stuck => {
                let reason = format!("{step}: {}", error.chain());
                if let Err(journal) = self.append(Record::Stuck { reason }).await {
                    tracing::error!(error = journal.chain(), "that the session is stuck could not be written down");
                }
                error.with_hint("fix the cause, then run `barman-snap recover`")
            }
        }
    }

    /// The journal cannot be written, or somebody else writes it: stop. A fenced driver before the line removes what its
    /// own create calls have left, for the new owner may have looked before they took effect; the new owner is undoing,
    /// it has no other choice there.
    async fn journal_is_gone(&mut self, step: Step, error: Error) -> Error {
        self.release().await;
        if error.kind() == ErrorKind::Fenced
            && !self.state.is_past_the_line()
            && matches!(step, Step::Snapshot(_))
            && let Err(left) = effects::delete_snapshots(&self.tools, &self.state).await
        {
            tracing::warn!(error = left.chain(), "snapshots of a fenced session may be left; gc will find them");
        }
        let id = self.state.plan.backup_id.to_string();
        let fenced = error.kind() == ErrorKind::Fenced;
        let error = error.with_operation(step.as_str()).with_context("backup_id", id);
        if fenced { error } else { error.with_hint("run `barman-snap recover` when the catalog is back") }
    }
}
