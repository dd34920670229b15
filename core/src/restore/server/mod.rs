//! A private PostgreSQL: started on a restored data directory, reachable for nobody but us, and stopped again.
//!
//! It reads the configuration that was restored, so that it starts if and only if the restored server will; what is added
//! ([`isolation`]) stands on its command line, which wins over every file.
//!
//! # The invariants
//! * It cannot touch the original: it listens on no network, only on a socket in a private directory; archives nothing; has
//!   no connection to a primary, and no background workers, neither of logical replication (which would go on with the
//!   subscriptions of the original) nor of an extension.
//! * Where the kernel lets us, it cannot write to anything but its own place ([`contain`]).
//! * It does not outlive this process ([`START`]).

mod binaries;
mod contain;
mod isolation;
mod query;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

pub use binaries::Binaries;
pub(super) use binaries::{check_checksums, configured};
use binaries::{output_of, private, program, run_as};
use contain::Containment;
use isolation::Files;
use query::query;

use super::plan::Owner;
use super::settings::Setting;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// What a private server is started with.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// The programs.
    pub binaries: Binaries,
    /// The restored data directory.
    pub pgdata: PathBuf,
    /// A private directory for its log, socket and rules of access; it exists.
    pub work: PathBuf,
    /// The major version.
    pub major: u32,
    /// The file with the rules of access that the restored server will read.
    pub hba: PathBuf,
    /// Settings besides ours.
    pub settings: Vec<Setting>,
    /// Roles to connect as; the first that may is taken. If none may, one is made.
    pub users: Vec<String>,
    /// The name of the role that is made then.
    pub spare_user: String,
    /// Where alone it may write, if the kernel lets us see to that; `None` to leave it.
    pub places: Option<Vec<PathBuf>>,
}

/// A running private server. Dropping it kills it.
#[derive(Debug)]
pub struct PrivateServer {
    spec: ServerSpec,
    child: Child,
    files: Files,
    /// As whom its programs run: decided before anything of the backup did.
    user: Option<Owner>,
    kept: Containment,
    login: Option<Login>,
}

/// As whom and where a connection was possible.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Login {
    user: String,
    database: String,
}

/// The port is a part of the name of the socket only.
const PORT: u16 = 5432;

/// How much of the end of its log is read: what runs in it may write what it wants there.
const LOG_READ: u64 = 64 << 10;

/// Databases that every cluster has after `initdb`; each may have been dropped, or closed for connections.
const DATABASES: [&str; 2] = ["postgres", "template1"];

/// Starts PostgreSQL so that it ends when this process does, however that ends: a background process reads the pipe that only
/// we hold the other end of. At its end it asks the server to stop, if that is still the one that it was started for.
///
/// A shell, because what runs between fork and exec in a process with threads cannot be safe Rust.
const START: &str = r#"exec 3<&0 </dev/null
( ( cat <&3; [ "$(head -n 1 postmaster.pid)" = $$ ] && kill -QUIT $$ ) >/dev/null 2>&1 & )
exec 3<&- "$@""#;

impl PrivateServer {
    /// Starts the server; it is recovering afterwards, not yet open.
    pub async fn start(spec: ServerSpec) -> Result<Self> {
        let user = run_as(&spec.pgdata)?;
        let files = isolation::write_files(&spec, user).await?;
        let kept = Containment::of(spec.places.as_deref(), user, &spec.pgdata).await;
        let child = launch(&spec, &files, user, &kept)?;
        Ok(Self { spec, child, files, user, kept, login: None })
    }

