//! [`PostgresControl`]: the contract of [`BackupControl`] kept with a real connection.
//!
//! The `postgres` crate's client blocks, so it lives on a thread of its own, which owns the one connection. Statements go
//! there as closures over a channel; answers come back over one-shot channels. While nothing is asked, the thread looks at
//! the connection a few times per second, so that a loss is known without anybody asking, and sends a round trip every
//! half minute, so that neither a firewall nor the server takes it for dead.
//!
//! Not here: which statements there are ([`super::statements`]) and how the connection is opened ([`super::connect`]).
//! The invariant: the connection is never opened a second time. When it is lost, everything says so, with the first reason.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use async_trait::async_trait;
use postgres::fallible_iterator::FallibleIterator;
use postgres::{CancelToken, Client, NoTls, SimpleQueryMessage};
use tokio::sync::{oneshot, watch};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connect;
use super::conninfo::{ConnectOptions, ConnectParams, Environment};
use super::control::{
    ArchiverState, BackupControl, ServerFacts, ServerIdentity, Sign, StartRequest, StartedBackup, StoppedBackup,
    TablespaceUse,
};
use super::errors::{self, Loss};
use super::statements::{self, Rows};
use super::which;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::model::{Lsn, Tablespace};

/// How often an idle connection is looked at: the longest time for which a loss stays unnoticed.
const LOOK: Duration = Duration::from_millis(250);
/// How many looks go by between two round trips to the server: half a minute.
const LOOKS_PER_ROUND_TRIP: u32 = 120;
/// How long the server may take for a round trip before the connection counts as lost.
const ROUND_TRIP_LIMIT: Duration = Duration::from_secs(60);
/// How long `close` waits for the thread to end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A connection to PostgreSQL that can take a backup. Dropping it closes the connection, which ends an open backup.
pub struct PostgresControl {
    jobs: Option<mpsc::Sender<Job>>,
    lost: watch::Receiver<Option<Loss>>,
    ended: Option<oneshot::Receiver<()>>,
    pending: Arc<AtomicUsize>,
    cancel: Cancel,
    host: String,
    version: u32,
}

/// A piece of work for the thread that owns the connection.
type Job = Box<dyn FnOnce(&mut Session) + Send>;

impl PostgresControl {
    /// Connects, with the environment of this process.
    ///
    /// # Errors
    /// `InvalidInput` for options that make no sense, `Unavailable` when no server can be reached, `PermissionDenied` when
    /// it refuses the role, `NotFound` for an unknown database, `Precondition` when TLS is in the way, `Unsupported` for a
    /// server that is too old.
    pub async fn connect(options: &ConnectOptions) -> Result<Self> {
        Self::open(options.resolve(&Environment::from_process())?).await
    }

    /// Connects with parameters that are complete.
    pub async fn open(params: ConnectParams) -> Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let (lost_sender, lost) = watch::channel(None);
        let (ready_sender, ready) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        std::thread::Builder::new()
            .name("barman-snap-pg".to_owned())
            .spawn(move || {
                match Session::open(&params) {
                    Ok((mut session, ready)) => {
                        // Whoever gave up waiting has also dropped the queue: the session ends at once.
                        let _ = ready_sender.send(Ok(ready));
                        session.serve(&queue, &lost_sender);
                    }
                    Err(error) => drop(ready_sender.send(Err(error))),
                }
                let _ = ended_sender.send(());
            })
            .map_err(|error| Error::internal("cannot start the thread for PostgreSQL").with_source(error))?;
        let Ready { cancel, host, version } =
            ready.await.map_err(|_| Error::internal("the thread for PostgreSQL died while connecting"))??;
        tracing::debug!(%host, version, "connected to PostgreSQL");
        Ok(Self { jobs: Some(jobs), lost, ended: Some(ended), pending: Arc::default(), cancel, host, version })
    }

    /// The server that was reached: `host db1 port 5432`, or `socket /var/run/postgresql/.s.PGSQL.5432`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// `server_version_num`.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Runs any SQL by the simple query protocol and returns the rows of all its statements, as text.
    ///
    /// It sees the `search_path` that the role has by itself. A transaction that the text leaves open is rolled back: each
    /// call stands alone. Not for a connection that holds a backup open.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Rows> {
        let sql = sql.to_owned();
        self.call(move |session| {
            session.rows("RESET search_path")?;
            let result = session.rows(&sql);
            if session.loss.is_none() {
                session.rows("ROLLBACK; SET search_path = pg_catalog")?;
            }
            result
        })
        .await
    }

    /// One statement of the engine's own.
    async fn rows(&mut self, sql: impl Into<String>) -> Result<Rows> {
        let sql = sql.into();
        self.call(move |session| session.rows(&sql)).await
    }

    /// Runs `work` on the thread that owns the connection.
    async fn call<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, answer) = oneshot::channel();
        let pending = Arc::clone(&self.pending);
        pending.fetch_add(1, Ordering::SeqCst);
        let job: Job = Box::new(move |session| {
            let result = work(session);
            pending.fetch_sub(1, Ordering::SeqCst);
            // The future may have been dropped; the contract allows that.
            let _ = sender.send(result);
        });
        let sent = match &self.jobs {
            Some(jobs) => jobs.send(job).is_ok(),
            None => return Err(Error::new(ErrorKind::Postgres, "the connection to PostgreSQL is closed")),
        };
        if sent && let Ok(result) = answer.await {
            return result;
        }
        Err(self.loss())
    }

    /// Why the connection is gone.
    fn loss(&self) -> Error {
        match &*self.lost.borrow() {
            Some(loss) => loss.error(),
            None => Loss::new("its thread ended").error(),
        }
    }

    async fn in_recovery(&mut self) -> Result<bool> {
        let rows = self.rows(statements::IN_RECOVERY).await?;
        Ok(statements::text(statements::one(&rows, 1)?, 0)? == "t")
    }

    /// Asks the server to cancel the statement that runs, if one does. Does not wait.
    fn cancel_pending(&self) {
        if self.pending.load(Ordering::SeqCst) > 0 {
            self.cancel.send();
        }
    }
}

