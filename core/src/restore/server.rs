//! A private PostgreSQL: started on a restored data directory, reachable for nobody but us, and stopped again.
//!
//! # The invariant
//! It cannot touch the original. It listens on no network, only on a socket in a private directory; archives nothing; has
//! no connection to a primary, no workers of logical replication (which would go on with the subscriptions of the
//! original), no libraries that run by themselves, no autovacuum; and reads a configuration of its own, none of the
//! original's. The decisive settings are given on the command line, which wins over every file.
//!
//! PostgreSQL refuses to run as root; when we are root the server runs as the owner of the data directory.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use postgres::{NoTls, SimpleQueryMessage};
use tokio::process::{Child, Command};

use super::plan::Owner;
use super::provision::blocking;
use super::settings::{Setting, conf_quoted};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// The directory with the programs of one major version of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// The directory.
    pub directory: PathBuf,
    /// What `postgres --version` says.
    pub version: String,
}

impl Binaries {
    /// Finds the programs of PostgreSQL `major`: in `given`, else in the directories of `$BARMAN_SNAP_PG_BIN_DIRS`, those
    /// of `PATH`, `/usr/lib/postgresql/<major>/bin` (Debian), `/usr/pgsql-<major>/bin` (Red Hat), and what `pg_config` says.
    ///
    /// # Errors
    /// `precondition` when there are none of that version; it names the places.
    pub async fn find(major: u32, given: Option<&Path>) -> Result<Self> {
        let places = match given {
            Some(directory) => vec![directory.to_owned()],
            None => usual_places(major).await,
        };
        for directory in &places {
            let Some(version) = version_of(&directory.join("postgres")).await else { continue };
            if major_of(&version) == Some(major) {
                return Ok(Self { directory: directory.clone(), version });
            }
        }
        let looked: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        Err(Error::precondition(format!("no PostgreSQL {major} found in {}", looked.join(", "))).with_hint(
            "install it, or name the directory of its programs with --pg-bin-dir or $BARMAN_SNAP_PG_BIN_DIRS",
        ))
    }

    /// The path of a program, if it is there.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        Some(self.directory.join(name)).filter(|path| path.is_file())
    }
}

async fn usual_places(major: u32) -> Vec<PathBuf> {
    let listed = |name: &str| std::env::var_os(name).map(|value| std::env::split_paths(&value).collect::<Vec<_>>());
    let mut places = listed("BARMAN_SNAP_PG_BIN_DIRS").unwrap_or_default();
    places.extend(listed("PATH").unwrap_or_default().into_iter().filter(|place| place.join("postgres").is_file()));
    places.push(format!("/usr/lib/postgresql/{major}/bin").into());
    places.push(format!("/usr/pgsql-{major}/bin").into());
    let asked = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).kill_on_drop(true).output().await;
    places.extend(asked.ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned().into()));
    places.dedup();
    places
}

async fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stderr(Stdio::null()).kill_on_drop(true).output().await.ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|text| !text.is_empty())
}

/// The major version in `postgres (PostgreSQL) 17.2 (Debian …)` or `18beta1`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    number.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// What a private server is started with.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// The programs.
    pub binaries: Binaries,
    /// The restored data directory.
    pub pgdata: PathBuf,
    /// A private directory for its configuration, log and socket; it exists.
    pub work: PathBuf,
    /// The major version.
    pub major: u32,
    /// Settings besides ours: what recovery needs at least as high as the original had it, and the user's.
    pub settings: Vec<Setting>,
    /// Roles to connect as; the first that exists is taken.
    pub users: Vec<String>,
}

/// A running private server. Dropping it kills it.
#[derive(Debug)]
pub struct PrivateServer {
    spec: ServerSpec,
    child: Child,
    sockets: PathBuf,
    user: Option<String>,
}

/// The port is a part of the name of the socket only.
const PORT: u16 = 5432;

/// Longest path of a socket on Linux, with its end; PostgreSQL refuses longer ones.
const LONGEST_SOCKET: usize = 107;

impl PrivateServer {
    /// Starts the server; it is recovering afterwards, not yet open.
    pub async fn start(spec: ServerSpec) -> Result<Self> {
        let run_as = run_as(&spec.pgdata)?;
        let sockets = write_configuration(&spec, run_as)?;
        let log = fs::File::create(spec.work.join("server.log"))
            .map_err(|error| Error::io("write", spec.work.join("server.log"), error))?;
        let also = log.try_clone().map_err(|error| Error::io("write", spec.work.join("server.log"), error))?;
        let mut command = program(&spec.binaries, "postgres", run_as, &spec.pgdata)?;
        command
            .arg("-D")
            .arg(&spec.pgdata)
            .arg("-c")
            .arg(config_option("config_file", &spec.work.join("postgresql.conf")));
        for setting in isolation(spec.major) {
            command.arg("-c").arg(format!("{}={}", setting.name, setting.value));
        }
        command.stdout(log).stderr(also);
        let child =
            command.spawn().map_err(|error| Error::io("start", spec.binaries.directory.join("postgres"), error))?;
        Ok(Self { spec, child, sockets, user: None })
    }

