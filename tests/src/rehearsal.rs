//! A rehearsal of the whole promise on one cluster: what `verify` says of a backup, what `restore` makes of the same
//! backup and how that server gets on, and whether the original and all around it are as they were.
//!
//! It judges nothing but gathers: [`Rehearsed`] has the two outcomes and everything that was noticed.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::checks;
use crate::command::{Ran, attempt};
use crate::contents::{Contents, contents, differences};
use crate::footprint::{Footprint, Look};
use crate::pg::{Cluster, Stop};
use crate::site::{SERVER, SNAPSHOT_DIRECTORY, Site};
use crate::user;
use crate::wait::{pass, wait_for};

/// How a rehearsal shall go; [`run`](Self::run) does it.
#[derive(Debug)]
#[must_use]
pub struct Rehearsal<'a> {
    site: &'a Site,
    source: &'a Cluster,
    restore: Vec<String>,
    watched: Vec<PathBuf>,
    server_options: Vec<(String, String)>,
    questions: Vec<String>,
    verify: Vec<String>,
    backup: Vec<String>,
}

/// How a rehearsal went.
#[derive(Debug)]
pub struct Rehearsed {
    /// What `verify` said.
    pub verify: Ran,
    /// What `show` says afterwards.
    pub show: Ran,
    /// Why nobody could work with what `restore` made: it refused, the server does not start, its rows are other ones, or
    /// its pages are damaged. Empty if all is well.
    pub trouble: Vec<String>,
    /// What was changed outside of the new place, and what the original does not say any more.
    pub touched: Vec<String>,
}

impl Rehearsed {
    /// The promise, for a backup that is good.
    #[track_caller]
    pub fn all_is_well(&self) {
        let Self { verify, trouble, touched, .. } = self;
        let said = format!("verify: {}{}", verify.stdout, verify.stderr);
        assert!(trouble.is_empty(), "the restored server is not what it should be: {trouble:#?}\n{said}");
        assert!(verify.success(), "{said}(the restored server works)");
        assert!(touched.is_empty(), "touched: {touched:#?}");
    }

    /// The promise, for any backup: `verify` passes if and only if the restored server is right.
    #[track_caller]
    pub fn agree(&self) {
        let Self { verify, trouble, touched, .. } = self;
        let said = format!("verify: {}{}", verify.stdout, verify.stderr);
        assert_eq!(verify.success(), trouble.is_empty(), "{said}trouble with the restored server: {trouble:#?}");
        assert!(touched.is_empty(), "touched: {touched:#?}");
    }
}

impl<'a> Rehearsal<'a> {
    /// Of the cluster of a site.
    pub fn of(site: &'a Site) -> Self {
        Self {
            site,
            source: &site.cluster,
            restore: Vec::new(),
            watched: Vec::new(),
            server_options: Vec::new(),
            questions: Vec::new(),
            verify: Vec::new(),
            backup: Vec::new(),
        }
    }

    /// The backup is one of this server, a standby of the site's.
    pub fn from_standby(mut self, standby: &'a Cluster) -> Self {
        self.source = standby;
        self
    }