#[async_trait]
impl BackupControl for PostgresControl {
    async fn facts(&mut self) -> Result<ServerFacts> {
        self.call(|session| {
            let settings = session.rows(&statements::settings())?;
            let identity = session.rows(&statements::identity())?;
            let included = session.rows(statements::INCLUDED_FILES)?;
            let tablespaces = session.rows(statements::TABLESPACES)?;
            let cluster_size = match session.rows(statements::CLUSTER_SIZE) {
                Ok(rows) => Some(statements::number(statements::text(statements::one(&rows, 1)?, 0)?)?),
                Err(error) if error.kind() == ErrorKind::PermissionDenied => None,
                Err(error) => return Err(error),
            };
            statements::read_facts(&settings, &identity, included, &tablespaces, cluster_size)
        })
        .await
    }

    async fn tablespaces(&mut self) -> Result<Vec<Tablespace>> {
        statements::read_tablespaces(&self.rows(statements::TABLESPACES).await?)
    }

    async fn tablespace_uses(&mut self, named: &[String]) -> Result<Vec<TablespaceUse>> {
        statements::read_tablespace_uses(&self.rows(statements::tablespace_uses(named)?).await?)
    }

    async fn check_privileges(&mut self) -> Result<()> {
        let in_recovery = self.in_recovery().await?;
        let rows = self.rows(statements::privileges(self.version, in_recovery)).await?;
        statements::read_privileges(self.version, in_recovery, &rows)
    }

    async fn identity(&mut self) -> Result<Option<ServerIdentity>> {
        let rows = self.rows(which::identity()).await?;
        which::read_identity(&rows, &self.host).map(Some)
    }

    async fn leave_sign(&mut self) -> Result<Option<Sign>> {
        self.call(|session| {
            let rows = session.rows(which::SIGN);
            if rows.is_err() && session.loss.is_none() {
                session.rows(which::NO_SIGN)?;
            }
            which::read_sign(&rows?).map(Some)
        })
        .await
    }

    async fn remove_sign(&mut self) -> Result<()> {
        self.rows(which::NO_SIGN).await.map(drop)
    }

    async fn archiver(&mut self) -> Result<Option<ArchiverState>> {
        let rows = self.rows(statements::archiver()).await?;
        statements::read_archiver(&rows).map(Some)
    }

    async fn start(&mut self, request: &StartRequest) -> Result<StartedBackup> {
        let rows = self.rows(statements::start(self.version, request)?).await?;
        statements::read_start(&rows)
    }

    async fn alive(&mut self) -> Result<()> {
        self.rows("SELECT 1").await.map(drop)
    }

    async fn lost(&mut self) -> Error {
        // An error means that the thread is gone, which is a loss as well.
        let _ = self.lost.wait_for(Option::is_some).await;
        self.loss()
    }

    async fn stop(&mut self) -> Result<StoppedBackup> {
        let rows = self.rows(statements::stop(self.version)).await?;
        statements::read_stop(&rows)
    }

    async fn switch_wal(&mut self) -> Result<()> {
        if self.in_recovery().await? {
            return Ok(());
        }
        self.rows(statements::SWITCH_WAL).await.map(drop)
    }

    async fn flushed_lsn(&mut self) -> Result<Lsn> {
        let sql = if self.in_recovery().await? { statements::FLUSHED_STANDBY } else { statements::FLUSHED_PRIMARY };
        let rows = self.rows(sql).await?;
        statements::text(statements::one(&rows, 1)?, 0)?.parse()
    }

