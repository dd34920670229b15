//! A cluster: a data directory and the server that runs on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Builder, Installation};
use crate::command::{Ran, attempt, run};
use crate::scratch::{Scratch, processes_below};
use crate::user;
use crate::wait::wait_for;

/// What a session asks for itself, and so wins over `ALTER ROLE … SET` and `ALTER DATABASE … SET`.
pub const CALM: &str = "-c session_preload_libraries= -c local_preload_libraries= -c session_replication_role=replica \
     -c default_transaction_read_only=off -c search_path=public -c role=none -c statement_timeout=30s -c lock_timeout=30s \
     -c idle_session_timeout=0 -c row_security=on";

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// In order, with a checkpoint.
    Fast,
    /// At once: it recovers when it starts again.
    Immediate,
}

/// A cluster. Dropping it stops the server and removes what [`Builder::start`] or [`Cluster::standby`] made.
///
/// Drop it before the file system it lies on: declare the file system first.
#[derive(Debug)]
pub struct Cluster {
    installation: Installation,
    data: PathBuf,
    port: u16,
    options: Vec<(String, String)>,
    tablespaces: Vec<(String, PathBuf)>,
    owned: Vec<PathBuf>,
    server_env: Vec<(String, String)>,
    user: String,
    database: String,
    scratch: Scratch,
}

impl Cluster {
    /// How a new cluster shall look.
    pub fn builder(installation: &Installation) -> Builder {
        Builder::new(installation.clone())
    }

    /// The cluster of an existing data directory, a restored one for example. It is not started, and not removed when
    /// this is dropped. Its server listens only on a socket of its own and archives nothing, whatever its files say.
    pub fn adopt(installation: &Installation, data: impl Into<PathBuf>) -> Self {
        let mut cluster = Self::over(installation.clone(), Scratch::new(), data.into(), 5432);
        cluster.option("archive_mode", "off");
        cluster
    }

    /// The cluster of a restored directory, started the way a person does it: with a port and a socket of its own beside
    /// the original, else with nothing but what its files say.
    pub fn adopt_as_it_is(installation: &Installation, data: impl Into<PathBuf>) -> Self {
        let mut cluster = Self::over(installation.clone(), Scratch::new(), data.into(), crate::s3::free_port());
        cluster.drop_option("listen_addresses");
        cluster
    }

    pub(super) fn over(installation: Installation, scratch: Scratch, data: PathBuf, port: u16) -> Self {
        let socket = scratch.path().display().to_string();
        let options = [("unix_socket_directories", socket.as_str()), ("listen_addresses", "")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
        Self {
            installation,
            data,
            port,
            options,
            tablespaces: Vec::new(),
            owned: Vec::new(),
            server_env: Vec::new(),
            user: "postgres".to_owned(),
            database: "postgres".to_owned(),
            scratch,
        }
    }

    /// Sets an option of the server's command line, which wins over its files, from the next start on.
    pub fn option(&mut self, name: &str, value: &str) {
        self.options.retain(|(old, _)| old != name);
        self.options.push((name.to_owned(), value.to_owned()));
    }

    /// Leaves it to the files of the server again.
    pub fn drop_option(&mut self, name: &str) {
        self.options.retain(|(old, _)| old != name);
    }

    /// Connects as another role than `postgres` from now on.
    pub fn set_user(&mut self, name: &str) {
        name.clone_into(&mut self.user);
    }

    /// Connects to another database than `postgres` from now on, where none is named.
    pub fn set_database(&mut self, name: &str) {
        name.clone_into(&mut self.database);
    }

    /// The database that it connects to where none is named.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The role that it connects as.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Variables of the server itself, and so of its archive_command and restore_command, from the next start on.
    pub fn set_env(&mut self, env: Vec<(String, String)>) {
        self.server_env = env;
    }

    pub(super) fn own(&mut self, paths: Vec<PathBuf>) {
        self.owned = paths;
    }

    /// Says which tablespaces it has, where [`Builder::tablespace`] has not made them.
    pub fn remember_tablespaces(&mut self, tablespaces: Vec<(String, PathBuf)>) {
        self.tablespaces = tablespaces;
    }

    /// Its programs.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// The major version: 17.
    pub fn version(&self) -> u32 {
        self.installation.version()
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The tablespaces that it was made with, names and places.
    pub fn tablespaces(&self) -> &[(String, PathBuf)] {
        &self.tablespaces
    }

    /// The directory of its socket, a short one.
    pub fn socket_dir(&self) -> &Path {
        self.scratch.path()
    }

    /// Its port: part of the socket's name, and that of the network where it was asked for.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How to connect, in the form of libpq.
    pub fn dsn(&self) -> String {
        let (user, database) = (quoted(&self.user), quoted(&self.database));
        format!("host={} port={} user={user} dbname={database}", self.socket_dir().display(), self.port)
    }

    /// How to connect, as libpq's variables.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("PGHOST", self.socket_dir().display().to_string()),
            ("PGPORT", self.port.to_string()),
            ("PGUSER", self.user.clone()),
            ("PGDATABASE", self.database.clone()),
        ]
    }