    /// More options for `restore`.
    pub fn restore_with(mut self, options: &[&str]) -> Self {
        self.restore.extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// More options for `backup`.
    pub fn backup_with(mut self, options: &[&str]) -> Self {
        self.backup.extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// More options for `verify`.
    pub fn verify_with(mut self, options: &[&str]) -> Self {
        self.verify.extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// More directories that nothing may be touched in.
    pub fn watching(mut self, path: &Path) -> Self {
        self.watched.push(path.to_owned());
        self
    }

    /// Starts the restored server with this on its command line, where no person could start it without.
    pub fn server_option(mut self, name: &str, value: &str) -> Self {
        self.server_options.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Compares the answer to this as well.
    pub fn asking(mut self, question: &str) -> Self {
        self.questions.push(question.to_owned());
        self
    }

    /// Takes a backup with rows before and after it, then does the rest.
    #[track_caller]
    pub fn run(&self) -> Rehearsed {
        let id = self.backup();
        self.run_with(&id)
    }

    /// Takes a backup, with rows that were there before and rows that are in the WAL after it only.
    #[track_caller]
    pub fn backup(&self) -> String {
        let primary = &self.site.cluster;
        let write =
            |sql: &str| primary.calm_sql_in(primary.database(), &format!("SET synchronous_commit = local; {sql}"));
        write("CREATE TABLE IF NOT EXISTS rehearsed AS SELECT i, repeat('x', i) AS t FROM generate_series(1, 500) i");
        write("CREATE INDEX IF NOT EXISTS rehearsed_i ON rehearsed (i)");
        let host = self.source.socket_dir().display().to_string();
        if !std::ptr::eq(self.source, primary) {
            write("CHECKPOINT");
            // Where the primary is not asked to end a segment, the standby has to be at the end of one.
            if self.backup.is_empty() {
                write("SELECT FROM pg_switch_wal()");
            }
            self.source.catch_up_with(primary);
        }
        let mut options = vec!["-h", &host, "--wal-timeout", "30"];
        options.extend(self.backup.iter().map(String::as_str));
        let id = self.site.backup(&options);
        write("INSERT INTO rehearsed SELECT i, 'after' FROM generate_series(501, 600) i");
        if primary.calm_sql_in(primary.database(), "SHOW archive_mode") != "off" {
            write("SELECT FROM pg_switch_wal()");
        }
        self.until_archived();
        id
    }

    /// Waits until the archiver has nothing to do any more.
    fn until_archived(&self) {
        let primary = &self.site.cluster;
        if primary.calm_sql_in(primary.database(), "SHOW archive_mode") == "off" {
            return;
        }
        let status = primary.data().join("pg_wal/archive_status");
        wait_for("the archiver to have nothing to do", Duration::from_secs(60), || {
            let mut entries = std::fs::read_dir(&status).expect("it is there").flatten();
            (!entries.any(|entry| entry.path().extension().is_some_and(|end| end == "ready"))).then_some(())
        });
    }

    /// Verifies and restores a backup.
    #[track_caller]
    pub fn run_with(&self, id: &str) -> Rehearsed {
        let site = self.site;
        let expected = self.answers(&site.cluster);
        // Reading may have dirtied pages; afterwards the original has nothing to write by itself.
        for server in [&site.cluster, self.source] {
            server.calm_sql_in(server.database(), "CHECKPOINT");
        }
        self.until_archived();
        let before = self.look();
        let bin = site.cluster.installation().bin().display().to_string();
        let mut options = vec![id, "--pg-bin-dir", &bin, "--timeout", "20"];
        options.extend(self.verify.iter().map(String::as_str));
        let verify = site.run("verify", &options);
        let between = self.look();
        let mut touched: Vec<String> =
            before.changes(&between).into_iter().map(|change| format!("by verify: {change}")).collect();
        let show = site.run("show", &[id]);
        let trouble = self.restore(id, &expected).err().into_iter().flatten().collect();
        touched.extend(between.changes(&self.look()).into_iter().map(|change| format!("by the clone: {change}")));
        let now = self.answers(&site.cluster);
        touched.extend(differences(&expected, &now).into_iter().map(|line| format!("in the original: {line}")));
        Rehearsed { verify, show, trouble, touched }
    }

    fn answers(&self, cluster: &Cluster) -> Contents {
        let mut answers = contents(cluster);
        for question in &self.questions {
            answers.insert(question.clone(), cluster.calm_sql_in(cluster.database(), question));
        }
        answers
    }

    /// What lies around.
    fn look(&self) -> Footprint {
        let site = self.site;
        let restored = self.target();
        let parent = restored.parent().unwrap_or(Path::new("/")).to_owned();
        let proofs = site.object("proofs");
        // Where it really is, for it may be a link.
        let wal = [&site.cluster, self.source].map(|server| {
            let path = server.data().join("pg_wal");
            path.canonicalize().unwrap_or(path)
        });
        let mut roots = vec![site.place().to_owned(), site.fs().path().to_owned()];
        roots.extend(self.watched.iter().cloned());
        Footprint::of(&roots, |path| {
            if path.starts_with(&parent) || path.starts_with(&proofs) {
                Look::Away
            } else if wal.iter().any(|wal| path.starts_with(wal)) || path.ends_with("global/pg_control") {
                Look::Loosely
            } else {
                Look::Closely
            }
        })
    }

    fn target(&self) -> PathBuf {
        self.site.fs().path().join("restored").join("clone")
    }

    /// Restores as a clone, starts it the way a person does, compares, and writes.
    fn restore(&self, id: &str, expected: &Contents) -> Result<(), Vec<String>> {
        let (site, target) = (self.site, self.target());
        let place = site.fs().path().join("restored");
        // That of an earlier rehearsal.
        let _ = std::fs::remove_dir_all(&place);
        user::make_dir(&place);
        let text = target.display().to_string();
        let mut options = vec![id.to_owned(), text, clone_option(site).to_owned()];
        options.extend(relocation(self.source, &target));
        options.extend(self.restore.iter().cloned());
        let ran = site.run("restore", &options.iter().map(String::as_str).collect::<Vec<_>>());
        if !ran.success() {
            return Err(vec![format!("restore: {}", ran.stderr)]);
        }
        let mut clone = Cluster::adopt_as_it_is(site.cluster.installation(), &target);
        clone.set_user(site.cluster.user());
        clone.set_database(site.cluster.database());
        self.server_options.iter().for_each(|(name, value)| clone.option(name, value));
        let started = clone.try_start();
        if !started.success() {
            return Err(vec![format!("start: {}{}\n{}", started.stdout, started.stderr, clone.log())]);
        }
        let mut trouble = Vec::new();
        match until_open(&clone) {
            Err(reason) => trouble.push(reason),
            Ok(()) => {
                let held = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.answers(&clone)));
                match held {
                    Ok(held) => trouble.extend(differences(expected, &held)),
                    Err(_) => trouble.push("its contents cannot be read".to_owned()),
                }
                trouble.extend(write(&clone).err());
                trouble.extend(checks::amcheck_calm(&clone).err());
            }
        }
        if clone.is_running() {
            clone.stop(Stop::Fast);
            trouble.extend(checks::bad_checksums(clone.installation(), clone.data()));
        }
        if trouble.is_empty() { Ok(()) } else { Err(trouble) }
    }
}

/// The option of `restore` that makes a clone.
fn clone_option(site: &Site) -> &'static str {
    let help = site.snap.run(["restore", "--help"]).stdout;
    if help.contains("--clone") { "--clone" } else { "--no-archiving" }
}

/// The options that put the tablespaces of a cluster beside a new data directory.
fn relocation(source: &Cluster, target: &Path) -> Vec<String> {
    let option = |(at, (name, _)): (usize, &(String, PathBuf))| {
        ["--tablespace".to_owned(), format!("{name}:{}", target.with_extension(format!("ts{at}")).display())]
    };
    source.tablespaces().iter().enumerate().flat_map(option).collect()
}

/// Waits until a restored server has ended its recovery.
fn until_open(clone: &Cluster) -> Result<(), String> {
    for _ in 0..150 {
        if !clone.is_running() {
            return Err(format!("it has stopped: {}", clone.log()));
        }
        let ran = clone.try_calm_sql_in(clone.database(), "SELECT pg_is_in_recovery()");
        if ran.success() && ran.text() == "f" {
            return Ok(());
        }
        pass(Duration::from_millis(100));
    }
    Err(format!("it does not end its recovery: {}", clone.log()))
}

/// Whether a restored server takes writes, and commits them by itself.
fn write(clone: &Cluster) -> Result<(), String> {
    let psql = clone.command("psql");
    let mut command = Command::new("timeout");
    command.arg("20").arg(psql.get_program()).env_clear();
    command.envs(psql.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("PGOPTIONS", crate::pg::CALM);
    let statement = "CREATE TABLE public.written AS SELECT 1 AS i";
    let ran = attempt(command.args(["-XAqt", "-v", "ON_ERROR_STOP=1", "-c", statement]));
    if ran.success() {
        Ok(())
    } else {
        Err(format!("it takes no writes ({}): {}{}", ran.status, ran.stderr, clone.log()))
    }
}

/// The one snapshot tree of a backup whose volumes' names hold `word`: where damage is done to a backup.
#[track_caller]
pub fn snapshot_of(site: &Site, id: &str, word: &str) -> PathBuf {
    let shown = site.show(id);
    let snapshots = shown["copy_stats"]["barman_snap"]["snapshots"].as_array().expect("the record lists them").clone();
    let paths = snapshots.iter().filter_map(|one| one["ticket"]["snapshot"].as_str()).map(PathBuf::from);
    let mut paths = paths.filter(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().contains(word))
            && path.components().any(|part| part.as_os_str() == SNAPSHOT_DIRECTORY)
    });
    paths.next().unwrap_or_else(|| panic!("no snapshot of {SERVER} with {word} in its name: {snapshots:?}"))
}
