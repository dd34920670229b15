//! How a new cluster shall look.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Cluster, Installation};
use crate::command::{PLANTED, run};
use crate::scratch::Scratch;
use crate::user;

/// How a new [`Cluster`] shall look; [`start`](Self::start) makes it. Every directory is made when it is missing.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    installation: Installation,
    data: Option<PathBuf>,
    wal: Option<PathBuf>,
    tablespaces: Vec<(String, PathBuf)>,
    settings: Vec<(String, String)>,
    checksums: bool,
    segment_mib: u32,
    tcp: bool,
    env: Vec<(String, String)>,
    superuser: String,
    initdb: Vec<String>,
}

impl Builder {
    pub(super) fn new(installation: Installation) -> Self {
        Self {
            installation,
            data: None,
            wal: None,
            tablespaces: Vec::new(),
            settings: Vec::new(),
            checksums: true,
            segment_mib: 16,
            tcp: false,
            env: Vec::new(),
            superuser: "postgres".to_owned(),
            initdb: Vec::new(),
        }
    }

    /// Where the data directory shall be. Without it: in a scratch directory of the cluster.
    pub fn data(mut self, path: impl Into<PathBuf>) -> Self {
        self.data = Some(path.into());
        self
    }

    /// A place of its own for `pg_wal`.
    pub fn wal(mut self, path: impl Into<PathBuf>) -> Self {
        self.wal = Some(path.into());
        self
    }

    /// Adds a tablespace.
    pub fn tablespace(mut self, name: &str, path: impl Into<PathBuf>) -> Self {
        self.tablespaces.push((name.to_owned(), path.into()));
        self
    }

    /// Adds a line to `postgresql.conf`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Turns archiving on with this command.
    pub fn archive_command(self, command: &str) -> Self {
        self.setting("archive_mode", "on").setting("archive_command", command)
    }

    /// Without data checksums. They are on otherwise.
    pub fn without_checksums(mut self) -> Self {
        self.checksums = false;
        self
    }

    /// Another size of the WAL segments than 16 MiB: a power of two from 1 to 1024.
    pub fn segment_mib(mut self, size: u32) -> Self {
        self.segment_mib = size;
        self
    }

    /// Variables for the server, and so for its archive_command.
    pub fn env(mut self, env: Vec<(String, String)>) -> Self {
        self.env = env;
        self
    }

    /// Listens on a free port of 127.0.0.1 too.
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Another name for the superuser that `initdb` makes than `postgres`.
    pub fn superuser(mut self, name: &str) -> Self {
        name.clone_into(&mut self.superuser);
        self
    }

    /// More options for `initdb`, which win over ours.
    pub fn initdb_options(mut self, options: &[&str]) -> Self {
        self.initdb.extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// Makes the cluster and starts it.
    pub fn start(self) -> Cluster {
        let tablespaces = self.tablespaces.clone();
        let mut cluster = self.prepare();
        cluster.start();
        for (name, path) in &tablespaces {
            user::make_dir(path);
            cluster.sql(&format!("CREATE TABLESPACE \"{name}\" LOCATION '{}'", path.display()));
        }
        cluster.remember_tablespaces(tablespaces);
        cluster
    }

    /// Makes the cluster without its tablespaces, and does not start it: its files can be changed before.
    pub fn prepare(self) -> Cluster {
        let scratch = Scratch::new();
        let data = self.data.clone().unwrap_or_else(|| scratch.path().join("data"));
        self.initdb(&data);
        self.configure(&data);
        let mut owned = vec![data.clone()];
        owned.extend(self.wal.clone());
        owned.extend(self.tablespaces.iter().map(|(_, path)| path.clone()));
        let port = if self.tcp { crate::s3::free_port() } else { 5432 };
        let mut cluster = Cluster::over(self.installation, scratch, data, port);
        if self.tcp {
            cluster.option("listen_addresses", "127.0.0.1");
        }
        cluster.own(owned);
        cluster.set_env(self.env);
        cluster.set_user(&self.superuser);
        cluster
    }

    fn initdb(&self, data: &Path) {
        let parents = [Some(data), self.wal.as_deref()];
        for parent in parents.into_iter().flatten().filter_map(Path::parent) {
            user::make_dir(parent);
        }
        let mut initdb = self.installation.command("initdb");
        // Not flushed: nothing of a test has to survive a power failure.
        initdb.args(["--no-sync", "-A", "trust", "-E", "UTF8", "--locale", "C.UTF-8", "-U", &self.superuser, "-D"]);
        initdb.arg(data);
        initdb.arg(format!("--wal-segsize={}", self.segment_mib));
        if self.checksums {
            initdb.arg("--data-checksums");
        } else if self.installation.version() >= 18 {
            // On by default since 18.
            initdb.arg("--no-data-checksums");
        }
        if let Some(wal) = &self.wal {
            initdb.arg("-X").arg(wal);
        }
        initdb.args(&self.initdb);
        run(&mut initdb);
    }

    fn configure(&self, data: &Path) {
        let mut lines = format!("\n# Of the test.\nplanted.password = '{PLANTED}'\n");
        for (name, value) in &self.settings {
            // Writing to a string does not fail.
            let _ = writeln!(lines, "{name} = '{}'", value.replace('\'', "''"));
        }
        let path = data.join("postgresql.conf");
        let conf = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        fs::write(&path, conf + &lines).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
    }
}