    /// Waits until recovery has ended and the server is open for writing.
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
        loop {
            go_on()?;
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failure(format!("the restored server stopped during recovery: {status}")));
            }
            match self.is_open().await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.kind() == ErrorKind::InvalidInput => return Err(error),
                Err(error) => tracing::debug!(error = error.chain(), "not open yet"),
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

    /// True when a connection is answered and recovery is over. Finds out as whom one may connect.
    async fn is_open(&mut self) -> Result<bool> {
        let users = self.user.clone().map_or_else(|| self.spec.users.clone(), |user| vec![user]);
        for user in &users {
            match query(&self.sockets, user, "template1", "SELECT pg_catalog.pg_is_in_recovery()").await {
                Ok(rows) => {
                    self.user = Some(user.clone());
                    return Ok(rows
                        .first()
                        .and_then(|row| row.first())
                        .is_some_and(|value| value.as_deref() == Some("f")));
                }
                // invalid_authorization_specification: no such role, or it may not log in.
                Err(error) if error.sqlstate() == Some("28000") => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::invalid(format!("the restored server knows none of the roles {}", users.join(", ")))
            .with_hint("name a superuser of the cluster with --verify-user"))
    }

    /// The role that is used.
    pub fn user(&self) -> &str {
        self.user.as_deref().unwrap_or("postgres")
    }

    /// Runs SQL in a database and returns all rows as text.
    pub async fn query(&self, database: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        query(&self.sockets, self.user(), database, sql).await
    }

    /// Runs a client program of this version against the server; its output and whether it succeeded.
    pub async fn client(&self, name: &str, arguments: &[&str]) -> Result<(bool, String)> {
        let mut command = program(&self.spec.binaries, name, run_as(&self.spec.pgdata)?, &self.spec.pgdata)?;
        command.arg("--host").arg(&self.sockets).arg("--port").arg(PORT.to_string());
        command.arg("--username").arg(self.user()).args(arguments);
        output_of(command, name).await
    }

    /// Stops it cleanly ("fast"), with a checkpoint; kills it after `limit`.
    pub async fn stop(&mut self, limit: Duration, clock: &dyn Clock) -> Result<()> {
        self.signal(rustix::process::Signal::INT);
        let stopped = tokio::select! {
            status = self.child.wait() => Some(status),
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
            _ = self.child.wait() => {}
            () = clock.sleep(Duration::from_secs(10)) => {
                if let Err(error) = self.child.kill().await {
                    tracing::warn!(%error, "cannot kill the restored server");
                }
            }
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> Vec<String> {
        let text = fs::read(self.spec.work.join("server.log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<_> = text.lines().filter(|line| !is_noise(line)).map(str::to_owned).collect();
        lines[lines.len().saturating_sub(20)..].to_vec()
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

/// Our own attempts to connect before the server is open.
fn is_noise(line: &str) -> bool {
    line.contains("the database system is starting up") || line.contains("not yet accepting connections")
}

/// Runs `pg_checksums --check` on a stopped data directory.
pub(super) async fn check_checksums(binaries: &Binaries, pgdata: &Path) -> Result<(bool, String)> {
    let mut command = program(binaries, "pg_checksums", run_as(pgdata)?, pgdata)?;
    command.arg("--check").arg("-D").arg(pgdata);
    output_of(command, "pg_checksums").await
}

async fn output_of(mut command: Command, name: &str) -> Result<(bool, String)> {
    let output = command.output().await.map_err(|error| Error::io("run", name, error))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).trim().to_owned()))
}

/// A program of PostgreSQL that cannot be led to another server by our environment.
fn program(binaries: &Binaries, name: &str, run_as: Option<Owner>, pgdata: &Path) -> Result<Command> {
    let path = binaries
        .program(name)
        .ok_or_else(|| Error::not_found(format!("no {name} in {}", binaries.directory.display())))?;
    let mut command = Command::new(path);
    let ours = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with("PG") || name.starts_with("LC_"));
    for (variable, _) in std::env::vars_os().filter(|(variable, _)| ours(variable)) {
        command.env_remove(variable);
    }
    command.env("LC_ALL", "C").current_dir(pgdata).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(owner) = run_as {
        command.uid(owner.uid).gid(owner.gid);
    }
    Ok(command)
}

/// As whom the server must run: as ourselves, or, when we are root, as the owner of its data directory.
fn run_as(pgdata: &Path) -> Result<Option<Owner>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let meta = fs::metadata(pgdata).map_err(|error| Error::io("look at", pgdata, error))?;
    if meta.uid() == 0 {
        return Err(Error::precondition(format!(
            "{} belongs to root, and PostgreSQL refuses to run as root",
            pgdata.display()
        ))
        .with_hint("name its user with --owner"));
    }
    Ok(Some(Owner { uid: meta.uid(), gid: meta.gid() }))
}

/// The settings that keep the server away from everything else. They stand on the command line.
fn isolation(major: u32) -> Vec<Setting> {
    let mut settings: Vec<_> = [
        ("listen_addresses", ""),
        ("port", "5432"),
        ("archive_mode", "off"),
        ("archive_cleanup_command", ""),
        ("recovery_end_command", ""),
        ("primary_conninfo", ""),
        ("primary_slot_name", ""),
        ("max_logical_replication_workers", "0"),
        ("synchronous_standby_names", ""),
        ("ssl", "off"),
        ("autovacuum", "off"),
        ("logging_collector", "off"),
        ("log_destination", "stderr"),
        ("external_pid_file", ""),
        ("hot_standby", "on"),
    ]
    .map(|(name, value)| Setting::new(name, value))
    .into();
    if major >= 17 {
        // Triggers on login would run for our own connections.
        settings.push(Setting::new("event_triggers", "off"));
    }
    settings
}

/// Writes configuration files of its own; returns the directory of the socket.
fn write_configuration(spec: &ServerSpec, run_as: Option<Owner>) -> Result<PathBuf> {
    let sockets = spec.work.join("s");
    let length = sockets.as_os_str().len() + format!("/.s.PGSQL.{PORT}.lock").len();
    if length > LONGEST_SOCKET {
        return Err(Error::precondition(format!("the path {} is too long for a socket", sockets.display()))
            .with_hint("name a shorter directory with --work-dir"));
    }
    let write = |name: &str, content: &str| {
        let path = spec.work.join(name);
        fs::write(&path, content).map_err(|error| Error::io("write", &path, error))?;
        give(&path, run_as)
    };
    fs::create_dir(&sockets).map_err(|error| Error::io("make the directory", &sockets, error))?;
    give(&sockets, run_as)?;
    fs::set_permissions(&sockets, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .map_err(|error| Error::io("change the mode of", &sockets, error))?;
    let place = |name: &str| conf_quoted(&spec.work.join(name).to_string_lossy());
    let mut text = format!(
        "data_directory = {}\nhba_file = {}\nident_file = {}\nunix_socket_directories = {}\n\
         unix_socket_permissions = 0700\nshared_buffers = '32MB'\nhuge_pages = off\nfsync = off\n\
         full_page_writes = off\njit = off\n",
        conf_quoted(&spec.pgdata.to_string_lossy()),
        place("pg_hba.conf"),
        place("pg_ident.conf"),
        place("s"),
    );
    for setting in &spec.settings {
        text.push_str(&format!("{} = {}\n", setting.name, conf_quoted(&setting.value)));
    }
    write("postgresql.conf", &text)?;
    // The directory of the socket is private; who can reach it is us.
    write("pg_hba.conf", "local all all trust\n")?;
    write("pg_ident.conf", "")?;
    give(&spec.work, run_as)?;
    Ok(sockets)
}

fn config_option(name: &str, path: &Path) -> std::ffi::OsString {
    let mut option = std::ffi::OsString::from(name);
    option.push("=");
    option.push(path);
    option
}

pub(super) fn give(path: &Path, owner: Option<Owner>) -> Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))
        .map_err(|error| Error::io("change the owner of", path, error))
}

/// One connection, one text of SQL, all rows. On a thread of its own, because the client blocks.
async fn query(sockets: &Path, user: &str, database: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
    let mut config = postgres::Config::new();
    config.host_path(sockets).port(PORT).user(user).dbname(database);
    config.connect_timeout(Duration::from_secs(10)).application_name("barman-snap verify");
    let sql = sql.to_owned();
    blocking(move || {
        let mut client = config.connect(NoTls).map_err(|error| sql_error(&error))?;
        let messages = client.simple_query(&sql).map_err(|error| sql_error(&error))?;
        let row = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()),
            _ => None,
        };
        Ok(messages.iter().filter_map(row).collect())
    })
    .await
}

fn sql_error(error: &postgres::Error) -> Error {
    let message = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
    let ours = Error::new(ErrorKind::Postgres, message);
    match error.code() {
        Some(code) => ours.with_sqlstate(code.code()),
        None => ours,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_the_program_says() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.4 (Debian 15.4-1)", Some(15)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 9.6.24", Some(9)),
            ("psql 15", None),
        ] {
            assert_eq!(major_of(text), major, "{text}");
        }
    }
}
