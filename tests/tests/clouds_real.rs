//! The main job with a real account of a cloud: a server under load on two of its disks is backed up, the backup is proven on
//! new volumes, and everything is deleted again.
//!
//! It runs on an instance of the cloud, as root, and costs a few cents. It is told by the environment where
//! (`CONTRIBUTING.md`), and skipped without. That it would work is shown on the fakes, by running it there as it runs in a
//! real account.
//!
//! It cleans up after itself, also when it fails: all snapshots and volumes are gone, or named on standard error. Some small
//! objects of the catalog stay below its own server name.
#![allow(clippy::print_stderr, reason = "what could not be removed is for whoever pays for the account")]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use barman_snap_tests::cli::BarmanSnap;
use barman_snap_tests::cloud::{Cloud, CloudSite, INSTANCE, parsed};
use barman_snap_tests::command::{Ran, attempt, run};
use barman_snap_tests::load::{Load, fill};
use barman_snap_tests::pg::{Cluster, Installation};
use barman_snap_tests::site::wait_until_quiet;
use barman_snap_tests::wait::pass;
use barman_snap_tests::{need, own_dev, user};

const URL: &str = "BARMAN_SNAP_REAL_URL";
const MOUNTS: &str = "BARMAN_SNAP_REAL_MOUNTS";
const OPTIONS: &str = "BARMAN_SNAP_REAL_OPTIONS";
const NAMED_INSTANCE: &str = "BARMAN_SNAP_REAL_INSTANCE";

/// What a cloud's credentials and endpoints are told by; everything else of the environment is kept from the commands.
const PREFIXES: [&str; 9] =
    ["AWS_", "AZURE_", "CLOUDSDK_", "GCE_", "GOOGLE_", "IDENTITY_", "MSI_", "OBJECT_STORE_", "STORAGE_EMULATOR"];

/// Where the test may work.
struct Account {
    url: String,
    /// Two mounted disks: for the data, and for a tablespace.
    mounts: [PathBuf; 2],
    options: Vec<String>,
    /// Only where there is no metadata service.
    instance: Option<String>,
    env: Vec<(String, String)>,
}

impl Account {
    fn given() -> Option<Self> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mounts: Vec<PathBuf> = var(MOUNTS)?.split(':').map(PathBuf::from).collect();
        let mounts = mounts.try_into().unwrap_or_else(|_| panic!("{MOUNTS} is DATA:TABLESPACE, two mount points"));
        let options = var(OPTIONS).unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        let env = std::env::vars().filter(|(name, _)| PREFIXES.iter().any(|prefix| name.starts_with(prefix))).collect();
        Some(Self { url: var(URL)?, mounts, options, instance: var(NAMED_INSTANCE), env })
    }
}

/// A server of this test on the disks. Dropping it removes all that is left.
struct Job {
    account: Account,
    server: String,
    places: [PathBuf; 2],
    snap: BarmanSnap,
    cluster: Option<Cluster>,
}

impl Job {
    fn start(account: Account, installation: &Installation, snap: BarmanSnap) -> Self {
        let server = format!("test-{}", std::process::id());
        let places = account.mounts.clone().map(|mount| mount.join(&server));
        let snap = snap.with_env(account.env.clone());
        let mut job = Self { account, server, places, snap, cluster: None };
        for place in &job.places {
            user::make_dir(place);
        }
        let archive = format!("{} wal-archive {} {} %p", job.snap.path().display(), job.account.url, job.server);
        let cluster = Cluster::builder(installation)
            .data(job.places[0].join("data"))
            .tablespace("ts", job.places[1].join("ts"))
            .env(job.account.env.clone())
            .archive_command(&archive)
            .start();
        for place in &job.places {
            run(Command::new("sync").arg("--file-system").arg(place));
        }
        job.cluster = Some(cluster);
        job
    }

    fn cluster(&self) -> &Cluster {
        self.cluster.as_ref().expect("it runs until it is dropped")
    }

    /// `COMMAND URL SERVER REST…` with the options of the account; as the user of the tests, who may mount.
    fn command(&self, command: &str, rest: &[&str]) -> Command {
        let options = self.account.options.iter().map(String::as_str);
        self.command_on_catalog(command, &rest.iter().copied().chain(options).collect::<Vec<_>>())
    }

    /// Without those options: a command that looks at the catalog alone has none of them.
    fn command_on_catalog(&self, command: &str, rest: &[&str]) -> Command {
        let words = [&[command, &self.account.url, &self.server], rest].concat();
        let mut command = self.snap.command_that_mounts(words);
        command.envs(self.cluster.iter().flat_map(Cluster::env));
        command
    }

