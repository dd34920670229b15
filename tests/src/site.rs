//! A whole installation: a cluster on a file system of its own, a catalog, and our command line set up for both, with
//! `wal-archive` as the archive_command.
//!
//! It runs commands and reads what lies around. It judges nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::cli::BarmanSnap;
use crate::command::{PLANTED, Ran};
use crate::fs::{Kind, LoopFs};
use crate::pg::{Builder, Cluster, Installation, Stop};
use crate::s3::MotoServer;
use crate::scratch::Scratch;
use crate::skip::Missing;
use crate::user;
use crate::wait::wait_for;

/// The name of the server in every catalog of the tests.
pub const SERVER: &str = "main";

/// The directory of local snapshots on a file system.
pub const SNAPSHOT_DIRECTORY: &str = ".barman_snap";

/// How a new [`Site`] shall look.
#[derive(Clone, Debug)]
#[must_use]
pub struct Plan {
    installation: Installation,
    kind: Kind,
    size_mib: u64,
    options: String,
    spread: bool,
    wal_elsewhere: bool,
    archiving: bool,
    tcp: bool,
    catalog: Option<(String, Vec<(String, String)>)>,
    segment_mib: u32,
    settings: Vec<(String, String)>,
    superuser: String,
    initdb: Vec<String>,
    checksums: bool,
}

impl Plan {
    /// All on one volume of the file system, instead of two tablespaces and the WAL on volumes of their own.
    pub fn on_one_volume(mut self) -> Self {
        self.spread = false;
        self
    }

    /// The data on one volume of the file system, the WAL beside it on the file system of the machine.
    pub fn with_wal_elsewhere(mut self) -> Self {
        (self.spread, self.wal_elsewhere) = (false, true);
        self
    }

    /// Without an archiver.
    pub fn without_archiving(mut self) -> Self {
        self.archiving = false;
        self
    }

    /// With the catalog on this server instead of in a directory.
    pub fn on_s3(mut self, server: &MotoServer) -> Self {
        let env = server.env().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        self.catalog = Some((server.url("catalog"), env));
        self
    }

    /// Size of the file system.
    pub fn size_mib(mut self, size: u64) -> Self {
        self.size_mib = size;
        self
    }

    /// Mount options of the file system.
    pub fn mounted_with(mut self, options: &str) -> Self {
        options.clone_into(&mut self.options);
        self
    }

    /// Another size of the WAL segments than 16 MiB.
    pub fn segment_mib(mut self, size: u32) -> Self {
        self.segment_mib = size;
        self
    }

    /// The server listens on the network, too.
    pub fn tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    /// Adds a line to `postgresql.conf`.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
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

    /// Without data checksums. They are on otherwise.
    pub fn without_checksums(mut self) -> Self {
        self.checksums = false;
        self
    }

    /// Makes it, and starts the cluster.
    pub fn start(self) -> Result<Site, Missing> {
        self.make(Builder::start)
    }

    /// Makes it without starting the cluster, whose files can be changed before. Only for one without tablespaces.
    pub fn prepare(self) -> Result<Site, Missing> {
        self.make(Builder::prepare)
    }

    fn make(self, begin: impl FnOnce(Builder) -> Cluster) -> Result<Site, Missing> {
        let fs = LoopFs::with_options(self.kind, self.size_mib, &self.options)?;
        let snap = BarmanSnap::found()?;
        let place = Scratch::new();
        let (url, env) = self.catalog.unwrap_or_else(|| (place.dir("catalog").display().to_string(), Vec::new()));
        // Outside the cluster, so that every backup has a private object.
        let included = place.path().join("included.conf");
        let lines = format!("log_min_error_statement = error\nplanted.outer_password = '{PLANTED}'\n");
        fs::write(&included, lines).expect("a file can be written");
        user::give(&included);
        let mut builder = Cluster::builder(&self.installation)
            .setting("include", &included.display().to_string())
            .data(fs.volume("main").join("data"))
            .segment_mib(self.segment_mib)
            .superuser(&self.superuser)
            .initdb_options(&self.initdb.iter().map(String::as_str).collect::<Vec<_>>())
            .env(env.clone());
        if !self.checksums {
            builder = builder.without_checksums();
        }
        if self.spread {
            builder = builder
                .wal(fs.volume("wal").join("pg_wal"))
                .tablespace("hot", fs.volume("hot").join("ts"))
                .tablespace("cold", fs.volume("cold").join("ts"));
        }
        if self.wal_elsewhere {
            builder = builder.wal(place.path().join("pg_wal"));
        }
        if self.archiving {
            builder = builder.archive_command(&format!("{} wal-archive {url} {SERVER} %p", snap.path().display()));
        }
        if self.tcp {
            builder = builder.tcp();
        }
        for (name, value) in &self.settings {
            builder = builder.setting(name, value);
        }
        let cluster = begin(builder);
        let snap = snap.with_env(env.clone()).for_cluster(&cluster);
        Ok(Site { _searched: Searched { url: url.clone() }, cluster, snap, url, env, fs, place })
    }
}

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Site {
    // Before the catalog vanishes.
    _searched: Searched,
    /// The cluster.
    pub cluster: Cluster,
    /// The command line.
    pub snap: BarmanSnap,
    /// The URL of the catalog.
    pub url: String,
    env: Vec<(String, String)>,
    // Behind the cluster that lies on it, because it is dropped after it.
    fs: LoopFs,
    place: Scratch,
}

