//! A throw-away PostgreSQL cluster for tests: made in a directory of its own, gone when dropped.
//!
//! PostgreSQL refuses to run as root; then everything runs as the user `postgres`. The versions are those found under
//! `/usr/lib/postgresql` and in `BARMAN_SNAP_PG_BIN_DIRS` (directories with programs, separated by colons).

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this module")]
#![allow(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use barman_snap::postgres::{ConnectOptions, Environment, PostgresControl};
use barman_snap::{Error, Result};

/// Every version of PostgreSQL on this machine. There has to be one: without it, these tests prove nothing.
pub fn bin_dirs() -> Vec<PathBuf> {
    let named = std::env::var("BARMAN_SNAP_PG_BIN_DIRS").unwrap_or_default();
    let installed =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|dir| dir.path().join("bin"));
    let mut found: Vec<PathBuf> = named
        .split(':')
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .chain(installed)
        .filter(|dir| dir.join("initdb").exists())
        .collect();
    found.sort();
    found.dedup();
    assert!(
        !found.is_empty(),
        "no PostgreSQL found: install one, or name its bin directory in BARMAN_SNAP_PG_BIN_DIRS"
    );
    found
}

/// The major version of the programs in `bin`.
pub fn major(bin: &Path) -> u32 {
    let output = Command::new(bin.join("postgres")).arg("--version").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let number = text.split_whitespace().find(|word| word.starts_with(|char: char| char.is_ascii_digit())).unwrap();
    number.split(|char: char| !char.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// A running server.
pub struct Cluster {
    pub bin: PathBuf,
    pub dir: tempfile::TempDir,
    pub port: u16,
}

impl Cluster {
    /// Makes and starts a server whose `postgresql.conf` ends with `conf`. Sockets lie in `dir()`.
    pub fn start(bin: &Path, conf: &str) -> Self {
        let cluster = Self::empty(bin);
        let data = cluster.data();
        cluster.run("initdb", &["-D", path(&data), "-U", "postgres", "-A", "trust", "--no-sync"]);
        cluster.configure(conf);
        cluster.up();
        cluster
    }

    /// A standby that streams from `primary`.
    pub fn standby(primary: &Self, conf: &str) -> Self {
        let cluster = Self::empty(&primary.bin);
        let source = format!("host={} port={} user=postgres", path(primary.dir.path()), primary.port);
        cluster.run("pg_basebackup", &["-D", path(&cluster.data()), "-d", &source, "-R", "-c", "fast", "--no-sync"]);
        cluster.configure(conf);
        cluster.up();
        cluster
    }

    fn empty(bin: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("barman-snap-pg-").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        give(dir.path());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Self { bin: bin.to_owned(), dir, port }
    }

    /// Adds to `postgresql.conf` what every server of a test needs, and `conf`.
    pub fn configure(&self, conf: &str) {
        let file = self.data().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&file).unwrap();
        text.push_str(&format!(
            "\nport = {}\nunix_socket_directories = '{}'\nlisten_addresses = '127.0.0.1'\nfsync = off\n{conf}\n",
            self.port,
            path(self.dir.path())
        ));
        std::fs::write(file, text).unwrap();
    }

    /// Starts the server and waits until it accepts connections.
    pub fn up(&self) {
        let log = self.dir.path().join("log");
        let data = self.data();
        let options = ["-D", path(&data), "-l", path(&log), "-w", "-t", "60", "start"];
        let output = self.command("pg_ctl", &options);
        assert!(output.status.success(), "{}", std::fs::read_to_string(log).unwrap_or_default());
    }

    /// Replaces `pg_hba.conf` and reads it again.
    pub fn hba(&self, text: &str) {
        std::fs::write(self.data().join("pg_hba.conf"), text).unwrap();
        self.run("pg_ctl", &["-D", path(&self.data()), "reload"]);
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The directory of the sockets, as text.
    pub fn socket(&self) -> &str {
        path(self.dir.path())
    }

    /// A connection string for the socket.
    pub fn dsn(&self, rest: &str) -> String {
        format!("host={} port={} user=postgres {rest}", self.socket(), self.port)
    }

    /// Connects over the socket with an environment that says nothing.
    pub async fn connect(&self, rest: &str) -> Result<PostgresControl, Error> {
        connect(&self.dsn(rest), &bare()).await
    }

    /// Runs SQL with psql and returns what it prints.
    pub fn sql(&self, sql: &str) -> String {
        let port = self.port.to_string();
        self.run(
            "psql",
            &["-XAtq", "-v", "ON_ERROR_STOP=1", "-h", self.socket(), "-p", &port, "-U", "postgres", "-c", sql],
        )
    }

    /// Runs one of the programs and returns its output; it has to succeed.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program, args);
        assert!(
            output.status.success(),
            "{program} {args:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    fn command(&self, program: &str, args: &[&str]) -> Output {
        // A package may have the server alone; clients of another version do as well.
        let dirs = std::iter::once(self.bin.clone()).chain(bin_dirs());
        let program = dirs.map(|dir| dir.join(program)).find(|file| file.exists()).unwrap();
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        // The server inherits these: a pipe that it keeps open would hang `output`, hence its log file and no more.
        command.args(args).env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").current_dir("/");
        command.output().unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.command("pg_ctl", &["-D", path(&self.data()), "-m", "immediate", "-w", "stop"]);
    }
}

/// Gives a file or directory to the user that the server runs as.
pub fn give(target: &Path) {
    if is_root() {
        let done = Command::new("chown").arg("-R").arg("postgres:postgres").arg(target).status().unwrap();
        assert!(done.success());
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A path as text.
pub fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An environment that says nothing.
pub fn bare() -> Environment {
    Environment { vars: BTreeMap::new(), home: None, os_user: Some("postgres".to_owned()) }
}

/// Connects with a connection string.
pub async fn connect(dsn: &str, environment: &Environment) -> Result<PostgresControl, Error> {
    PostgresControl::open(ConnectOptions::new(dsn).resolve(environment)?).await
}
