//! The engine: one catalog, one server, one provider, and what can be done with them.
//!
//! [`Engine`] decides nothing by itself. It wires the parts together that were given to [`EngineBuilder`], so that every
//! door (Rust, C, Python, the command line) goes through the same one.

mod delete;
mod gc;
pub mod restore;

use std::sync::Arc;

use crate::catalog::{Catalog, StoreOptions};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::host::HostView;
use crate::host::devices::HostDescription;
use crate::id::{BackupId, IdSource, SystemIds};
use crate::postgres::BackupControl;
use crate::provider::SnapshotProvider;
use crate::provider::local::LocalProvider;
use crate::provider::pool::ProviderPool;
use crate::provider::registry::{ProviderSource, Providers};
use crate::session::driver::{Driver, Tools};
use crate::session::fault::{FaultPlan, NoFaults};
use crate::session::journal::Journal;
use crate::session::rescue::{self, Rescue};
use crate::session::{
    BackupRequest, BackupSession, CancelToken, Listener, Patience, Phase, SessionPlan, SessionState, Wishes, begin,
};

/// Builds an [`Engine`]. Everything but the catalog and the server has a default.
#[derive(Debug)]
pub struct EngineBuilder {
    catalog: Catalog,
    provider: Option<Arc<dyn SnapshotProvider>>,
    source: Arc<dyn ProviderSource>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    faults: Arc<dyn FaultPlan>,
    listener: Listener,
    patience: Patience,
    host: Option<Arc<HostDescription>>,
}

impl EngineBuilder {
    /// The provider of new backups; by default the local one.
    #[must_use]
    pub fn provider(mut self, provider: Arc<dyn SnapshotProvider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// What opens the providers of backups that exist, when they were made with another one; by default those of this
    /// build, with default options.
    #[must_use]
    pub fn providers(mut self, source: Arc<dyn ProviderSource>) -> Self {
        self.source = source;
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

    /// The host of the cluster, when it is not this one: everything that is asked of it is then answered by its description.
    /// The provider has to be given the same.
    #[must_use]
    pub fn host_description(mut self, host: Arc<HostDescription>) -> Self {
        self.host = Some(host);
        self
    }

    /// The engine.
    pub fn build(self) -> Engine {
        let journal = Journal::new(self.catalog.space().clone(), self.catalog.layout().clone());
        let provider = self.provider.unwrap_or_else(|| Arc::new(LocalProvider::default()));
        Engine {
            host: self.host,
            tools: Tools {
                catalog: self.catalog,
                journal,
                providers: Arc::new(ProviderPool::new(Arc::clone(&provider), self.source)),
                provider,
                clock: self.clock,
                ids: self.ids,
                faults: self.faults,
                listener: self.listener,
                patience: self.patience,
                snapshots_gone: false,
            },
        }
    }
}

/// See the [module documentation](self). Cheap to clone; may be used from several threads.
#[derive(Clone, Debug)]
pub struct Engine {
    tools: Tools,
    host: Option<Arc<HostDescription>>,
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
            source: Arc::new(Providers::default()),
            clock: Arc::new(SystemClock::new()),
            ids: Arc::new(SystemIds),
            faults: Arc::new(NoFaults),
            listener: Listener::default(),
            patience: Patience::default(),
            host: None,
        }
    }

    /// The same engine, telling somebody else of progress.
    #[must_use]
    pub fn with_listener(&self, listener: Listener) -> Self {
        Self { tools: Tools { listener, ..self.tools.clone() }, host: self.host.clone() }
    }

    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.tools.catalog
    }

    /// The provider of new backups.
    pub fn provider(&self) -> &Arc<dyn SnapshotProvider> {
        &self.tools.provider
    }

    /// The provider of that name: of a backup that exists.
    ///
    /// # Errors
    /// If there is no such provider, or it cannot be opened.
    pub async fn provider_named(&self, name: &str) -> Result<Arc<dyn SnapshotProvider>> {
        self.tools.providers.open(name).await
    }

    /// The clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.tools.clock
    }

    /// The host of the cluster.
    pub fn host(&self) -> HostView<'_> {
        HostView::of(self.host.as_deref())
    }

    /// The random numbers.
    pub fn ids(&self) -> &Arc<dyn IdSource> {
        &self.tools.ids
    }

    /// The mark of the server in this catalog, if it has one.
    pub(crate) async fn known_mark(&self) -> Result<Option<String>> {
        self.tools.journal.known_mark().await
    }

    /// The mark that the snapshots of a backup would carry now.
    pub(crate) async fn proposed_mark(&self) -> Result<String> {
        begin::proposed_mark(&self.tools).await
    }

    /// The id that a backup would get now.
    pub(crate) async fn next_id(&self, request: &BackupRequest) -> Result<BackupId> {
        begin::id_of(request, &self.tools).await
    }

    /// Plans a backup: every check, every decision, no effect. The id in the plan is a proposal.
    ///
    /// # Errors
    /// Whatever would stop the backup, before it has started.
    pub async fn plan_backup(&self, control: &mut dyn BackupControl, request: &BackupRequest) -> Result<SessionPlan> {
        begin::plan(&self.tools, control, self.host(), request).await.map_err(|error| error.with_operation("plan"))
    }

    /// Makes sure that `primary` leads to the primary of the standby that `control` leads to. Before
    /// [`set_primary`](BackupSession::set_primary): it would be asked in vain, for as long as the backup waits for its WAL.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] if it is another cluster or a standby itself.
    pub async fn check_primary(&self, control: &mut dyn BackupControl, primary: &mut dyn BackupControl) -> Result<()> {
        let (Some(standby), Some(primary)) = (control.identity().await?, primary.identity().await?) else {
            return Ok(());
        };
        begin::check_primary(&standby, &primary).map_err(|error| error.with_operation("plan"))
    }

    /// Plans a backup, claims its id, and returns the session, which has to be [run](BackupSession::run).
    ///
    /// # Errors
    /// As [`plan_backup`](Self::plan_backup); and if the journal cannot be written.
    pub async fn backup(&self, mut control: Box<dyn BackupControl>, request: &BackupRequest) -> Result<BackupSession> {
        let plan = self.plan_backup(control.as_mut(), request).await?;
        tracing::info!(volumes = begin::volume_names(&plan.plain_volumes()), "planned");
        self.catalog().pin_system_id(&plan.facts.system_id, request.new_system_id.as_deref()).await?;
        BackupSession::begin(self.tools.clone(), plan, request.backup_id.is_none(), control).await
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
                .with_hint("the journal of a session is damaged; gc leaves all snapshots alone until it is repaired"));
        }
        let cancel = (!request.dry_run).then(|| request.cancel.clone());
        let mut rescues = Vec::new();
        for state in states {
            if !wanted(&state.plan.backup_id) {
                continue;
            }
            rescues.push(rescue::rescue(&self.tools, state, request.wishes, cancel.clone()).await);
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
        let tools = self.tools.for_session(&state.plan).await?;
        let mut driver = Driver::new(tools, state, None, CancelToken::new());
        driver.adopt().await?;
        Ok(BackupSession::new(driver))
    }
}
