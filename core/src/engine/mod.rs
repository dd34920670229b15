//! The engine: one catalog, one server, one provider, and what can be done with them.
//!
//! [`Engine`] decides nothing by itself. It wires the parts together that were given to [`EngineBuilder`], so that every
//! door (Rust, C, Python, the command line) goes through the same one.

mod delete;
pub mod restore;

use std::sync::Arc;

use crate::catalog::{Catalog, CatalogEntry, StoreOptions};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{BackupId, IdSource, SystemIds};
use crate::postgres::BackupControl;
use crate::provider::SnapshotProvider;
use crate::provider::local::LocalProvider;
use crate::session::driver::{Driver, Tools};
use crate::session::fault::{FaultPlan, NoFaults};
use crate::session::gc::{GcFacts, GcPlan};
use crate::session::journal::Journal;
use crate::session::rescue::{self, Rescue};
use crate::session::{
    BackupRequest, BackupSession, CancelToken, Listener, Patience, Phase, SessionPlan, SessionState, Wishes, begin, gc,
};

/// Builds an [`Engine`]. Everything but the catalog and the server has a default.
#[derive(Debug)]
pub struct EngineBuilder {
    catalog: Catalog,
    provider: Option<Arc<dyn SnapshotProvider>>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    faults: Arc<dyn FaultPlan>,
    listener: Listener,
    patience: Patience,
}

impl EngineBuilder {
    /// The provider; by default the local one.
    #[must_use]
    pub fn provider(mut self, provider: Arc<dyn SnapshotProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// The clock; by default the operating system's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where ids come from; by default the operating system.
    #[must_use]
    pub fn ids(mut self, ids: Arc<dyn IdSource>) -> Self {
        self.ids = ids;
        self
    }

    /// A fault plan, for tests; by default nothing ever happens.
    #[must_use]
    pub fn faults(mut self, faults: Arc<dyn FaultPlan>) -> Self {
        self.faults = faults;
        self
    }

    /// Who is told of progress.
    #[must_use]
    pub fn listener(mut self, listener: Listener) -> Self {
        self.listener = listener;
        self
    }

    /// How long to wait for what.
    #[must_use]
    pub fn patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// The engine.
    pub fn build(self) -> Engine {
        let journal = Journal::new(self.catalog.space().clone(), self.catalog.layout().clone());
        let provider = self.provider.unwrap_or_else(|| Arc::new(LocalProvider::default()));
        Engine {
            tools: Tools {
                catalog: self.catalog,
                journal,
                provider,
                clock: self.clock,
                ids: self.ids,
                faults: self.faults,
                listener: self.listener,
                patience: self.patience,
            },
        }
    }
}

/// See the [module documentation](self). Cheap to clone; may be used from several threads.
#[derive(Clone, Debug)]
pub struct Engine {
    tools: Tools,
}

/// How to recover.
#[derive(Clone, Debug, Default)]
pub struct RecoverRequest {
    /// This session only; `None`: all.
    pub backup_id: Option<BackupId>,
    /// What the user has said.
    pub wishes: Wishes,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Cancels waiting.
    pub cancel: CancelToken,
}

impl Engine {
    /// An engine for the catalog at `url` (a directory, `file://`, `s3://`, `gs://`, or Azure's `https://`) and the server
    /// of that name in it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if the URL or the server name is not one. Nothing is contacted yet, unless the region of
    /// a bucket has to be asked for.
    pub async fn builder(url: &str, options: &StoreOptions, server: &str) -> Result<EngineBuilder> {
        Ok(Self::on(Catalog::open(url, options, server).await?))
    }

    /// An engine on an open catalog.
    pub fn on(catalog: Catalog) -> EngineBuilder {
        EngineBuilder {
            catalog,
            provider: None,
            clock: Arc::new(SystemClock::new()),
            ids: Arc::new(SystemIds),
            faults: Arc::new(NoFaults),
            listener: Listener::default(),
            patience: Patience::default(),
        }
    }

    /// The same engine, telling somebody else of progress.
    #[must_use]
    pub fn with_listener(&self, listener: Listener) -> Self {
        Self { tools: Tools { listener, ..self.tools.clone() } }
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.tools.catalog
    }

    /// The provider.
    pub fn provider(&self) -> &Arc<dyn SnapshotProvider> {
        &self.tools.provider
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.tools.clock
    }

    /// The random numbers.
    pub fn ids(&self) -> &Arc<dyn IdSource> {
        &self.tools.ids
    }

    /// Plans a backup: every check, every decision, no effect. The id in the plan is a proposal.
    ///
    /// # Errors
    /// Whatever would stop the backup, before it has started.
    pub async fn plan_backup(&self, control: &mut dyn BackupControl, request: &BackupRequest) -> Result<SessionPlan> {
        let Tools { catalog, journal, provider, clock, ids, .. } = &self.tools;
        begin::plan(catalog, journal, provider, clock.as_ref(), ids.as_ref(), control, request)
            .await
            .map_err(|error| error.with_operation("plan"))
    }

    /// Plans a backup, claims its id, and returns the session, which has to be [run](BackupSession::run).
    ///
    /// # Errors
    /// As [`plan_backup`](Self::plan_backup); and if the journal cannot be written.
    pub async fn backup(&self, mut control: Box<dyn BackupControl>, request: &BackupRequest) -> Result<BackupSession> {
        let plan = self.plan_backup(control.as_mut(), request).await?;
        tracing::info!(volumes = begin::volume_names(&plan.plain_volumes()), "planned");
        BackupSession::begin(self.tools.clone(), plan, control).await
    }

