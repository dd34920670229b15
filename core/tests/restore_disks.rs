//! A real PostgreSQL on three disks, restored to new ones: data directory, tablespace, and WAL each on a file system of its
//! own, in a cloud of loop devices. With one command, to volumes mounted by hand, as a verification; with every call failing
//! in turn, and killed in the middle.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests may panic, and say why they skip")]

mod support;
mod support_disks;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use barman_snap::catalog::Catalog;
use barman_snap::catalog::store::StoreOptions;
use barman_snap::clock::Clock;
use barman_snap::engine::Engine;
use barman_snap::error::{Error, ErrorKind, Result, Retry};
use barman_snap::host::MountTable;
use barman_snap::id::BackupId;
use barman_snap::provider::SnapshotProvider;
use barman_snap::restore::proof::Outcome;
use barman_snap::restore::{
    DeviceWishes, Purpose, RestoreEvent, RestorePlan, RestoreRequest, Restored, SqlCheck, Tools, VerifyOptions,
    WalSource, provision,
};
use barman_snap::session::{BackupRequest, CancelToken, WalPolicy};
use barman_snap::testing::{Call, Moment};
use chrono::{DateTime, FixedOffset, Utc};
use support::{Cluster, bin_dirs, give, major, path};
use support_disks::{Disk, LoopCloud, run, why_not};

const SUM: &str = "SELECT sum(n) || ' ' || count(*) FROM (SELECT n FROM one UNION ALL SELECT n FROM main) AS all_rows";
/// In the environment of a child: a directory with what it needs, and the volume before whose `attach` it stops.
const CHILD: &str = "BARMAN_SNAP_TEST_RESTORE_CHILD";

/// A server on three disks, and a backup of it. What goes first when it is dropped stands first.
struct World {
    cluster: Cluster,
    cloud: Dropped,
    place: tempfile::TempDir,
    id: BackupId,
    sum: String,
}

/// A cloud that is taken down at the end.
struct Dropped(LoopCloud);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.demolish();
    }
}

impl World {
    /// `None` after saying why there can be none here.
    async fn new() -> Option<Self> {
        if let Some(why) = why_not() {
            eprintln!("skipped: {why}");
            return None;
        }
        let bin = bin_dirs().into_iter().max_by_key(|bin| major(bin) == 17).unwrap();
        let place = tempfile::Builder::new().prefix("barman-snap-disks-").tempdir_in("/var/tmp").unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let at = |name: &str| place.path().join(name);
        let disk = |id: &str, fs_type| Disk::new(id, fs_type, &at("images"), &at(id));
        let disks = vec![disk("data", "ext4"), disk("space", "xfs"), disk("wal", "ext4")];
        let cloud = Dropped(LoopCloud::new(&at("cloud"), disks));
        for name in ["space/ts1", "archive"] {
            fs::create_dir(at(name)).unwrap();
            give(&at(name));
        }
        give(&at("wal"));
        let dir = tempfile::Builder::new().prefix("pg-").tempdir_in(at("data")).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        give(dir.path());
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let cluster = Cluster { bin, dir, port };
        let (data, wal) = (cluster.data(), at("wal/pg_wal"));
        let options = ["-U", "postgres", "-A", "trust", "--no-sync", "--data-checksums", "-X", path(&wal)];
        cluster.run("initdb", &[&["-D", path(&data)][..], &options].concat());
        let archive = format!("cp %p {}/%f", at("archive").display());
        cluster.configure(&format!("archive_mode = on\narchive_command = '{archive}'"));
        cluster.up();
        cluster.sql(&format!("CREATE TABLESPACE ts1 LOCATION '{}'", at("space/ts1").display()));
        cluster.sql("CREATE TABLE one (n bigint PRIMARY KEY) TABLESPACE ts1");
        cluster.sql("CREATE TABLE main (n bigint)");
        cluster.sql("INSERT INTO one SELECT generate_series(1, 20000)");
        cluster.sql("INSERT INTO main SELECT generate_series(1, 5000)");
        let mut world = Self { cluster, cloud, place, id: "20260529T095900".parse().unwrap(), sum: String::new() };
        world.back_up().await;
        Some(world)
    }

