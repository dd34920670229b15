//! The provider for Google Cloud passes the suites against the fake of Compute Engine, with real file systems on its disks;
//! and what only this cloud does: instant snapshot groups, errors that only an operation tells, disks made of snapshots.
//!
//! The environment of a process cannot be changed safely, and endpoint, credentials and this machine's name are found by it. So
//! the test that the runner sees lays out the world and runs the other one of this file with the environment of the fake.
#![allow(clippy::unwrap_used, reason = "a panic is a failure")]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use barman_snap::ErrorKind;
use barman_snap::clock::{Clock, SystemClock};
use barman_snap::conformance::{self, Fixture};
use barman_snap::error::Retry;
use barman_snap::host::devices::DeviceHint;
use barman_snap::id::{IdSource, SystemIds, Token};
use barman_snap::provider::gcp::Gcp;
use barman_snap::provider::options::{GcpOptions, ProviderOptions};
use barman_snap::provider::{
    CreateRequest, CreateVolumeRequest, Instance, RestoredVolume, SnapshotProvider, SnapshotState, Ticket, Volume,
    VolumeSelection, VolumeSnapshot,
};
use barman_snap_tests::cloud::{Api, Cloud, CloudSet, Fault, GuestFs, Mounted};
use barman_snap_tests::scratch::Scratch;
use barman_snap_tests::{need, own_dev};
use serde_json::json;

const ENDPOINT: &str = "BARMAN_SNAP_TEST_GCP_ENDPOINT";
const PLACE: &str = "BARMAN_SNAP_TEST_GCP_PLACE";
/// What the suites work on: two zonal disks, or the two of a consistency group.
const DISKS: &str = "BARMAN_SNAP_TEST_GCP_DISKS";
const CREATE: &str = "compute.snapshots.create";

#[test]
fn the_provider_passes_the_suites_against_the_fake() {
    own_dev!();
    let set = need!(CloudSet::start(&[Cloud::Gcp]));
    let api = set.of(Cloud::Gcp);
    let place = Scratch::new();
    api.create_instance("pg1", &json!({}));
    api.create_instance("pg2", &json!({}));
    let group = json!({"consistency_group": "pg"});
    // `data` ends like `pg-data`; one disk is regional, one of a type of its own.
    let disks = [
        ("pg-data", json!({"type": "hyperdisk-balanced", "iops": 5000, "throughput": 300})),
        ("data", json!({"region": "europe-west1", "type": "pd-ssd"})),
        ("one", group.clone()),
        ("two", group),
    ];
    for (name, more) in &disks {
        api.create_disk(name, 1, more);
    }
    api.create_disk("loose", 1, &json!({}));
    api.create_disk("theirs", 1, &json!({}));
    api.attach("pg2", "theirs");
    let _mounts = disks.map(|(name, _)| {
        let device = api.attach("pg1", name).paths.swap_remove(0);
        let made = Command::new("mkfs.ext4").arg("-q").arg(&device).status();
        assert!(made.unwrap().success());
        Mounted::new(GuestFs::Ext4, &device, &place.path().join(name))
    });
    api.settings(&json!({"cut_ms": 20, "ready_ms": 150, "more": {"access_token": "ya29.fake", "page_size": 1}}));
    for disks in ["pg-data,data", "one,two"] {
        let mut inner = Command::new(std::env::current_exe().unwrap());
        inner.args(["--exact", "inside", "--include-ignored", "--nocapture"]);
        inner.envs(api.env().iter().cloned()).env(ENDPOINT, api.endpoint()).env(PLACE, place.path()).env(DISKS, disks);
        inner.env_remove("GOOGLE_APPLICATION_CREDENTIALS").env("HOME", place.path());
        let done = inner.output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        eprintln!("{out}{err}");
        assert!(done.status.success() && out.contains("1 passed"), "see above");
    }
    let world = api.world();
    assert!(world.snapshots.is_empty(), "nothing is left: {:?}", world.snapshots);
    assert_eq!(world.disks.len(), 8, "no disk is left: {:?}", world.disks);
}