    /// All sessions whose journal exists, oldest first, and the ids of those whose journal cannot be read.
    ///
    /// # Errors
    /// If the catalog cannot be listed.
    pub async fn sessions(&self) -> Result<(Vec<SessionState>, Vec<(BackupId, Error)>)> {
        let mut states = Vec::new();
        let mut broken = Vec::new();
        for id in self.tools.journal.sessions().await? {
            match rescue::load(&self.tools, &id).await {
                Ok(Some(state)) => states.push(state),
                Ok(None) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                    broken.push((id, error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((states, broken))
    }

    /// Brings sessions that were left by their process to their end: before the dividing line undone, behind it completed.
    ///
    /// # Errors
    /// If the sessions cannot be listed. What becomes of each is in its [`Rescue`].
    pub async fn recover(&self, request: &RecoverRequest) -> Result<Vec<Rescue>> {
        let (states, broken) = self.sessions().await?;
        let wanted = |id: &BackupId| request.backup_id.as_ref().is_none_or(|wanted| wanted == id);
        if let Some((_, error)) = broken.into_iter().find(|(id, _)| wanted(id)) {
            return Err(error
                .with_hint("the journal of a session is damaged; gc will not touch any snapshot until it is mended"));
        }
        let mut rescues = Vec::new();
        for state in states {
            if !wanted(&state.plan.backup_id) {
                continue;
            }
            let plan = rescue::plan(&self.tools, &state, request.wishes).await?;
            rescues.push(match request.dry_run {
                true => Rescue { ended: state.phase, plan, error: None },
                false => rescue::carry_out(&self.tools, state, plan, request.cancel.clone()).await,
            });
        }
        if rescues.is_empty()
            && let Some(id) = &request.backup_id
        {
            return Err(Error::not_found(format!("there is no session of backup {id}")));
        }
        Ok(rescues)
    }

    /// Takes over a session that was begun earlier, to be driven by this process step by step; its driver, should it still
    /// live, is fenced. Past the dividing line, or on the way back, only: what comes before needs the connection that is
    /// gone, and is for [`recover`](Self::recover).
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] without a journal, [`ErrorKind::Precondition`] if there is nothing to take over,
    /// [`ErrorKind::Fenced`] if its driver is faster.
    pub async fn adopt(&self, id: &BackupId) -> Result<BackupSession> {
        let state = rescue::load(&self.tools, id)
            .await?
            .ok_or_else(|| Error::not_found(format!("there is no session of backup {id}")))?;
        if state.phase.is_final() {
            return Err(Error::precondition(format!("the session of backup {id} is {}", state.phase)));
        }
        if !state.is_past_the_line() && state.phase != Phase::Undoing {
            return Err(Error::precondition(format!(
                "the session of backup {id} was left while it was {}",
                state.phase
            ))
            .with_hint("only `recover` can bring it to an end, by undoing it"));
        }
        let mut driver = Driver::new(self.tools.clone(), state, None, CancelToken::new());
        driver.adopt().await?;
        Ok(BackupSession::new(driver))
    }

    /// What `gc` would remove: snapshots that bear our mark and belong to nobody, journals of what is gone.
    ///
    /// # Errors
    /// If the catalog or the provider cannot be listed.
    pub async fn plan_gc(&self, keep_undone: chrono::Duration) -> Result<GcPlan> {
        // The order matters. A session stores its plan before it creates anything, and keeps it until its backup.info names
        // its snapshots: whatever is listed first has its owner among what is read afterwards.
        let (before, _) = self.sessions().await?;
        let mut volumes: Vec<_> = before.iter().flat_map(|state| state.plan.plain_volumes()).collect();
        volumes.sort_by(|a, b| a.id.cmp(&b.id));
        volumes.dedup_by(|a, b| a.id == b.id);
        let snapshots = match self.tools.journal.known_mark().await? {
            Some(mark) => self.tools.provider.list(&mark, &volumes).await?,
            None => Vec::new(),
        };
        let (sessions, broken) = self.sessions().await?;
        let entries = self.tools.catalog.list().await?;
        let facts = GcFacts {
            snapshots,
            unreadable: entries.iter().filter(|entry| is_unreadable(entry)).map(|entry| entry.id.clone()).collect(),
            catalog: entries.iter().filter_map(token_of).collect(),
            sessions,
            unreadable_sessions: broken.into_iter().map(|(id, _)| id).collect(),
            now: self.tools.clock.now(),
            keep_undone,
        };
        Ok(gc::plan(&facts))
    }

    /// Removes what a [`GcPlan`] names.
    ///
    /// # Errors
    /// Of the first removal that failed; the rest was tried all the same.
    pub async fn apply_gc(&self, plan: &GcPlan) -> Result<()> {
        let mut first = None;
        for ticket in &plan.orphans {
            if let Err(error) = self.tools.provider.delete(ticket).await {
                first.get_or_insert(error.with_context("snapshot", ticket.snapshot.clone()));
            }
        }
        // A journal says where to look for snapshots: while one could not be deleted, all journals stay.
        if first.is_none() {
            for id in &plan.journals {
                if let Err(error) = self.tools.journal.remove(id).await {
                    first.get_or_insert(error);
                }
            }
        }
        first.map_or(Ok(()), Err)
    }
}

/// True if it cannot be said which snapshots a backup has: also when only our record in it is damaged, or of a later version.
fn is_unreadable(entry: &CatalogEntry) -> bool {
    !matches!(entry.info.as_ref().map(crate::model::BackupInfo::engine_record), Ok(Ok(_)))
}

/// The id of a readable entry and the token its metadata names.
fn token_of(entry: &CatalogEntry) -> Option<(BackupId, Option<crate::id::Token>)> {
    let info = entry.info.as_ref().ok()?;
    Some((entry.id.clone(), info.engine_record().ok().flatten().map(|record| record.token)))
}