impl Site {
    /// How a new one shall look.
    pub fn plan(installation: &Installation, kind: Kind) -> Plan {
        Plan {
            installation: installation.clone(),
            kind,
            size_mib: 4096,
            options: String::new(),
            spread: true,
            wal_elsewhere: false,
            archiving: true,
            tcp: false,
            catalog: None,
            segment_mib: 16,
            settings: Vec::new(),
            superuser: "postgres".to_owned(),
            initdb: Vec::new(),
            checksums: true,
        }
    }

    /// Its file system.
    pub fn fs(&self) -> &LoopFs {
        &self.fs
    }

    /// Connects as the cluster says now.
    #[must_use]
    pub fn reconnected(mut self) -> Self {
        self.snap = self.snap.for_cluster(&self.cluster);
        self
    }

    /// A directory beside everything, which vanishes with it.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// The arguments `COMMAND URL SERVER REST…`.
    pub fn args(&self, command: &str, rest: &[&str]) -> Vec<String> {
        [command, &self.url, SERVER].iter().chain(rest).map(|&word| word.to_owned()).collect()
    }

    /// Runs a command on the catalog to its end, whatever that is.
    pub fn run(&self, command: &str, rest: &[&str]) -> Ran {
        self.snap.run(self.args(command, rest))
    }

    /// Runs a command that has to succeed.
    #[track_caller]
    pub fn ok(&self, command: &str, rest: &[&str]) -> Ran {
        self.run(command, rest).expect_success()
    }

    /// Runs a command with `--format json` that has to succeed, and reads its answer.
    #[track_caller]
    pub fn json(&self, command: &str, rest: &[&str]) -> Value {
        let ran = self.ok(command, &[rest, &["--format", "json"]].concat());
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{}: {error}: {}", ran.line, ran.stdout))
    }

    /// Takes a backup with an immediate checkpoint; gives what is on stdout, which has to be the id alone.
    #[track_caller]
    pub fn backup(&self, rest: &[&str]) -> String {
        self.ok("backup", &[&["--immediate-checkpoint"], rest].concat()).text().to_owned()
    }

    /// The ids that the catalog lists, oldest first.
    #[track_caller]
    pub fn listed(&self) -> Vec<String> {
        let list = self.json("list", &[]);
        let backups = list["backups_list"].as_array().expect("it is a list");
        backups.iter().map(|backup| backup["backup_id"].as_str().expect("it is text").to_owned()).collect()
    }

    /// What `show` says about a backup.
    #[track_caller]
    pub fn show(&self, id: &str) -> Value {
        self.json("show", &[id])[SERVER].take()
    }

    /// The options that put both tablespaces beside a new data directory.
    pub fn relocation(&self, target: &Path) -> Vec<String> {
        let beside = |name: &str| target.with_extension(format!("ts-{name}"));
        let option = |name: &str| ["--tablespace".to_owned(), format!("{name}:{}", beside(name).display())];
        self.cluster.tablespaces().iter().flat_map(|(name, _)| option(name)).collect()
    }