#[test]
#[ignore = "is run by the other test, with the environment of the fake"]
fn inside() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let gcp = Google::new();
        let report = conformance::run(&gcp).await;
        eprintln!("{report}");
        for (name, why) in report.skipped() {
            assert!(why.contains("to devices"), "{name}: {why}");
        }
        if gcp.disks[0] == "one" {
            a_group_is_cut_promoted_and_removed(&gcp).await;
            a_group_whose_list_lags_is_none_that_failed(&gcp).await;
            return;
        }
        names_of_disks_are_resolved_as_the_errors_say(&gcp).await;
        a_disk_is_made_of_a_snapshot_and_has_its_bytes(&gcp).await;
        what_carries_another_token_is_not_deleted(&gcp).await;
        what_google_says_is_passed_on(&gcp).await;
        an_operation_is_kept_and_tells_why(&gcp).await;
        what_cannot_be_seen_is_not_gone(&gcp).await;
        what_comes_late_or_is_listed_late_is_found(&gcp).await;
    });
}

struct Google {
    provider: Gcp,
    api: Api,
    place: PathBuf,
    disks: Vec<String>,
    /// What `open` has mounted, by the id of the disk.
    opened: Mutex<BTreeMap<String, Mounted>>,
}

/// Without options: all of it comes from the environment and the metadata server.
fn provider() -> Gcp {
    Gcp::new(&ProviderOptions::default()).unwrap()
}

impl Google {
    fn new() -> Self {
        let endpoint = std::env::var(ENDPOINT).unwrap();
        Self {
            provider: provider(),
            api: Api::at(Cloud::Gcp, &endpoint),
            place: PathBuf::from(std::env::var_os(PLACE).unwrap()),
            disks: std::env::var(DISKS).unwrap().split(',').map(str::to_owned).collect(),
            opened: Mutex::default(),
        }
    }

    async fn instance(&self) -> Instance {
        self.provider.instance(None).await.unwrap()
    }

    async fn request(&self, names: &[&str]) -> CreateRequest {
        let instance = self.instance().await;
        let selection = VolumeSelection::Named(names.iter().map(|name| (*name).to_owned()).collect());
        let volumes = self.provider.volumes(&instance, &selection).await.unwrap();
        let backup_id = "20260529T101112".parse().unwrap();
        let named = |volume: Volume| VolumeSnapshot { name: self.provider.snapshot_name(&volume, &backup_id), volume };
        CreateRequest {
            token: SystemIds.token(),
            mark: "main.0123456789abcdef".into(),
            instance,
            volumes: volumes.into_iter().map(named).collect(),
            tags: BTreeMap::new(),
            backup_id,
        }
    }

    /// Waits for the end of a snapshot: none if it is ready, else why it failed.
    async fn end(&self, ticket: &Ticket) -> Option<String> {
        loop {
            match self.provider.status(ticket).await.unwrap().state {
                SnapshotState::Ready => return None,
                SnapshotState::Failed { reason } => return Some(reason),
                SnapshotState::Creating | SnapshotState::Cut => self.pause().await,
            }
        }
    }
}

#[async_trait]
impl Fixture for Google {
    fn provider(&self) -> &dyn SnapshotProvider {
        &self.provider
    }

    fn later(&self) -> Box<dyn SnapshotProvider> {
        Box::new(provider())
    }

    fn volume_names(&self) -> Vec<String> {
        self.disks.clone()
    }

    async fn write(&self, volume: &Volume, path: &Path, bytes: &[u8]) {
        let path = volume.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        // A disk knows only what was flushed.
        rustix::fs::syncfs(File::open(&path).unwrap()).unwrap();
    }

    async fn open(&self, volume: &RestoredVolume) -> Option<PathBuf> {
        let mounted = Mounted::new(GuestFs::Ext4, &device(&volume.hints), &self.scratch());
        let point = mounted.point().to_owned();
        self.opened.lock().unwrap().insert(volume.id.clone(), mounted);
        Some(point)
    }

    async fn close(&self, volume: &RestoredVolume) {
        self.opened.lock().unwrap().remove(&volume.id);
    }

    fn scratch(&self) -> PathBuf {
        self.place.join(SystemIds.token().as_str())
    }

    fn token(&self) -> Token {
        SystemIds.token()
    }

    async fn pause(&self) {
        SystemClock::new().sleep(Duration::from_millis(20)).await;
    }
}