    #[track_caller]
    fn ok(&self, command: &str, rest: &[&str]) -> Ran {
        run(&mut self.command(command, rest))
    }

    /// The option that names the instance, where it has to be named.
    fn on<'a>(&'a self, option: &'a str) -> Vec<&'a str> {
        self.account.instance.iter().flat_map(|instance| [option, instance.as_str()]).collect()
    }

    fn backups(&self) -> Vec<String> {
        let listed = attempt(&mut self.command_on_catalog("list", &["--format", "json"]));
        let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap_or_default();
        let all = listed["backups_list"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|backup| Some(backup["backup_id"].as_str()?.to_owned())).collect()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let mut commands = vec![self.command("recover", &[])];
        commands.extend(self.backups().iter().map(|id| self.command("delete", &["--backup-id", id])));
        commands.push(self.command("gc", &["--apply"]));
        for mut command in commands {
            let ran = attempt(&mut command);
            if !ran.success() {
                eprintln!("something may be left behind: {}: {}", ran.line, ran.stderr);
            }
        }
        drop(self.cluster.take());
        for place in &self.places {
            if let Err(error) = std::fs::remove_dir_all(place) {
                eprintln!("{} is left behind: {error}", place.display());
            }
        }
    }
}

#[test]
fn the_main_job_with_a_real_account() {
    let Some(account) = Account::given() else {
        eprintln!("skipped: needs an account of a cloud: {URL} and {MOUNTS} are not set (CONTRIBUTING.md)");
        return;
    };
    let installation = need!(Installation::newest());
    let job = Job::start(account, &installation, need!(BarmanSnap::found()));
    fill(job.cluster(), 1);
    let instance = job.on("--snapshot-instance");
    job.cluster().archive_wal();
    println!("{}", job.ok("check", &instance).stdout);
    let load = Load::start(job.cluster(), 2);
    pass(Duration::from_secs(1));
    let id = job.ok("backup", &[instance.as_slice(), &["--immediate-checkpoint"]].concat()).text().to_owned();
    load.stop();
    wait_until_quiet(job.cluster());
    job.cluster().archive_wal();
    assert_eq!(job.backups(), [id.as_str()]);
    let bin = installation.bin().display().to_string();
    let how = ["--all-wal", "--pg-bin-dir", &bin, "--sql", "SELECT count(*) > 0 FROM in_ts", "--format", "json"];
    let proof = job.ok("verify", &[&[id.as_str()], job.on("--snapshot-recovery-instance").as_slice(), &how].concat());
    let proof = parsed(&proof);
    assert_eq!(proof["passed"], true, "{proof:#}");
    job.ok("delete", &["--backup-id", &id]);
    assert_eq!(job.ok("gc", &[]).text(), "nothing to remove");
    println!("{id} was taken, proven on new volumes, and deleted");
}

/// Runs the test above as it runs in a real account.
#[track_caller]
fn works_on_the_fake(cloud: Cloud) {
    let installation = need!(Installation::newest());
    let site = need!(CloudSite::plan(cloud, &installation).start());
    let mount = |number: usize| site.mounts[number].point().display().to_string();
    let disks = site.disks();
    let mut test = Command::new(std::env::current_exe().expect("a test knows its program"));
    test.args(["--exact", "the_main_job_with_a_real_account", "--nocapture"]);
    test.envs(site.api.env().iter().cloned()).env(URL, site.api.catalog()).env(OPTIONS, site.options().join(" "));
    test.env(MOUNTS, format!("{}:{}", mount(0), mount(1))).env(NAMED_INSTANCE, INSTANCE);
    let ran = run(&mut test);
    assert!(ran.stdout.contains("proven on new volumes"), "{}{}", ran.stdout, ran.stderr);
    assert!(!ran.stderr.contains("left behind"), "{}", ran.stderr);
    assert_eq!((site.snapshots(), site.disks()), (Vec::new(), disks));
}

#[test]
fn the_test_with_a_real_account_works_on_aws() {
    own_dev!();
    works_on_the_fake(Cloud::Aws);
}

#[test]
fn the_test_with_a_real_account_works_on_gcp() {
    own_dev!();
    works_on_the_fake(Cloud::Gcp);
}

#[test]
fn the_test_with_a_real_account_works_on_azure() {
    own_dev!();
    works_on_the_fake(Cloud::Azure);
}