    /// Restores a backup to a new directory on the file system, with the tablespaces beside it, and starts a server
    /// there. It may still be recovering.
    #[track_caller]
    pub fn restore(&self, id: &str, name: &str, rest: &[&str]) -> Cluster {
        let target = self.fs.path().join("restored").join(name);
        user::make_dir(&self.fs.path().join("restored"));
        let target_text = target.display().to_string();
        let relocation = self.relocation(&target);
        let relocation: Vec<&str> = relocation.iter().map(String::as_str).collect();
        self.ok("restore", &[&[id, &target_text], relocation.as_slice(), rest].concat());
        let cluster = self.adopt(&target);
        cluster.start();
        cluster
    }

    /// The cluster of a restored directory, with what its restore_command needs.
    pub fn adopt(&self, target: &Path) -> Cluster {
        let mut cluster = Cluster::adopt(self.cluster.installation(), target);
        cluster.set_env(self.env.clone());
        cluster
    }

    /// Names of everything in the snapshot directories of the file system, wherever they are, except temporary restores.
    pub fn snapshots(&self) -> Vec<String> {
        let mut found = Vec::new();
        for place in snapshot_directories(self.fs.path()) {
            let entries = fs::read_dir(&place).expect("the snapshot directory can be read");
            found.extend(entries.map(|entry| {
                entry.expect("it can be listed").file_name().to_str().expect("names are UTF-8").to_owned()
            }));
        }
        found.sort();
        found
    }

    /// The files below a folder of a catalog in a directory, relative to the server's, sorted.
    pub fn objects(&self, folder: &str) -> Vec<String> {
        let top = Path::new(&self.url).join(SERVER);
        let mut found = Vec::new();
        files_below(&top.join(folder), &mut found);
        let mut names: Vec<String> =
            found.iter().map(|path| path.strip_prefix(&top).expect("it lies below").display().to_string()).collect();
        names.sort();
        names
    }

    /// Where an object of a catalog in a directory lies.
    pub fn object(&self, key: &str) -> PathBuf {
        Path::new(&self.url).join(SERVER).join(key)
    }
}

/// Searches a catalog in a directory when its site comes to an end.
#[derive(Debug)]
struct Searched {
    url: String,
}

impl Drop for Searched {
    /// Nothing of a catalog has the planted secret but the private object of a backup, and the WAL, which is all of the data.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut found = Vec::new();
        for folder in ["base", "sessions", "proofs"] {
            files_below(&Path::new(&self.url).join(SERVER).join(folder), &mut found);
        }
        for path in found {
            if path.ends_with("private/config.json") {
                let mode = fs::metadata(&path).map_or(0o600, |meta| meta.permissions().mode());
                assert_eq!(mode & 0o777, 0o600, "the mode of {}", path.display());
                continue;
            }
            // One that is locked away by a test is none that others can read.
            let bytes = fs::read(&path).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&bytes).contains(PLANTED), "a secret is in {}", path.display());
        }
    }
}

/// The snapshot directories at and directly below a mount point.
fn snapshot_directories(mount: &Path) -> Vec<PathBuf> {
    let below = fs::read_dir(mount).into_iter().flatten().flatten().map(|entry| entry.path());
    let places = std::iter::once(mount.to_owned()).chain(below);
    places.map(|place| place.join(SNAPSHOT_DIRECTORY)).filter(|place| place.is_dir()).collect()
}

fn files_below(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files_below(&path, found) } else { found.push(path) }
    }
}

/// Waits until nobody else is connected: a killed client's last transaction may still be running.
#[track_caller]
pub fn wait_until_quiet(cluster: &Cluster) {
    let others =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    wait_for("the clients to be gone", Duration::from_secs(30), || (cluster.sql(others) == "0").then_some(()));
}

/// Waits until a restored server has ended its recovery.
#[track_caller]
pub fn wait_until_promoted(cluster: &Cluster) {
    wait_for("the end of recovery", Duration::from_secs(120), || {
        assert!(cluster.is_running(), "the restored server has stopped: {}", cluster.log());
        let ran = cluster.try_sql("SELECT pg_is_in_recovery()");
        (ran.success() && ran.text() == "f").then_some(())
    });
}

/// Stops a server in order and says how many of its pages have a right checksum; an error when one has not.
pub fn checked_pages(cluster: &Cluster) -> Result<u64, String> {
    cluster.stop(Stop::Fast);
    crate::checks::checksums_ok(cluster.installation(), cluster.data())
}