    async fn back_up(&mut self) {
        let engine = self.engine().await;
        let control = self.cluster.connect("").await.unwrap();
        let request =
            BackupRequest { immediate_checkpoint: true, wal: WalPolicy::External, ..BackupRequest::default() };
        let mut session = engine.backup(Box::new(control), &request).await.unwrap();
        self.id = session.run().await.unwrap().backup_id;
        // Rows that are in no snapshot, only in the WAL.
        self.cluster.sql("INSERT INTO main SELECT generate_series(5001, 7000)");
        self.sum = self.cluster.sql(SUM);
        let segment = self.cluster.sql("SELECT pg_walfile_name(pg_switch_wal())");
        let file = self.at("archive").join(segment);
        for _ in 0..600 {
            if fs::metadata(&file).is_ok_and(|meta| meta.len() == 16 << 20) {
                return;
            }
            nap();
        }
        panic!("{} was never archived", file.display());
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    async fn engine(&self) -> Engine {
        self.engine_on(self.cloud.0.clone()).await
    }

    async fn engine_on(&self, cloud: LoopCloud) -> Engine {
        let catalog = Catalog::open(path(&self.at("catalog")), &StoreOptions::default(), "main").await.unwrap();
        Engine::on(catalog).provider(Arc::new(cloud)).build()
    }

    fn wal(&self) -> WalSource {
        WalSource::Command(format!("cp {}/%f %p", self.at("archive").display()))
    }

    /// To `new` and `fast` beside the original disks.
    fn request(&self, engine: &Engine) -> RestoreRequest {
        let inside = self.cluster.data().strip_prefix(self.at("data")).unwrap().to_owned();
        let mut request = RestoreRequest::new(self.at("new").join(inside), self.wal(), engine.ids().token());
        request.tablespaces = vec![format!("ts1:{}", self.at("fast/ts1").display()).parse().unwrap()];
        request.purpose = Some(Purpose::Clone);
        request
    }

    async fn plan(&self) -> RestorePlan {
        let engine = self.engine().await;
        engine.plan_restore(&self.id, &self.request(&engine)).await.unwrap()
    }

    /// Starts what was restored and compares it with the original; it is stopped afterwards.
    fn prove(&self, target: &Path) {
        let log = self.at("restored.log");
        let options = format!("-p {} -k {} -c listen_addresses=", self.cluster.port + 1, path(self.cluster.dir.path()));
        let start = ["-D", path(target), "-l", path(&log), "-w", "-t", "60", "-o", &options, "start"];
        fs::write(&log, "").unwrap();
        give(&log);
        self.cluster.run("pg_ctl", &start);
        let port = (self.cluster.port + 1).to_string();
        let sql = |sql: &str| {
            let to = ["-XAtq", "-h", self.cluster.socket(), "-p", &port, "-U", "postgres", "-c", sql];
            self.cluster.run("psql", &to)
        };
        for _ in 0..600 {
            if sql("SELECT pg_is_in_recovery()") == "f" {
                break;
            }
            nap();
        }
        assert_eq!(sql(SUM), self.sum);
        assert_eq!(
            sql("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'ts1'"),
            path(&self.at("fast/ts1"))
        );
        self.cluster.run("pg_ctl", &["-D", path(target), "-m", "fast", "-w", "stop"]);
    }

    /// Nothing of a restore is left: no volume, no mount, no directory, no device.
    fn assert_clean(&self, when: &str) {
        assert_eq!(self.cloud.0.volumes_left(), [""; 0], "{when}");
        for name in ["new", "fast"] {
            assert!(!self.at(name).exists(), "{when}: {name} is left");
        }
        let table = MountTable::current().unwrap();
        let mounted: BTreeSet<_> =
            table.below(self.place.path()).iter().map(|mount| mount.mount_point.clone()).collect();
        assert_eq!(mounted, ["data", "space", "wal"].map(|name| self.at(name)).into(), "{when}");
        let attached = run(&["losetup", "-n", "-O", "BACK-FILE"]);
        assert!(!attached.contains(path(&self.at("cloud"))), "{when}: {attached}");
    }

    async fn remove(&self, restored: &Restored) {
        let devices = restored.devices.as_ref().unwrap();
        for mount in devices.mounts.iter().rev() {
            run(&["umount", path(&mount.mount_point)]);
        }
        for volume in &restored.volumes {
            self.cloud.0.detach(volume, &devices.instance).await.unwrap();
            self.cloud.0.delete_volume(volume).await.unwrap();
        }
        devices.directories.iter().rev().for_each(|directory| fs::remove_dir(directory).unwrap());
    }
}

fn nap() {
    Command::new("sleep").arg("0.05").status().unwrap();
}

/// A clock whose waiting costs no time.
#[derive(Debug, Default)]
struct FastClock(Mutex<Duration>);

#[async_trait]
impl Clock for FastClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(1_780_000_000, 0).unwrap() + self.monotonic()
    }

    fn local(&self) -> DateTime<FixedOffset> {
        self.now().fixed_offset()
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    async fn sleep(&self, duration: Duration) {
        *self.0.lock().unwrap() += duration;
        tokio::task::yield_now().await;
    }
}

