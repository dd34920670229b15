//! A PostgreSQL that follows a script: for rehearsing what a real one does too rarely.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, FixedOffset};

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Lsn, SegmentSize, Tablespace, Timeline};
use crate::postgres::{
    ArchiverState, BackupControl, ServerFacts, ServerIdentity, Sign, StartRequest, StartedBackup, StoppedBackup,
    TablespaceUse,
};

/// The file that shows the data directory, in it.
const SIGN: &str = "pg_snapshots/00000003-0000001B-1";

/// The server: shared by all its connections, so that a test can look at it and break it.
#[derive(Clone, Debug)]
pub struct ScriptedPostgres {
    inner: Arc<Mutex<Server>>,
}

#[derive(Debug)]
struct Server {
    facts: ServerFacts,
    lsn: u64,
    backups_open: usize,
    starts: usize,
    lose_connection: Option<String>,
    missing_privilege: Option<String>,
    promoted: bool,
    archiver: Option<ArchiverState>,
    identity: Option<ServerIdentity>,
    created_at_start: Option<Tablespace>,
}

impl Server {
    fn tablespaces_now(&self) -> Vec<Tablespace> {
        let created = self.created_at_start.iter().filter(|_| self.starts > 0);
        self.facts.tablespaces.iter().chain(created).cloned().collect()
    }
}

impl ScriptedPostgres {
    /// A PostgreSQL 17 primary whose cluster lies in `data_directory`. Its archiver counts as working.
    pub fn new(data_directory: impl Into<PathBuf>, tablespaces: Vec<Tablespace>) -> Self {
        let now = DateTime::<FixedOffset>::parse_from_rfc3339("2026-05-29T10:11:13.123456+00:00").unwrap_or_default();
        let facts = ServerFacts {
            version: 170_011,
            system_id: "7406321547896325411".into(),
            in_recovery: false,
            data_directory: data_directory.into(),
            config_file: None,
            hba_file: None,
            ident_file: None,
            included_files: Vec::new(),
            tablespaces,
            segment_size: SegmentSize::DEFAULT,
            data_checksums: "on".into(),
            summarize_wal: Some("off".into()),
            archive_mode: "on".into(),
            archive_command: "true".into(),
            cluster_size: Some(1 << 30),
            settings: BTreeMap::new(),
            now,
        };
        let server = Server {
            facts,
            lsn: 0x900_0028,
            backups_open: 0,
            starts: 0,
            lose_connection: None,
            missing_privilege: None,
            promoted: false,
            archiver: None,
            identity: None,
            created_at_start: None,
        };
        Self { inner: Arc::new(Mutex::new(server)) }
    }

    /// A new connection.
    pub fn connect(&self) -> Box<dyn BackupControl> {
        Box::new(Connection { server: self.clone(), open: false, closed: false })
    }

    /// Changes the facts.
    pub fn set_facts(&self, change: impl FnOnce(&mut ServerFacts)) {
        change(&mut self.lock().facts);
    }

    /// From now on every use of a connection says that it is lost.
    pub fn lose_connections(&self, why: &str) {
        self.lock().lose_connection = Some(why.to_owned());
    }

    /// The privilege check fails with this message.
    pub fn deny(&self, what: &str) {
        self.lock().missing_privilege = Some(what.to_owned());
    }

    /// What the archiver has done.
    pub fn set_archiver(&self, state: ArchiverState) {
        self.lock().archiver = Some(state);
    }

    /// From now on the server tells which one it is, and shows it by a file in its data directory.
    pub fn set_identity(&self, identity: ServerIdentity) {
        self.lock().identity = Some(identity);
    }

    /// Somebody creates a tablespace while a backup starts.
    pub fn create_tablespace_at_start(&self, tablespace: Tablespace) {
        self.lock().created_at_start = Some(tablespace);
    }

    /// The server goes to the next timeline, as after a promotion.
    pub fn promote(&self) {
        self.lock().promoted = true;
    }

    /// How many connections are in backup mode.
    pub fn backups_open(&self) -> usize {
        self.lock().backups_open
    }

    /// How many backups were ever started.
    pub fn starts(&self) -> usize {
        self.lock().starts
    }

    fn lock(&self) -> MutexGuard<'_, Server> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection.
#[derive(Debug)]
struct Connection {
    server: ScriptedPostgres,
    open: bool,
    closed: bool,
}

impl Connection {
    fn use_it(&self) -> Result<MutexGuard<'_, Server>> {
        let server = self.server.lock();
        match &server.lose_connection {
            Some(why) => Err(Error::new(ErrorKind::Postgres, format!("connection lost: {why}"))),
            None if self.closed => Err(Error::new(ErrorKind::Postgres, "connection is closed")),
            None => Ok(server),
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            self.server.lock().backups_open -= 1;
        }
        self.closed = true;
    }
}