    async fn restore_point(&mut self, name: &str) -> Result<()> {
        let sql = statements::restore_point(name)?;
        if self.in_recovery().await? {
            return Ok(());
        }
        self.rows(sql).await.map(drop)
    }

    async fn close(&mut self) {
        self.cancel_pending();
        self.jobs = None;
        if let Some(ended) = self.ended.take() {
            // A server that does not answer keeps its thread until the operating system gives the connection up.
            let _ = tokio::time::timeout(CLOSE_LIMIT, ended).await;
        }
    }
}

impl Drop for PostgresControl {
    fn drop(&mut self) {
        if self.jobs.is_some() {
            self.cancel_pending();
        }
    }
}

impl fmt::Debug for PostgresControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresControl")
            .field("host", &self.host)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// What cancelling a statement needs: a second, short connection, made the same way as the first.
#[derive(Clone)]
struct Cancel {
    token: CancelToken,
    tls: Option<MakeRustlsConnect>,
}

impl Cancel {
    /// Sends the request from a thread of its own, because the crate blocks and this may be called by a runtime.
    fn send(&self) {
        let Self { token, tls } = self.clone();
        let spawned = std::thread::Builder::new().name("barman-snap-cancel".to_owned()).spawn(move || {
            let result = match tls {
                Some(tls) => token.cancel_query(tls),
                None => token.cancel_query(NoTls),
            };
            if let Err(error) = result {
                tracing::debug!(%error, "cannot cancel a statement");
            }
        });
        if let Err(error) = spawned {
            tracing::debug!(%error, "cannot start a thread to cancel a statement");
        }
    }
}

/// What the opener has to know of a session.
struct Ready {
    cancel: Cancel,
    host: String,
    version: u32,
}

/// The connection, on its thread.
struct Session {
    client: Client,
    loss: Option<Loss>,
}

impl Session {
    fn open(params: &ConnectParams) -> Result<(Self, Ready)> {
        let connect::Opened { client, tls, host, version } = connect::open(params)?;
        let ready = Ready { cancel: Cancel { token: client.cancel_token(), tls }, host, version };
        let mut session = Self { client, loss: None };
        session.rows(&statements::session(version, params.time_zone.as_deref())?)?;
        Ok((session, ready))
    }

    /// Does what is asked until the other side is dropped or the connection is lost.
    fn serve(&mut self, queue: &mpsc::Receiver<Job>, lost: &watch::Sender<Option<Loss>>) {
        let mut looks = 0;
        loop {
            match queue.recv_timeout(LOOK) {
                Ok(job) => {
                    looks = 0;
                    job(self);
                }
                Err(RecvTimeoutError::Timeout) => {
                    looks += 1;
                    self.look(looks % LOOKS_PER_ROUND_TRIP == 0);
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if let Some(loss) = &self.loss {
                tracing::warn!("{}", loss.error());
                lost.send_replace(Some(loss.clone()));
                return;
            }
        }
    }

    /// Reads what the server has sent by itself, which is how a loss shows; now and then also asks it something.
    fn look(&mut self, round_trip: bool) {
        let mut result = if round_trip { self.client.is_valid(ROUND_TRIP_LIMIT) } else { Ok(()) };
        if result.is_ok() {
            // Not `iter`: without waiting at all, the crate never learns that the socket has become readable.
            let mut notifications = self.client.notifications();
            let mut pending = notifications.timeout_iter(Duration::from_millis(1));
            result = loop {
                match pending.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
        }
        match result {
            Err(error) => self.loss = Some(Loss::of(&error)),
            Ok(()) if self.client.is_closed() => self.loss = Some(Loss::new("the server closed it")),
            Ok(()) => {}
        }
    }

    /// Runs statements; notices when the connection does not survive them.
    fn rows(&mut self, sql: &str) -> Result<Rows> {
        if let Some(loss) = &self.loss {
            return Err(loss.error());
        }
        rows(&mut self.client, sql).map_err(|error| {
            if errors::is_fatal(&error) || self.client.is_closed() {
                let loss = Loss::of(&error);
                self.loss = Some(loss.clone());
                // Whether the statement took effect before the connection went cannot be told.
                return loss.error().with_retry(Retry::Unknown);
            }
            errors::statement(error)
        })
    }
}

/// The rows of all statements in `sql`.
pub(super) fn rows(client: &mut Client, sql: &str) -> Result<Rows, postgres::Error> {
    let mut rows = Rows::new();
    for message in client.simple_query(sql)? {
        if let SimpleQueryMessage::Row(row) = message {
            let mut values = Vec::with_capacity(row.len());
            for at in 0..row.len() {
                values.push(row.try_get(at)?.map(str::to_owned));
            }
            rows.push(values);
        }
    }
    Ok(rows)
}