    /// Waits until recovery has ended and the server is open for writing, and finds out as whom one may connect.
    ///
    /// # Errors
    /// `postgres` with the last lines of its log when it stops or is not open within `limit`.
    pub async fn wait_until_open(
        &mut self,
        limit: Duration,
        clock: &dyn Clock,
        go_on: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<()> {
        let started = clock.monotonic();
        let mut way_in_made = false;
        loop {
            go_on()?;
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failure(format!("the restored server stopped during recovery: {status}")));
            }
            match self.knock().await {
                Door::Open(login) => {
                    self.login = Some(login);
                    return Ok(());
                }
                Door::Closed => {}
                Door::Locked(why) if way_in_made => {
                    return Err(self.failure(format!("cannot connect to the restored server: {why}")));
                }
                Door::Locked(why) => {
                    tracing::debug!(why, "nobody known may connect: making a role for it");
                    self.make_a_way_in(clock).await?;
                    way_in_made = true;
                }
            }
            let waited = clock.monotonic().saturating_sub(started);
            if waited >= limit {
                return Err(
                    self.failure(format!("the restored server did not end recovery within {} s", limit.as_secs()))
                );
            }
            clock.sleep(Duration::from_millis(if waited.as_secs() < 5 { 100 } else { 1000 })).await;
        }
    }

    /// Tries to connect as each role to each database. Without hot standby the server lets nobody in before recovery is over.
    async fn knock(&self) -> Door {
        let mut locked = None;
        let session = isolation::session(self.spec.major);
        for user in &self.spec.users {
            for database in DATABASES {
                let tried = query(&self.files.sockets, user, database, &session, SUPERUSER).await;
                match tried {
                    Ok(rows) if rows == [[Some("t f".to_owned())]] => {
                        return Door::Open(Login { user: user.clone(), database: database.to_owned() });
                    }
                    Ok(rows) => locked = Some(format!("{user} is no superuser ({rows:?})")),
                    // Class 57 is "the database system is starting up"; without any code nobody listens yet.
                    Err(error) if error.sqlstate().is_none_or(|code| code.starts_with("57")) => return Door::Closed,
                    Err(error) => locked = Some(error.message().to_owned()),
                }
            }
        }
        Door::Locked(locked.unwrap_or_default())
    }

    /// Stops the server, adds a role with PostgreSQL's single-user mode, which asks nobody for a name, and starts it again.
    async fn make_a_way_in(&mut self, clock: &dyn Clock) -> Result<()> {
        self.stop(Duration::from_secs(300), clock).await?;
        let name = &self.spec.spare_user;
        let mut said = String::new();
        for database in DATABASES {
            let postgres = program(&self.spec.binaries, "postgres", self.user, &self.spec.pgdata)?;
            let mut command = match self.user {
                Some(owner) => {
                    let mut command = binaries::shell_as(owner, &self.spec.pgdata, &self.kept);
                    command.arg("-c").arg("exec \"$@\"").arg("sh").arg(postgres.as_std().get_program());
                    command
                }
                None => postgres,
            };
            command.arg("--single").arg("-D").arg(&self.spec.pgdata);
            add_settings(&mut command, &self.spec, &self.files.sockets);
            command.arg(database).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let statements = format!(
                "CREATE ROLE {name} SUPERUSER LOGIN\nALTER DATABASE template1 ALLOW_CONNECTIONS true\n\
                 ALTER DATABASE postgres ALLOW_CONNECTIONS true\n"
            );
            let mut child = command.spawn().map_err(|error| Error::io("start", "postgres --single", error))?;
            if let Some(mut input) = child.stdin.take() {
                // It may have ended already, and says why.
                let _ = input.write_all(statements.as_bytes()).await;
            }
            let output =
                child.wait_with_output().await.map_err(|error| Error::io("run", "postgres --single", error))?;
            said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned();
            if output.status.success() {
                self.spec.users = vec![name.clone()];
                self.child = launch(&self.spec, &self.files, self.user, &self.kept)?;
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Postgres, "cannot connect to the restored server, nor add a role to it")
            .with_context("postgres --single", said))
    }

    /// Runs SQL in the database that was found open, and returns all rows as text.
    pub async fn query_anywhere(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let login = self.login()?;
        query(&self.files.sockets, &login.user, &login.database, &isolation::session(self.spec.major), sql).await
    }

    /// Runs SQL of ours in a database, where it may make objects.
    pub async fn query_as_check(&self, database: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let session = isolation::session_of_checks(self.spec.major);
        query(&self.files.sockets, &self.login()?.user, database, &session, sql).await
    }

    /// Runs SQL of the user in a database and returns all rows as text.
    pub async fn query(&self, database: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        let session = isolation::session_of_the_user(self.spec.major);
        query(&self.files.sockets, &self.login()?.user, database, &session, sql).await
    }

    fn login(&self) -> Result<&Login> {
        self.login.as_ref().ok_or_else(|| Error::internal("the restored server is not open"))
    }

    /// Runs a client program of this version against the server; its output and whether it succeeded.
    pub async fn client(&self, name: &str, arguments: &[String]) -> Result<(bool, String)> {
        let login = self.login()?;
        let mut command = program(&self.spec.binaries, name, self.user, &self.spec.pgdata)?;
        command.env("PGOPTIONS", isolation::session_of_checks(self.spec.major));
        command.arg("--host").arg(&self.files.sockets).arg("--port").arg(PORT.to_string());
        command.arg("--username").arg(&login.user).args(arguments);
        output_of(command, name).await
    }

    /// Whether the kernel keeps it from writing outside of its own place.
    pub fn is_contained(&self) -> bool {
        self.kept.is_on()
    }

    /// As whom its programs run, if not as ourselves.
    pub(super) const fn user(&self) -> Option<Owner> {
        self.user
    }

    /// The database that was found open.
    pub fn database(&self) -> &str {
        self.login.as_ref().map_or(DATABASES[0], |login| &login.database)
    }

    /// Stops it cleanly ("fast"), with a checkpoint; kills it after `limit`.
    pub async fn stop(&mut self, limit: Duration, clock: &dyn Clock) -> Result<()> {
        self.signal(rustix::process::Signal::INT);
        let stopped = tokio::select! {
            status = wait(&mut self.child) => Some(status),
            () = clock.sleep(limit) => None,
        };
        match stopped {
            Some(Ok(status)) if status.success() => Ok(()),
            Some(Ok(status)) => Err(self.failure(format!("the restored server did not shut down cleanly: {status}"))),
            Some(Err(error)) => Err(Error::io("wait for", "postgres", error)),
            None => {
                let failure =
                    self.failure(format!("the restored server did not shut down within {} s", limit.as_secs()));
                self.kill(clock).await;
                Err(failure)
            }
        }
    }

    /// Ends it at once, without a checkpoint. Its processes are gone when this returns.
    pub async fn kill(&mut self, clock: &dyn Clock) {
        // An immediate shutdown lets the postmaster end its children; SIGKILL would leave them behind for a moment.
        self.signal(rustix::process::Signal::QUIT);
        tokio::select! {
            _ = wait(&mut self.child) => {}
            () = clock.sleep(Duration::from_secs(10)) => {
                if let Err(error) = self.child.kill().await {
                    tracing::warn!(%error, "cannot kill the restored server");
                }
            }
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> Vec<String> {
        let length = self.files.log.metadata().map_or(0, |meta| meta.len());
        let from = length.saturating_sub(LOG_READ);
        let mut text = vec![0; usize::try_from(length - from).unwrap_or(0)];
        let read = self.files.log.read_at(&mut text, from).unwrap_or(0);
        text.truncate(read);
        let text = String::from_utf8_lossy(&text).into_owned();
        // What is longer is cut in its first line.
        let whole = text.lines().skip(usize::from(from > 0));
        let lines: Vec<_> = whole.filter(|line| !is_noise(line)).map(str::to_owned).collect();
        lines[lines.len().saturating_sub(20)..].to_vec()
    }

    /// The lines of its log that `wanted` takes.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn log_lines(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let fail = |error| Error::io("read", self.spec.work.join("server.log"), error);
        let lines = BufReader::new(FromStart { file: &self.files.log, at: 0 }).split(b'\n');
        let mut found = Vec::new();
        for line in lines {
            let line = String::from_utf8_lossy(&line.map_err(fail)?).into_owned();
            found.extend(Some(line).filter(|line| wanted(line)));
        }
        Ok(found)
    }

    fn failure(&self, message: String) -> Error {
        let tail = self.log_tail();
        // The line that ended it says more than the last one, which is only "database system is shut down".
        let fatal = tail.iter().rev().find(|line| ["FATAL", "PANIC"].iter().any(|word| line.contains(word)));
        let said = fatal.or(tail.last()).map(|line| format!("; its log says: {line}")).unwrap_or_default();
        Error::new(ErrorKind::Postgres, message + &said).with_context("log", tail.join("\n"))
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(Err(error)) = pid.map(|pid| rustix::process::kill_process(pid, signal)) {
            tracing::debug!(%error, "the restored server is gone already");
        }
    }
}