impl Drop for Connection {
    // As PostgreSQL does: a backup ends with its connection.
    fn drop(&mut self) {
        self.end();
    }
}

#[async_trait]
impl BackupControl for Connection {
    async fn facts(&mut self) -> Result<ServerFacts> {
        Ok(self.use_it()?.facts.clone())
    }

    async fn tablespaces(&mut self) -> Result<Vec<Tablespace>> {
        Ok(self.use_it()?.tablespaces_now())
    }

    async fn tablespace_uses(&mut self, _named: &[String]) -> Result<Vec<TablespaceUse>> {
        let of = |one: &Tablespace| TablespaceUse { name: one.name.clone(), ..TablespaceUse::default() };
        Ok(self.use_it()?.facts.tablespaces.iter().map(of).collect())
    }

    async fn check_privileges(&mut self) -> Result<()> {
        match &self.use_it()?.missing_privilege {
            Some(what) => Err(Error::new(ErrorKind::PermissionDenied, what.clone())),
            None => Ok(()),
        }
    }

    async fn identity(&mut self) -> Result<Option<ServerIdentity>> {
        Ok(self.use_it()?.identity.clone())
    }

    async fn leave_sign(&mut self) -> Result<Option<Sign>> {
        let server = self.use_it()?;
        let Some(identity) = &server.identity else { return Ok(None) };
        let sign = Sign { file: SIGN.into(), line: format!("pid:{}", identity.backend) };
        let path = server.facts.data_directory.join(&sign.file);
        let made = std::fs::create_dir_all(path.with_file_name("")).and_then(|()| std::fs::write(&path, &sign.line));
        made.map_err(|error| Error::io("write", &path, error))?;
        Ok(Some(sign))
    }

    async fn remove_sign(&mut self) -> Result<()> {
        let path = self.use_it()?.facts.data_directory.join(SIGN);
        std::fs::remove_file(&path).map_err(|error| Error::io("remove", &path, error))
    }

    async fn archiver(&mut self) -> Result<Option<ArchiverState>> {
        Ok(self.use_it()?.archiver.clone())
    }

    async fn start(&mut self, _request: &StartRequest) -> Result<StartedBackup> {
        let already = self.open;
        let mut server = self.use_it()?;
        if already {
            // Errcode 55000, as PostgreSQL says it.
            return Err(Error::new(ErrorKind::Postgres, "a backup is already in progress in this session")
                .with_sqlstate("55000"));
        }
        server.backups_open += 1;
        server.starts += 1;
        let started = StartedBackup {
            lsn: Lsn(server.lsn),
            timeline: Timeline(1),
            time: server.facts.now,
            in_recovery: server.facts.in_recovery,
        };
        drop(server);
        self.open = true;
        Ok(started)
    }

    async fn alive(&mut self) -> Result<()> {
        self.use_it().map(drop)
    }

    async fn lost(&mut self) -> Error {
        loop {
            if let Err(error) = self.use_it() {
                return error;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn stop(&mut self) -> Result<StoppedBackup> {
        let open = self.open;
        let mut server = self.use_it()?;
        if !open {
            return Err(Error::new(ErrorKind::Postgres, "backup is not in progress").with_sqlstate("55000"));
        }
        server.backups_open -= 1;
        let begin = Lsn(server.lsn);
        let end = Lsn(server.lsn + 0x110);
        server.lsn = (server.lsn | 0xFF_FFFF) + 0x29;
        let stopped = StoppedBackup {
            lsn: end,
            timeline: Timeline(if server.promoted { 2 } else { 1 }),
            time: server.facts.now + chrono::Duration::seconds(1),
            label: format!("START WAL LOCATION: {begin} (file 000000010000000000000009)\n"),
            tablespace_map: String::new(),
        };
        drop(server);
        self.open = false;
        Ok(stopped)
    }

    async fn switch_wal(&mut self) -> Result<()> {
        self.use_it().map(drop)
    }

    async fn flushed_lsn(&mut self) -> Result<Lsn> {
        Ok(Lsn(self.use_it()?.lsn))
    }

    async fn restore_point(&mut self, _name: &str) -> Result<()> {
        self.use_it().map(drop)
    }

    async fn close(&mut self) {
        self.end();
    }
}