async fn names_of_disks_are_resolved_as_the_errors_say(gcp: &Google) {
    let instance = gcp.instance().await;
    assert_eq!(instance.name, "pg1", "by the metadata server");
    let select = async |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        gcp.provider.volumes(&instance, &VolumeSelection::Named(names)).await
    };
    let same = ["data", "regions/europe-west1/disks/data", "projects/proj-1/regions/europe-west1/disks/data"];
    let twice = select(&same).await.unwrap();
    assert_eq!(twice.len(), 1, "a disk by name and by link is one volume");
    assert_eq!(twice[0].attributes["disk_type"], "pd-ssd");
    assert!(twice[0].mount_point.ends_with("data") && !twice[0].mount_point.ends_with("pg-data"));
    for (names, kind, parts) in [
        (vec!["nothing", "loose"], ErrorKind::NotFound, vec!["no such disk: nothing", "loose (attached to nothing)"]),
        (vec!["theirs", "loose"], ErrorKind::Precondition, vec!["theirs (attached to pg2)", "loose"]),
        (vec!["pg1"], ErrorKind::Precondition, vec!["pg1"]),
        (vec!["ata"], ErrorKind::NotFound, vec!["no such disk: ata"]),
    ] {
        let error = select(&names).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(parts.iter().all(|part| error.message().contains(part)), "{error}");
    }
    let elsewhere = GcpOptions { zone: Some("europe-west1-c".into()), ..GcpOptions::default() };
    let wrong = Gcp::new(&ProviderOptions { gcp: elsewhere, ..ProviderOptions::default() }).unwrap();
    let error = wrong.instance(Some("pg1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.message().contains("europe-west1-c") && error.hint().unwrap().contains("--gcp-zone"), "{error}");
}

async fn a_disk_is_made_of_a_snapshot_and_has_its_bytes(gcp: &Google) {
    for name in ["pg-data", "data"] {
        let request = gcp.request(&[name]).await;
        let (instance, volume) = (&request.instance, &request.volumes[0].volume);
        gcp.write(volume, Path::new("story"), b"before").await;
        let ticket = gcp.provider.create(&request).await.unwrap().remove(0);
        assert_eq!(gcp.end(&ticket).await, None);
        gcp.write(volume, Path::new("story"), b"after").await;
        let wanted = CreateVolumeRequest {
            ticket: ticket.clone(),
            token: SystemIds.token(),
            subtree: PathBuf::new(),
            destination: None,
            instance: Some(instance.clone()),
            mark: request.mark.clone(),
            exclude_content: Vec::new(),
        };
        let made = gcp.provider.create_volume(&wanted).await.unwrap();
        assert_eq!(gcp.provider.create_volume(&wanted).await.unwrap(), made, "a second call makes no second disk");
        let left = gcp.provider.list_volumes(&request.mark).await.unwrap();
        let created = left.iter().map(RestoredVolume::created).collect::<Vec<_>>();
        assert!(created[0].is_some() && left == [made.clone().born(created[0], false)], "{left:?}");
        let attached = gcp.provider.attach(&made, instance).await.unwrap();
        assert_eq!(gcp.provider.attach(&made, instance).await.unwrap(), attached, "attached already is success");
        assert_eq!(gcp.provider.list_volumes(&request.mark).await.unwrap(), []);
        let mounted = Mounted::new(GuestFs::Ext4, &device(&attached.hints), &gcp.scratch());
        assert_eq!(std::fs::read(mounted.point().join("story")).unwrap(), b"before");
        let of = gcp.provider.attached_from(instance, std::slice::from_ref(&ticket)).await.unwrap();
        assert_eq!(of[0].as_ref().map(|volume| volume.mount_point.as_path()), Some(mounted.point()));
        let as_before = ["disk_type", "provisioned_iops", "provisioned_throughput", "replica_zones"];
        for key in as_before {
            assert_eq!(of[0].as_ref().and_then(|of| of.attributes.get(key)), volume.attributes.get(key), "{key}");
        }
        let kept = as_before.iter().filter(|key| volume.attributes.contains_key(**key)).count();
        assert_eq!(kept, if name == "data" { 2 } else { 3 }, "{:?}", volume.attributes);
        assert!(gcp.provider.outlook(&ticket, instance).lost.is_empty());
        drop(mounted);
        for _ in 0..2 {
            gcp.provider.detach(&attached, instance).await.unwrap();
        }
        let mut forged = made.clone();
        forged.attributes.insert("token".into(), SystemIds.token().to_string());
        assert_eq!(gcp.provider.delete_volume(&forged).await.unwrap_err().kind(), ErrorKind::Conflict);
        for _ in 0..2 {
            gcp.provider.delete_volume(&made).await.unwrap();
        }
        gcp.provider.delete(&ticket).await.unwrap();
        let gone = gcp.provider.create_volume(&wanted).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
    }
}

fn device(hints: &[DeviceHint]) -> PathBuf {
    let link = |hint: &DeviceHint| match hint {
        DeviceHint::Link(path) => path.exists().then(|| path.clone()),
        _ => None,
    };
    hints.iter().find_map(link).unwrap_or_else(|| panic!("the disk shows nowhere: {hints:?}"))
}

async fn what_carries_another_token_is_not_deleted(gcp: &Google) {
    let request = gcp.request(&["pg-data"]).await;
    let ticket = gcp.provider.create(&request).await.unwrap().remove(0);
    assert_eq!(gcp.end(&ticket).await, None);
    let foreign = Ticket { token: SystemIds.token(), ..ticket.clone() };
    let mut stock = ticket.clone();
    stock.attributes.insert(Ticket::STOCK.into(), "1".into());
    for other in [&foreign, &stock] {
        let error = gcp.provider.check_delete(&[ticket.clone(), other.clone()]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
        assert!(error.message().contains(&ticket.name), "{error}");
        assert_eq!(gcp.provider.delete(other).await.unwrap_err().kind(), ErrorKind::Conflict);
    }
    gcp.provider.check_delete(std::slice::from_ref(&ticket)).await.unwrap();
    gcp.provider.delete(&ticket).await.unwrap();
    gcp.provider.check_delete(&[ticket, foreign]).await.unwrap();
}

async fn what_google_says_is_passed_on(gcp: &Google) {
    let request = gcp.request(&["pg-data"]).await;
    for (fault, kind, retry) in [
        (Fault::throttle(CREATE).seconds(7.0), ErrorKind::Exhausted, Retry::After(Duration::from_secs(7))),
        (Fault::denied(CREATE), ErrorKind::PermissionDenied, Retry::Never),
        (Fault::fail(CREATE), ErrorKind::Unavailable, Retry::Unknown),
        (Fault::hang(CREATE, 1.0), ErrorKind::Unavailable, Retry::Unknown),
        (Fault::lost_reply(CREATE), ErrorKind::Unavailable, Retry::Unknown),
    ] {
        let shown = format!("{fault:?}");
        let lost = shown.contains("lost_reply");
        gcp.api.faults(&[fault]);
        let error = gcp.provider.create(&request).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (kind, retry), "{shown}: {}", error.chain());
        let volumes = [request.volumes[0].volume.clone()];
        let found = gcp.provider.find(&request.token, &volumes).await.unwrap();
        assert_eq!(found.len(), usize::from(lost), "{shown}");
        for ticket in found {
            gcp.provider.delete(&ticket).await.unwrap();
        }
    }
    // Reads are repeated by the SDK.
    gcp.api.faults(&[Fault::fail("compute.snapshots.list")]);
    assert_eq!(gcp.provider.find(&request.token, &[]).await.unwrap(), []);
    // A quota is seen before the backup; and if it is used up meanwhile, in the operation alone.
    gcp.api.settings(&json!({"more": {"snapshot_quota": 0}}));
    let error = gcp.provider.check_requests(std::slice::from_ref(&request)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    let again = CreateRequest { token: SystemIds.token(), ..request.clone() };
    let ticket = gcp.provider.create(&again).await.unwrap().remove(0);
    let reason = gcp.end(&ticket).await.unwrap();
    assert!(reason.contains("Quota 'SNAPSHOTS' exceeded"), "{reason}");
    gcp.provider.delete(&ticket).await.unwrap();
    gcp.api.settings(&json!({"more": {"snapshot_quota": 1000}}));
    // What fails after the cut.
    gcp.api.settings(&json!({"fail_after_cut": ["pg-data"]}));
    let again = CreateRequest { token: SystemIds.token(), ..request.clone() };
    let ticket = gcp.provider.create(&again).await.unwrap().remove(0);
    assert!(gcp.end(&ticket).await.is_some());
    gcp.provider.delete(&ticket).await.unwrap();
    gcp.api.settings(&json!({"fail_after_cut": []}));
    // A permission that is missing is found out before the backup.
    gcp.api.settings(&json!({"more": {"denied_permissions": ["compute.disks.createSnapshot"]}}));
    let error = gcp.provider.check_requests(std::slice::from_ref(&request)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.message().contains("pg-data"), "{error}");
    let findings = gcp.provider.preflight_requests(std::slice::from_ref(&request)).await;
    assert_eq!(findings.lines.iter().filter(|line| !line.ok).count(), 1, "{findings:?}");
    gcp.api.settings(&json!({"more": {"denied_permissions": []}}));
    // Six snapshots of a disk within an hour.
    let mut tickets = Vec::new();
    for number in 0..6 {
        let mut another = CreateRequest { token: SystemIds.token(), ..request.clone() };
        another.volumes[0].name = format!("often-{number}");
        tickets.extend(gcp.provider.create(&another).await.unwrap());
    }
    let error = gcp.provider.check_requests(std::slice::from_ref(&request)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(error.message().contains("pg-data has had 6 snapshots"), "{error}");
    for ticket in &tickets {
        gcp.provider.delete(ticket).await.unwrap();
    }
    // An expired token.
    gcp.api.settings(&json!({"more": {"access_token": "another"}}));
    let error = gcp.provider.find(&request.token, &[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", error.chain());
    gcp.api.settings(&json!({"more": {"access_token": "ya29.fake"}}));
}

async fn a_group_is_cut_promoted_and_removed(gcp: &Google) {
    let request = gcp.request(&["one", "two"]).await;
    let volumes: Vec<Volume> = request.volumes.iter().map(|wanted| wanted.volume.clone()).collect();
    assert!(gcp.provider.can_group(&volumes) && gcp.provider.after_cut(&volumes, true).promote);
    assert!(!gcp.provider.after_cut(&volumes, false).promote);
    // A lost reply is found by the name of the group, and a second call makes no second one.
    gcp.api.faults(&[Fault::lost_reply("compute.instantSnapshotGroups.create")]);
    assert_eq!(gcp.provider.create(&request).await.unwrap_err().retry(), Retry::Unknown);
    let found = gcp.provider.find(&request.token, &volumes).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(gcp.provider.list(&request.mark, &volumes).await.unwrap(), found);
    assert_eq!(gcp.provider.list("main.fedcba9876543210", &volumes).await.unwrap(), []);
    let forged = Ticket { token: SystemIds.token(), ..found[0].clone() };
    assert_eq!(gcp.provider.delete(&forged).await.unwrap_err().kind(), ErrorKind::Conflict);
    // Another process takes it away.
    for ticket in &found {
        provider().delete(ticket).await.unwrap();
    }
    assert_eq!(gcp.provider.find(&request.token, &volumes).await.unwrap(), []);
    assert_eq!(gcp.provider.status(&found[0]).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// Another process can tell why a snapshot has never come; and a failure that passes is not answered with for ever.
async fn an_operation_is_kept_and_tells_why(gcp: &Google) {
    let request = gcp.request(&["pg-data"]).await;
    gcp.api.settings(&json!({"more": {"snapshot_quota": 0}}));
    let ticket = gcp.provider.create(&request).await.unwrap().remove(0);
    let stored: Ticket = serde_json::from_str(&serde_json::to_string(&ticket).unwrap()).unwrap();
    match provider().status(&stored).await.unwrap().state {
        SnapshotState::Failed { reason } => assert!(reason.contains("Quota 'SNAPSHOTS' exceeded"), "{reason}"),
        other => panic!("{other:?}"),
    }
    gcp.api.settings(&json!({"more": {"snapshot_quota": 1000, "not_ready": 2}}));
    let again = CreateRequest { token: SystemIds.token(), ..request.clone() };
    for _ in 0..2 {
        let error = gcp.provider.create(&again).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::After(Duration::from_secs(5))));
        assert!(error.message().contains("The resource is not ready"), "{error}");
    }
    // What an operation leads to may be the disk.
    gcp.api.settings(&json!({"more": {"not_ready": 0, "target": "source"}}));
    let ticket = gcp.provider.create(&again).await.unwrap().remove(0);
    assert_eq!(gcp.end(&ticket).await, None);
    gcp.provider.delete(&ticket).await.unwrap();
    gcp.api.settings(&json!({"more": {"target": "made"}}));
}

/// In a project that is not there, without a permission, or without an answer, nothing is found; and nothing is gone.
async fn what_cannot_be_seen_is_not_gone(gcp: &Google) {
    let request = gcp.request(&["pg-data"]).await;
    let volumes = [request.volumes[0].volume.clone()];
    let ticket = gcp.provider.create(&request).await.unwrap().remove(0);
    assert_eq!(gcp.provider.unseen(&request.instance, &volumes).await.unwrap(), None);
    let mut theirs = volumes.clone();
    theirs[0].attributes.insert("snapshot_project".into(), "ghost".into());
    let why = gcp.provider.unseen(&request.instance, &theirs).await.unwrap().unwrap();
    assert!(why.starts_with("its snapshots are in project ghost: "), "{why}");
    let elsewhere = Ticket { snapshot: ticket.snapshot.replace("proj-1", "ghost"), ..ticket.clone() };
    let errors = [
        gcp.provider.find(&request.token, &theirs).await.unwrap_err(),
        gcp.provider.status(&elsewhere).await.unwrap_err(),
        gcp.provider.delete(&elsewhere).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    }
    gcp.api.settings(&json!({"more": {"denied_permissions": ["compute.snapshots.list"]}}));
    let why = gcp.provider.unseen(&request.instance, &volumes).await.unwrap().unwrap();
    assert!(why.contains("in project proj-1") && why.contains("compute.snapshots.list"), "{why}");
    gcp.api.settings(&json!({"more": {"denied_permissions": []}}));
    let gcp_options = GcpOptions {
        endpoint: Some("http://127.0.0.1:1".into()),
        call_timeout_s: Some(1),
        anonymous: true,
        ..GcpOptions::default()
    };
    let nowhere = Gcp::new(&ProviderOptions { gcp: gcp_options, ..ProviderOptions::default() }).unwrap();
    let why = nowhere.unseen(&request.instance, &volumes).await.unwrap().unwrap();
    assert!(why.starts_with("its snapshots are in project proj-1: cannot list snapshots"), "{why}");
    gcp.provider.delete(&ticket).await.unwrap();
}

async fn what_comes_late_or_is_listed_late_is_found(gcp: &Google) {
    let request = gcp.request(&["pg-data"]).await;
    let volumes = [request.volumes[0].volume.clone()];
    gcp.api.faults(&[Fault::late(CREATE, 1.5)]);
    gcp.api.settings(&json!({"lag_ms": 500}));
    assert_eq!(gcp.provider.create(&request).await.unwrap_err().retry(), Retry::Unknown);
    assert_eq!(gcp.provider.find(&request.token, &volumes).await.unwrap(), []);
    tokio::time::timeout(Duration::from_secs(10), async {
        while gcp.provider.list(&request.mark, &volumes).await.unwrap().is_empty() {
            gcp.pause().await;
        }
    })
    .await
    .unwrap();
    for ticket in gcp.provider.find(&request.token, &volumes).await.unwrap() {
        gcp.provider.delete(&ticket).await.unwrap();
    }
    gcp.api.settings(&json!({"lag_ms": 0}));
}

async fn a_group_whose_list_lags_is_none_that_failed(gcp: &Google) {
    let request = gcp.request(&["one", "two"]).await;
    gcp.api.settings(&json!({"lag_ms": 700}));
    let tickets = gcp.provider.create(&request).await.unwrap();
    for ticket in &tickets {
        while gcp.provider.status(ticket).await.unwrap().state != SnapshotState::Cut {
            gcp.pause().await;
        }
    }
    let requests = std::slice::from_ref(&request);
    let durable = gcp.provider.promote(requests, &tickets).await.unwrap();
    for ticket in &durable {
        assert_eq!(gcp.end(ticket).await, None);
    }
    gcp.api.settings(&json!({"lag_ms": 0}));
    gcp.provider.secure(requests, &durable).await.unwrap();
    for ticket in &durable {
        gcp.provider.delete(ticket).await.unwrap();
    }
}
