//! What the story needs: a disk, a catalog, a PostgreSQL under load, the command line.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use barman_snap_tests::cli::BarmanSnap;
use barman_snap_tests::command::as_server_user;
use barman_snap_tests::fs::{Kind, LoopFs};
use barman_snap_tests::load::fill;
use barman_snap_tests::pg::{Cluster, Installation};
use barman_snap_tests::scratch::Scratch;
use barman_snap_tests::wait::timed;
use serde_json::Value;

use crate::screen::Screen;

/// Set when the reader has seen enough.
pub(crate) static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Why the story ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The reader wants it to.
    Interrupted,
    /// Something is not as it should be.
    Failed(String),
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// Ends the story unless `claim` holds.
pub(crate) fn must(claim: bool, otherwise: impl Into<String>) -> Result<(), Stop> {
    if claim { Ok(()) } else { Err(Stop::Failed(otherwise.into())) }
}

/// The name of the server in the catalog.
pub(crate) const SERVER: &str = "shop";

/// The stage. Fields are dropped from top to bottom: the server before the disk it lies on.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) screen: Screen,
    pub(crate) cluster: Cluster,
    pub(crate) snap: BarmanSnap,
    pub(crate) catalog: PathBuf,
    pub(crate) disk: Disk,
    _catalog_place: Scratch,
}

/// Where the cluster lies, and its snapshots.
#[derive(Debug)]
pub(crate) enum Disk {
    /// A btrfs in a file, for root.
    Btrfs(LoopFs),
    /// A directory of this machine.
    Directory(Scratch),
}

impl Disk {
    /// The best that this machine allows, and the sentence that says so.
    fn find() -> (Self, String) {
        match LoopFs::with_options(Kind::Btrfs, 4096, "user_subvol_rm_allowed") {
            Ok(fs) => {
                (Self::Btrfs(fs), "a btrfs file system, mounted from a file: snapshots are real and instant".into())
            }
            Err(missing) => {
                let why = format!("a directory of this machine; for a btrfs file system: {}", missing.reason);
                (Self::Directory(Scratch::new()), why)
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Btrfs(fs) => fs.path(),
            Self::Directory(scratch) => scratch.path(),
        }
    }

    fn volume(&self, name: &str) -> PathBuf {
        match self {
            Self::Btrfs(fs) => fs.volume(name),
            Self::Directory(scratch) => scratch.dir(name),
        }
    }

    /// What `check` and `backup` have to be told. Snapshots of a directory could else end up beside the directory of the
    /// demo, and be left there.
    pub(crate) fn options(&self) -> &'static str {
        match self {
            Self::Btrfs(_) => "",
            Self::Directory(_) => " --snapshot-directory $DISK",
        }
    }

    /// The snapshots and what belongs to them, by name.
    pub(crate) fn snapshots(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path().join(".barman_snap")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Stage {
    /// Makes everything; the load is not yet on.
    pub(crate) fn set(mut screen: Screen, scale: u32) -> Result<Self, Stop> {
        let missing =
            |missing: barman_snap_tests::skip::Missing| Stop::Failed(format!("{}: {}", missing.need, missing.reason));
        let installation = Installation::newest().map_err(missing)?;
        let snap = BarmanSnap::found().map_err(missing)?;
        screen.title(&format!("A PostgreSQL {} with two tablespaces, made for this", installation.version()));
        let (disk, sort_of_disk) = Disk::find();
        let catalog_place = Scratch::new();
        let catalog = catalog_place.dir("catalog");
        screen.shorten(disk.path(), "DISK", &sort_of_disk);
        screen.shorten(&catalog, "CATALOG", "metadata and WAL; an s3://, gs:// or Azure URL in earnest");
        let archive = format!("{} wal-archive --zstd {} {SERVER} %p", snap.path().display(), catalog.display());
        let (cluster, time) = timed(|| {
            let cluster = Cluster::builder(&installation)
                .data(disk.volume("main").join("data"))
                .tablespace("hot", disk.volume("hot").join("ts"))
                .tablespace("cold", disk.volume("cold").join("ts"))
                .archive_command(&archive)
                .start();
            fill(&cluster, scale);
            cluster.sql("CREATE TABLE marker (at timestamptz DEFAULT clock_timestamp(), text text) TABLESPACE hot");
            cluster
        });
        screen.say(&format!("archive_command = 'barman-snap wal-archive --zstd $CATALOG {SERVER} %p'"));
        let size = cluster.sql("SELECT pg_size_pretty(sum(pg_database_size(oid))) FROM pg_database");
        screen.say(&format!("{size} of data, made and loaded in {}", crate::screen::seconds(time)));
        let snap = snap.for_cluster(&cluster);
        Ok(Self { screen, cluster, snap, catalog, disk, _catalog_place: catalog_place })
    }

    /// Prints a line of shell, runs it as the user of the server, and shows what it prints as it comes, and how long it
    /// took. It has to succeed. Gives what it printed.
    pub(crate) fn sh(&self, line: &str) -> Result<String, Stop> {
        interrupted()?;
        self.screen.command(line);
        let mut text = String::new();
        let (status, time) = timed(|| {
            let (reader, writer) = std::io::pipe()?;
            let mut command = self.shell(line);
            command.stdout(writer.try_clone()?).stderr(writer);
            let mut child = command.spawn()?;
            // It holds the other end of the pipe.
            drop(command);
            for printed in BufReader::new(reader).lines() {
                let printed = printed?;
                self.screen.output(&printed);
                text.push_str(&printed);
                text.push('\n');
            }
            child.wait()
        });
        let status = status.map_err(|error: std::io::Error| Stop::Failed(format!("cannot run {line}: {error}")))?;
        interrupted()?;
        self.screen.took(time);
        must(status.success(), format!("{line} failed ({status})"))?;
        Ok(text)
    }

    /// Prints a line of shell and starts it. The process is the program itself, not a shell around it.
    pub(crate) fn start(&self, line: &str) -> Result<Child, Stop> {
        interrupted()?;
        self.screen.command(&format!("{line} &"));
        let mut command = self.shell(&format!("exec {line}"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map_err(|error| Stop::Failed(format!("cannot run {line}: {error}")))
    }

    /// What `barman-snap VERB $CATALOG shop REST` says in JSON, to check a claim; not shown.
    pub(crate) fn json(&self, verb: &str, rest: &[&str]) -> Result<Value, Stop> {
        let catalog = self.catalog.display().to_string();
        let ran = self.snap.run([&[verb, &catalog, SERVER], rest, &["--format", "json"]].concat());
        must(ran.success(), format!("{} failed: {}", ran.line, ran.stderr))?;
        serde_json::from_str(&ran.stdout).map_err(|error| Stop::Failed(format!("not JSON ({error}): {}", ran.stdout)))
    }

    /// A shell that knows the words of the story: `barman-snap`, the programs of PostgreSQL, `$DISK`, `$CATALOG`, …
    fn shell(&self, line: &str) -> Command {
        let snap = self.snap.path().parent().unwrap_or(Path::new("/"));
        let path = format!("{}:{}", snap.display(), self.cluster.installation().bin().display());
        let mut command = as_server_user(Path::new("/bin/sh"), Path::new(&path));
        command.envs(self.cluster.env()).envs(self.screen.names());
        command.args(["-c", line]).stdin(Stdio::null());
        command
    }
}

/// Ends the story when the reader wants that.
pub(crate) fn interrupted() -> Result<(), Stop> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(Stop::Interrupted) } else { Ok(()) }
}