    /// One of its programs, set up to connect to it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.installation.command(program);
        command.envs(self.env());
        command
    }

    /// Starts it and waits until it takes connections.
    #[track_caller]
    pub fn start(&self) {
        let ran = self.try_start();
        assert!(ran.success(), "PostgreSQL does not start: {}{}\n--- log\n{}", ran.stdout, ran.stderr, self.log());
    }

    /// Starts it, which may fail.
    pub fn try_start(&self) -> Ran {
        let mut options = vec![format!("-p {}", self.port)];
        options.extend(self.options.iter().map(|(name, value)| format!("-c {name}='{value}'")));
        let mut pg_ctl = self.pg_ctl("start");
        attempt(pg_ctl.args(["-w", "-t", "120", "-o"]).arg(options.join(" ")).arg("-l").arg(self.log_file()))
    }

    /// Stops it.
    #[track_caller]
    pub fn stop(&self, how: Stop) {
        let mode = match how {
            Stop::Fast => "fast",
            Stop::Immediate => "immediate",
        };
        run(self.pg_ctl("stop").args(["-w", "-t", "120", "-m", mode]));
    }

    /// Ends all its processes at once, as a crash of the machine does. What they had not written is gone.
    #[track_caller]
    pub fn kill(&self) {
        let mut killed = Vec::new();
        wait_for("the server to be gone", Duration::from_secs(30), || {
            let running = processes_below(&self.data);
            for pid in running.iter().copied().filter_map(Pid::from_raw) {
                // It may have ended by itself meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
            killed.extend(&running);
            // Until somebody has collected it, a dead process still has its number, and a new server would take it for
            // the owner of postmaster.pid.
            let there = |pid: &i32| Path::new(&format!("/proc/{pid}")).exists();
            (running.is_empty() && !killed.iter().any(there)).then_some(())
        });
    }

    /// Stops it in order and starts it again.
    #[track_caller]
    pub fn restart(&self) {
        self.stop(Stop::Fast);
        self.start();
    }

    /// Whether a server runs on the data directory.
    pub fn is_running(&self) -> bool {
        attempt(&mut self.pg_ctl("status")).success()
    }

    fn pg_ctl(&self, verb: &str) -> Command {
        let mut command = self.installation.command("pg_ctl");
        command.arg("-s").arg("-D").arg(&self.data).arg(verb).envs(self.server_env.iter().map(|(k, v)| (k, v)));
        command
    }

    fn log_file(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The answer of `psql`, columns separated by `|`. Panics when a statement fails.
    #[track_caller]
    pub fn sql(&self, statements: &str) -> String {
        self.sql_in(&self.database, statements)
    }

    /// Like [`sql`](Self::sql), in another database.
    #[track_caller]
    pub fn sql_in(&self, database: &str, statements: &str) -> String {
        self.try_sql_in(database, statements).expect_success().text().to_owned()
    }

    /// What `psql` says, which may be an error.
    pub fn try_sql(&self, statements: &str) -> Ran {
        self.try_sql_in(&self.database, statements)
    }

    fn try_sql_in(&self, database: &str, statements: &str) -> Ran {
        let mut psql = self.command("psql");
        attempt(psql.args(["-XAqt", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statements]))
    }

    /// Like [`sql_in`](Self::sql_in), for `psql` to read (its own commands as well), in a session that no setting of a
    /// role, of a database or of the server can disturb: [`CALM`].
    #[track_caller]
    pub fn calm_sql_in(&self, database: &str, script: &str) -> String {
        self.try_calm_sql_in(database, script).expect_success().text().to_owned()
    }

    /// Like [`calm_sql_in`](Self::calm_sql_in), which may fail.
    pub fn try_calm_sql_in(&self, database: &str, script: &str) -> Ran {
        let file = self.scratch.path().join("script.sql");
        fs::write(&file, script).unwrap_or_else(|error| panic!("write {}: {error}", file.display()));
        user::give(&file);
        // As a connection string, because a name may look like one.
        let named = format!("dbname={}", quoted(database));
        let mut psql = self.command("psql");
        psql.args(["-XAqt", "-v", "ON_ERROR_STOP=1", "-d", &named, "-f"]).arg(&file);
        attempt(psql.env("PGOPTIONS", CALM))
    }

    /// Begins a new WAL segment and waits until the one before is archived. Panics when archiving is off.
    #[track_caller]
    pub fn archive_wal(&self) {
        assert_ne!(self.sql("SHOW archive_mode"), "off", "archiving is off");
        // An empty segment is not left by a switch.
        self.sql("SELECT pg_logical_emit_message(false, 'test', 'switch')");
        let segment = self.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
        self.sql("SELECT pg_switch_wal()");
        let archived = format!("SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver");
        wait_for(&format!("{segment} to be archived"), Duration::from_secs(60), || {
            (self.sql(&archived) == "t").then_some(())
        });
    }

    /// A standby of this cluster in `data`, streaming from it. Its tablespaces lie beside `data`.
    pub fn standby(&self, data: impl Into<PathBuf>) -> Self {
        let data = data.into();
        if let Some(parent) = data.parent() {
            user::make_dir(parent);
        }
        let mut copy = self.command("pg_basebackup");
        copy.args(["-R", "-X", "stream", "-c", "fast", "-D"]).arg(&data);
        let mut owned = vec![data.clone()];
        let mut tablespaces = Vec::new();
        for (name, path) in &self.tablespaces {
            let place = data.with_extension(format!("ts-{name}"));
            copy.arg("-T").arg(format!("{}={}", path.display(), place.display()));
            owned.push(place.clone());
            tablespaces.push((name.clone(), place));
        }
        run(&mut copy);
        let mut standby = Self::over(self.installation.clone(), Scratch::new(), data, 5432);
        standby.own(owned);
        standby.remember_tablespaces(tablespaces);
        standby.start();
        standby
    }

    /// Waits until this standby has replayed all that `primary` has written until now.
    #[track_caller]
    pub fn catch_up_with(&self, primary: &Self) {
        let lsn = primary.sql("SELECT pg_current_wal_flush_lsn()");
        let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        wait_for(&format!("the standby to replay up to {lsn}"), Duration::from_secs(60), || {
            (self.sql(&replayed) == "t").then_some(())
        });
    }
}

/// A value in a connection string of libpq.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !processes_below(&self.data).is_empty() {
            attempt(self.pg_ctl("stop").args(["-w", "-t", "30", "-m", "immediate"]));
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(20).collect();
            eprintln!("--- end of the log of PostgreSQL {}", self.version());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        for path in &self.owned {
            // Where it is gone already there is nothing to do; where it lies on a file system of the test, that goes too.
            let _ = fs::remove_dir_all(path);
        }
    }
}