async fn carry_out(plan: &RestorePlan, cloud: &LoopCloud) -> Result<Restored> {
    let clock = FastClock::default();
    provision(plan, Tools { provider: cloud, clock: &clock, cancelled: &|| false, progress: &|_| {} }).await
}

/// Everything below is the server's user's.
fn assert_owned(directory: &Path, uid: u32) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let meta = fs::symlink_metadata(entry.path()).unwrap();
        assert_eq!(meta.uid(), uid, "{}", entry.path().display());
        if meta.is_dir() {
            assert_owned(&entry.path(), uid);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_makes_new_disks_and_a_server_on_them() {
    let Some(world) = World::new().await else { return };
    let engine = world.engine().await;
    // The original places are taken.
    let mut request = world.request(&engine);
    request.target = world.cluster.data();
    let error = engine.plan_restore(&world.id, &request).await.unwrap_err();
    assert!(error.message().ends_with("is not empty"), "{error}");
    let request = world.request(&engine);
    let plan = engine.plan_restore(&world.id, &request).await.unwrap();
    assert!(plan.warnings.iter().any(|warning| warning.contains("/wal is not made again")), "{:?}", plan.warnings);
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = {
        let told = Arc::clone(&told);
        Arc::new(move |event: RestoreEvent| told.lock().unwrap().push(event)) as _
    };
    let restored = engine.restore(&plan, &CancelToken::new(), &listener).await.unwrap();
    let devices = restored.devices.clone().unwrap();
    let mounted: Vec<_> =
        devices.mounts.iter().map(|mount| (mount.fs_type.as_str(), mount.mount_point.clone())).collect();
    assert_eq!(mounted, [("xfs", world.at("fast")), ("ext4", world.at("new"))]);
    assert_eq!(devices.mounts[0].options, "noatime,nosuid,nodev,nouuid");
    for mount in &devices.mounts {
        // The original has the same UUID, and is mounted here.
        assert_eq!(mount.fstab.split(' ').next().unwrap(), path(&mount.device), "{}", mount.fstab);
        assert!(mount.warnings[0].contains("has the same UUID"), "{:?}", mount.warnings);
    }
    assert_eq!(told.lock().unwrap().last(), Some(&RestoreEvent::Prepared));
    assert_eq!(told.lock().unwrap().iter().filter(|event| matches!(event, RestoreEvent::Mounted { .. })).count(), 2);
    let json = serde_json::to_string(&restored).unwrap();
    assert_eq!(serde_json::from_str::<Restored>(&json).unwrap(), restored);

    let wal = fs::symlink_metadata(restored.target.join("pg_wal")).unwrap();
    assert!(wal.is_dir() && !wal.is_symlink(), "pg_wal is a directory of its own");
    let uid = fs::metadata(world.cluster.data()).unwrap().uid();
    assert_owned(&restored.target, uid);
    assert_owned(&world.at("fast/ts1"), uid);
    world.prove(&restored.target);
    assert_eq!(world.cluster.sql(SUM), world.sum, "the original has noticed nothing");
    world.remove(&restored).await;
    world.assert_clean("after removal");
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_the_user_has_mounted_are_checked_and_prepared() {
    let Some(world) = World::new().await else { return };
    let engine = world.engine().await;
    let mut request = world.request(&engine);
    request.devices = Some(DeviceWishes { instance: Some("this-host".into()), mounted: true });
    // As by hand: the volumes are made, attached and mounted by somebody else.
    let made = carry_out(&world.plan().await, &world.cloud.0).await.unwrap();
    run(&["umount", path(&world.at("fast"))]);
    let error = engine.plan_restore(&world.id, &request).await.unwrap_err();
    assert!(error.message().contains("tablespace \"ts1\" has to be at"), "{error}");
    assert!(error.message().ends_with("is not mounted"), "{error}");
    let space = made.devices.as_ref().unwrap().mounts.iter().find(|mount| mount.fs_type == "xfs").unwrap();
    run(&["mount", "-o", "nouuid", path(&space.device), path(&world.at("fast"))]);
    // What a crash leaves: the process of the original lives, on another directory.
    fs::copy(world.cluster.data().join("postmaster.pid"), made.target.join("postmaster.pid")).unwrap();

    let plan = engine.plan_restore(&world.id, &request).await.unwrap();
    assert!(plan.warnings.iter().any(|warning| warning.contains("with other options")), "{:?}", plan.warnings);
    let restored = engine.restore(&plan, &CancelToken::new(), &(Arc::new(|_| {}) as _)).await.unwrap();
    assert_eq!((restored.volumes.len(), restored.devices.unwrap().mounts.len()), (0, 0));
    assert!(!restored.target.join("postmaster.pid").exists());
    world.prove(&restored.target);
    request.devices = Some(DeviceWishes { instance: Some("elsewhere".into()), mounted: true });
    assert_eq!(engine.plan_restore(&world.id, &request).await.unwrap_err().kind(), ErrorKind::NotFound);
    world.remove(&made).await;
    world.assert_clean("after removal");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_proven_on_throw_away_disks() {
    let Some(world) = World::new().await else { return };
    let engine = world.engine().await;
    let check =
        SqlCheck { database: "postgres".into(), sql: "SELECT count(*) FROM one".into(), expect: Some("20000".into()) };
    let options = VerifyOptions {
        work_dir: Some(world.place.path().to_owned()),
        bin_dir: Some(world.cluster.bin.clone()),
        sql: vec![check],
        ..VerifyOptions::default()
    };
    let quiet = Arc::new(|_| {}) as _;
    let proof = engine.verify(&world.id, &world.wal(), &options, &CancelToken::new(), &quiet).await.unwrap();
    assert!(proof.passed, "{}", proof.to_json().unwrap());
    let checksums = proof.checks.iter().find(|check| check.name == "checksums").unwrap();
    assert_eq!(checksums.outcome, Outcome::Passed, "{}", checksums.detail);
    world.assert_clean("after a proof");
    assert_no_workplace(&world);

    // Cancelled at each of its steps.
    for steps in [0, 2, 4, 5, 7, 8] {
        let cancel = CancelToken::new();
        let seen = AtomicUsize::new(0);
        let listener = {
            let cancel = cancel.clone();
            Arc::new(move |_| {
                if seen.fetch_add(1, Ordering::Relaxed) == steps {
                    cancel.cancel();
                }
            }) as _
        };
        let error = engine.verify(&world.id, &world.wal(), &options, &cancel, &listener).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{steps}: {}", error.chain());
        world.assert_clean(&format!("cancelled at step {steps}"));
        assert_no_workplace(&world);
    }

    // The whole future is dropped while a server runs on the new disks: the volumes stay, and nothing is removed through
    // a mount.
    let open = Arc::new(tokio::sync::Notify::new());
    let listener = {
        let open = Arc::clone(&open);
        Arc::new(move |event| {
            if event == (RestoreEvent::Checking { name: "amcheck".into() }) {
                open.notify_one();
            }
        }) as _
    };
    let (cancel, wal) = (CancelToken::new(), world.wal());
    tokio::select! {
        biased;
        () = open.notified() => {}
        result = engine.verify(&world.id, &wal, &options, &cancel, &listener) => panic!("{result:?}"),
    }
    assert_no_workplace(&world);
    let left = world.cloud.0.volumes_left();
    assert_eq!(left.len(), 2, "{left:?}");
}

fn assert_no_workplace(world: &World) {
    let entries = fs::read_dir(world.place.path()).unwrap().flatten().map(|entry| entry.file_name());
    let left: Vec<_> = entries.filter(|name| name.to_string_lossy().starts_with("barman-snap-verify-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_nothing_is_left() {
    let Some(world) = World::new().await else { return };
    let plan = world.plan().await;
    let cloud = &world.cloud.0;
    let failing = |wanted: (Call, Moment), about: &'static str, error: fn() -> Error| {
        cloud.with_faults(move |call, moment, name| ((call, moment) == wanted && name.contains(about)).then(error))
    };
    let plain = || Error::new(ErrorKind::PermissionDenied, "no");
    let lost = || Error::new(ErrorKind::Unavailable, "no reply").with_retry(Retry::Unknown);
    use Call::{Attach, CreateVolume};
    use Moment::{After, Before};
    for (when, about, error) in [
        ((CreateVolume, Before), "data", plain as fn() -> Error),
        ((CreateVolume, Before), "space", plain),
        ((CreateVolume, Before), "", plain),
        ((CreateVolume, After), "data", lost),
        ((CreateVolume, After), "", lost),
        ((Attach, Before), "data", plain),
        ((Attach, Before), "space", plain),
        ((Attach, After), "data", lost),
        ((Attach, After), "space", lost),
    ] {
        let failed = carry_out(&plan, &failing(when, about, error)).await.unwrap_err();
        assert!(failed.message() == "no" || failed.message() == "no reply", "{}", failed.chain());
        assert!(failed.context().iter().any(|(key, _)| *key == "undone"), "{when:?}: {}", failed.chain());
        world.assert_clean(&format!("{when:?} of {about:?}"));
    }

    // What is on the disks is not what it should be.
    let spoil = |at: u64, bytes: usize| {
        let inner = cloud.clone();
        cloud.with_faults(move |call, moment, volume| {
            if (call, moment) == (Attach, Before) && volume.contains("data") {
                let image = fs::OpenOptions::new().write(true).open(inner.image(volume)).unwrap();
                image.write_all_at(&vec![0xEE; bytes], at).unwrap();
            }
            None
        })
    };
    let failed = carry_out(&plan, &spoil(1024, 1024)).await.unwrap_err();
    assert!(failed.message().contains("mount"), "{}", failed.chain());
    world.assert_clean("no file system");
    let failed = carry_out(&plan, &spoil(1024 + 0x68, 16)).await.unwrap_err();
    assert!(failed.message().contains("has the file system eeeeeeee-eeee"), "{}", failed.chain());
    world.assert_clean("another file system");
    let mut other = plan.clone();
    other.devices.as_mut().unwrap().system_id = Some("1".into());
    let failed = carry_out(&other, cloud).await.unwrap_err();
    assert!(failed.message().contains("is the data directory of another cluster"), "{}", failed.chain());
    world.assert_clean("another cluster");
    let failed = carry_out(&RestorePlan { major: 9, ..plan.clone() }, cloud).await.unwrap_err();
    assert!(failed.message().contains("is not a data directory of PostgreSQL 9"), "{}", failed.chain());
    world.assert_clean("prepare fails");

    // The mount point was taken after the plan was made: what is there stays.
    fs::create_dir(world.at("new")).unwrap();
    fs::write(world.at("new/precious"), "x").unwrap();
    let failed = carry_out(&plan, cloud).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Conflict, "{}", failed.chain());
    assert_eq!(fs::read(world.at("new/precious")).unwrap(), b"x");
    fs::remove_dir_all(world.at("new")).unwrap();
    world.assert_clean("taken");

    // An option that this kernel does not know is left out, with a warning.
    let mut odd = plan.clone();
    odd.devices.as_mut().unwrap().mounts.iter_mut().for_each(|mount| mount.options = "noatime,no_such_option".into());
    let restored = carry_out(&odd, cloud).await.unwrap();
    let warned = restored
        .devices
        .as_ref()
        .unwrap()
        .mounts
        .iter()
        .filter(|mount| mount.warnings.iter().any(|warning| warning.contains("no_such_option")));
    assert_eq!(warned.count(), 2);
    world.remove(&restored).await;
    world.assert_clean("odd options");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_restore_takes_everything_back() {
    let Some(world) = World::new().await else { return };
    let plan = world.plan().await;
    for moments in 0.. {
        let asked = AtomicUsize::new(0);
        let cancelled = || asked.fetch_add(1, Ordering::Relaxed) == moments;
        let clock = FastClock::default();
        let tools = Tools { provider: &world.cloud.0, clock: &clock, cancelled: &cancelled, progress: &|_| {} };
        match provision(&plan, tools).await {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled, "{}", error.chain()),
            Ok(restored) => {
                assert!(moments > 6, "it asks before every step, not only {moments} times");
                world.remove(&restored).await;
                break;
            }
        }
        world.assert_clean(&format!("cancelled at the question {moments}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_never_shows_and_a_volume_that_cannot_be_removed_are_named() {
    let Some(world) = World::new().await else { return };
    let plan = world.plan().await;
    let failed = carry_out(&plan, &LoopCloud { blind: true, ..world.cloud.0.clone() }).await.unwrap_err();
    assert!(failed.message().contains("no device of it appeared on this host within 120 s"), "{}", failed.chain());
    world.assert_clean("no device");

    // No reply, and then nobody there to ask.
    let mute = world.cloud.0.with_faults(|call, moment, volume| match (call, moment) {
        (Call::CreateVolume, Moment::After) if volume == "data" => {
            Some(Error::new(ErrorKind::Unavailable, "no reply").with_retry(Retry::Unknown))
        }
        (Call::List, _) => Some(Error::new(ErrorKind::Unavailable, "no list")),
        _ => None,
    });
    let failed = carry_out(&plan, &mute).await.unwrap_err();
    let expected = format!("perhaps volumes with the token {}, whose making got no reply", plan.token);
    assert!(failed.hint().unwrap().ends_with(&expected), "{}", failed.chain());
    for volume in world.cloud.0.list_volumes(&plan.devices.as_ref().unwrap().mark).await.unwrap() {
        world.cloud.0.delete_volume(&volume).await.unwrap();
    }
    world.assert_clean("no list");

    let stuck = world.cloud.0.with_faults(|call, moment, volume| {
        let fails = match call {
            Call::Attach => moment == Moment::After && volume.contains("space"),
            Call::Detach => moment == Moment::Before && volume.contains("data"),
            _ => false,
        };
        fails.then(|| Error::new(ErrorKind::Unavailable, "the cloud is down"))
    });
    let failed = carry_out(&plan, &stuck).await.unwrap_err();
    let hint = failed.hint().unwrap();
    let left = world.cloud.0.volumes_left();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(hint.contains(&left[0]) && hint.contains(plan.token.as_str()), "{hint}");
}

/// Not a test of its own: what the next one runs as a process that it kills.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_is_killed() {
    let Ok(child) = std::env::var(CHILD) else { return };
    let (directory, stop_at) = child.split_once('@').unwrap();
    let directory = PathBuf::from(directory);
    let read = |name: &str| fs::read(directory.join(name)).unwrap();
    let plan: RestorePlan = serde_json::from_slice(&read("plan.json")).unwrap();
    let disks: Vec<Disk> = serde_json::from_slice(&read("disks.json")).unwrap();
    let (stop_at, reached) = (stop_at.to_owned(), directory.join("reached"));
    let cloud = LoopCloud::new(&directory.join("cloud"), disks).with_faults(move |call, moment, name| {
        if (call, moment) == (Call::Attach, Moment::Before) && name.ends_with(&stop_at) {
            fs::write(&reached, "").unwrap();
            loop {
                nap();
            }
        }
        None
    });
    carry_out(&plan, &cloud).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_restore_has_left_is_found_by_its_mark() {
    let Some(world) = World::new().await else { return };
    let plan = world.plan().await;
    let cloud = &world.cloud.0;
    let mark = &plan.devices.as_ref().unwrap().mark;
    assert!(mark.starts_with("main."), "{mark}");
    fs::write(world.at("plan.json"), serde_json::to_vec(&plan).unwrap()).unwrap();
    fs::write(world.at("disks.json"), serde_json::to_vec(&cloud.disks).unwrap()).unwrap();
    // Before the first is attached, and before the second is.
    for (stop_at, unattached) in [("-space", 2), ("-data", 1)] {
        let _ = fs::remove_file(world.at("reached"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_child_that_is_killed", "--nocapture"])
            .env(CHILD, format!("{}@{stop_at}", world.place.path().display()))
            .spawn()
            .unwrap();
        while !world.at("reached").exists() {
            assert!(child.try_wait().unwrap().is_none(), "the child ended before {stop_at}");
            nap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let mine: Vec<_> = cloud.list_volumes(mark).await.unwrap();
        assert_eq!(mine.len(), unattached, "{stop_at}");
        assert!(mine.iter().all(|volume| volume.carries(&plan.token)));
        assert_eq!(cloud.list_volumes("main.other").await.unwrap(), []);
        // What was attached has to be detached by the user, who is told its name by the cloud.
        let instance = cloud.instance(None).await.unwrap();
        let tickets: Vec<_> = plan.devices.iter().flat_map(|d| &d.volumes).map(|v| v.ticket.clone()).collect();
        let attached: Vec<_> = cloud.attached_from(&instance, &tickets).await.unwrap().into_iter().flatten().collect();
        assert_eq!(attached.len(), 2 - unattached, "{stop_at}");
        cloud.demolish_volumes();
        for volume in cloud.list_volumes(mark).await.unwrap() {
            cloud.delete_volume(&volume).await.unwrap();
        }
        world.assert_clean(stop_at);
    }
    let restored = carry_out(&plan, cloud).await.unwrap();
    world.prove(&restored.target);
    world.remove(&restored).await;
}