/// Reads a file whose handle others write through, without moving it.
struct FromStart<'a> {
    file: &'a std::fs::File,
    at: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read_at(buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

/// What an attempt to connect has shown.
enum Door {
    /// One may.
    Open(Login),
    /// Nobody may, yet.
    Closed,
    /// The server is open, but for none of the roles.
    Locked(String),
}

const SUPERUSER: &str = "SELECT (SELECT CASE WHEN rolsuper THEN 't' ELSE 'f' END FROM pg_catalog.pg_roles \
     WHERE rolname OPERATOR(pg_catalog.=) session_user) OPERATOR(pg_catalog.||) \
     CASE WHEN pg_catalog.pg_is_in_recovery() THEN ' t' ELSE ' f' END";

/// Waits for the end of the server, with the pipe of [`START`] open until then: `Child::wait` alone would close it first.
async fn wait(child: &mut Child) -> std::io::Result<std::process::ExitStatus> {
    let pipe = child.stdin.take();
    let status = child.wait().await;
    drop(pipe);
    status
}

/// Starts the server process.
fn launch(spec: &ServerSpec, files: &Files, user: Option<Owner>, kept: &Containment) -> Result<Child> {
    let handle = || files.log.try_clone().map_err(|error| Error::io("write", spec.work.join("server.log"), error));
    let (log, also) = (handle()?, handle()?);
    let postgres = spec
        .binaries
        .program("postgres")
        .ok_or_else(|| Error::not_found(format!("no postgres in {}", spec.binaries.directory.display())))?;
    let mut command = match user {
        Some(owner) => binaries::shell_as(owner, &spec.pgdata, kept),
        None => private(Command::new("/bin/sh"), None, &spec.pgdata),
    };
    command.arg("-c").arg(START).arg("sh").arg(postgres).arg("-D").arg(&spec.pgdata);
    add_settings(&mut command, spec, &files.sockets);
    // A group of its own: what the terminal sends to us is ours to handle.
    command.stdin(Stdio::piped()).stdout(log).stderr(also).process_group(0);
    command.spawn().map_err(|error| Error::io("start", spec.binaries.directory.join("postgres"), error))
}

fn add_settings(command: &mut Command, spec: &ServerSpec, sockets: &Path) {
    for setting in isolation::settings(spec, sockets).iter().chain(&spec.settings) {
        command.arg("-c").arg(format!("{}={}", setting.name, setting.value));
    }
}

/// Our own attempts to connect before the server is open.
fn is_noise(line: &str) -> bool {
    line.contains("the database system is starting up")
        || line.contains("not yet accepting connections")
        || line.contains("the database system is not accepting connections")
        || line.contains("the database system is in recovery mode")
        || line.contains("the database system is shutting down")
        || line.contains("Hot standby mode is disabled")
}
