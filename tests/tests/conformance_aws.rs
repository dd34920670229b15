//! The provider for AWS passes the suites against the fake of EC2, with real file systems on its disks; and what only this
//! cloud does: group calls, locks, copies in other regions, volumes made of snapshots.
//!
//! The environment of a process cannot be changed safely, and endpoint, credentials and this machine's id are found by it. So the
//! test that the runner sees lays out the world and runs the other one of this file with the environment of the fake.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a panic is a failure, and says more with the output")]

use std::collections::{BTreeMap, BTreeSet};
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
use barman_snap::host::devices::HostDescription;
use barman_snap::id::{IdSource, SystemIds, Token};
use barman_snap::provider::aws::AwsProvider;
use barman_snap::provider::options::{AwsOptions, ProviderOptions};
use barman_snap::provider::{
    CreateRequest, Instance, RestoredVolume, SnapshotProvider, SnapshotState, Ticket, Volume, VolumeSelection,
    VolumeSnapshot,
};
use barman_snap_tests::cloud::{Api, Call, Cloud, CloudSet, Fault, GuestFs, Mounted};
use barman_snap_tests::scratch::Scratch;
use barman_snap_tests::{checkout, need, own_dev};
use serde_json::json;

const ENDPOINT: &str = "BARMAN_SNAP_TEST_AWS_ENDPOINT";
const PLACE: &str = "BARMAN_SNAP_TEST_AWS_PLACE";
const DISKS: [&str; 2] = ["pg-data", "pg-ts"];
const MARK: &str = "main.0123456789abcdef";
/// Where the snapshots are copied to.
const ELSEWHERE: &str = "eu-west-1";

#[test]
fn the_provider_passes_the_suites_on_xen() {
    own_dev!();
    passes("t2.medium");
}

#[test]
fn the_provider_passes_the_suites_on_nitro() {
    own_dev!();
    passes("m5.large");
}

fn passes(instance_type: &str) {
    let set = need!(CloudSet::start(&[Cloud::Aws]));
    let api = set.of(Cloud::Aws);
    let place = Scratch::new();
    api.create_instance("pg1", &json!({"instance_type": instance_type}));
    for twin in ["twin", "twin"] {
        api.create_instance(twin, &json!({}));
    }
    api.create_instance("pg2", &json!({}));
    let _mounts = DISKS.map(|name| {
        api.create_disk(name, 1, &json!({}));
        let device = api.attach("pg1", name).paths.swap_remove(0);
        let made = Command::new("mkfs.ext4").arg("-q").arg(&device).status();
        assert!(made.unwrap().success());
        Mounted::new(GuestFs::Ext4, &device, &place.path().join(name))
    });
    for name in ["idle", "theirs", "loose"] {
        api.create_disk(name, 1, &json!({}));
    }
    api.attach("pg1", "idle");
    api.attach("pg2", "theirs");
    let disks = api.world().disks.len();
    api.settings(&json!({"cut_ms": 20, "ready_ms": 150, "max_concurrent": 1000}));
    let mut inner = Command::new(std::env::current_exe().unwrap());
    inner.args(["--exact", "inside", "--include-ignored", "--nocapture"]);
    inner.envs(api.env().iter().cloned()).env(ENDPOINT, api.endpoint()).env(PLACE, place.path());
    inner.env("HOME", place.path()).env_remove("AWS_PROFILE");
    inner.env("AWS_EC2_METADATA_DISABLED", "false").env("AWS_EC2_METADATA_SERVICE_ENDPOINT", api.metadata().unwrap());
    let done = inner.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    eprintln!("{out}{err}");
    assert!(done.status.success() && out.contains("1 passed"), "see above");
    let world = api.world();
    assert!(world.snapshots.is_empty(), "nothing is left: {:?}", world.snapshots);
    assert_eq!(world.disks.len(), disks, "no disk is left: {:?}", world.disks);
    // The policy in the documentation allows what was called, and nothing else.
    let used = api.calls().into_iter().filter(|call| call.status.is_some_and(|status| status < 300));
    // To ask who one is needs no permission.
    let used =
        used.map(|call| call.action).filter(|action| !["metadata", "sts:GetCallerIdentity"].contains(&action.as_str()));
    assert_eq!(allowed(), used.collect::<BTreeSet<_>>());
}

/// The actions of the policy in the documentation, without their prefix.
fn allowed() -> BTreeSet<String> {
    let text = std::fs::read_to_string(checkout().join("docs/permissions/aws-policy.json")).unwrap();
    let policy: serde_json::Value = serde_json::from_str(&text).unwrap();
    let actions = policy["Statement"].as_array().unwrap().iter().flat_map(|statement| match &statement["Action"] {
        serde_json::Value::Array(actions) => actions.clone(),
        one => vec![one.clone()],
    });
    actions.map(|action| action.as_str().unwrap().strip_prefix("ec2:").unwrap().to_owned()).collect()
}

#[test]
#[ignore = "is run by the others, with the environment of the fake"]
fn inside() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let aws = Amazon::new(AwsOptions::default()).await;
        let report = conformance::run(&aws).await;
        eprintln!("{report}");
        for (name, why) in report.skipped() {
            assert!(why.contains("to devices"), "{name}: {why}");
        }
        instances_and_disks_are_resolved_as_the_errors_say(&aws).await;
        what_ec2_says_is_passed_on(&aws).await;
        one_call_cuts_all_volumes_and_names_come_later(&aws).await;
        a_volume_that_is_attached_too_late_leaves_no_snapshot(&aws).await;
        what_belongs_to_somebody_else_is_neither_gone_nor_deleted(&aws).await;
        snapshots_are_copied_then_locked_and_go_together().await;
        what_is_known_before_a_backup_is_told(&aws).await;
        what_cannot_be_seen_is_not_gone(&aws).await;
        what_comes_late_or_is_listed_late_is_found(&aws).await;
    });
}

struct Amazon {
    provider: AwsProvider,
    api: Api,
    place: PathBuf,
    opened: Mutex<BTreeMap<String, Mounted>>,
}

async fn provider(aws: AwsOptions) -> AwsProvider {
    AwsProvider::new(&ProviderOptions { aws, ..ProviderOptions::default() }).await.unwrap()
}

impl Amazon {
    async fn new(options: AwsOptions) -> Self {
        Self {
            provider: provider(options).await,
            api: Api::at(Cloud::Aws, &std::env::var(ENDPOINT).unwrap()),
            place: PathBuf::from(std::env::var_os(PLACE).unwrap()),
            opened: Mutex::default(),
        }
    }

    async fn instance(&self) -> Instance {
        self.provider.instance(Some("pg1")).await.unwrap()
    }

    async fn request(&self, names: &[&str]) -> CreateRequest {
        let instance = self.instance().await;
        let selection = VolumeSelection::Named(names.iter().map(|name| (*name).to_owned()).collect());
        let volumes = self.provider.volumes(&instance, &selection).await.unwrap();
        let backup_id = "20260529T101112".parse().unwrap();
        let named = |volume: Volume| VolumeSnapshot { name: self.provider.snapshot_name(&volume, &backup_id), volume };
        CreateRequest {
            token: SystemIds.token(),
            mark: MARK.into(),
            instance,
            volumes: volumes.into_iter().map(named).collect(),
            tags: [("team".to_owned(), "db".to_owned())].into(),
            backup_id,
        }
    }

    async fn ready(&self, ticket: &Ticket) {
        while self.provider.status(ticket).await.unwrap().state != SnapshotState::Ready {
            self.pause().await;
        }
    }

    /// The tags of a snapshot.
    fn tags(&self, snapshot: &str) -> serde_json::Value {
        let world = self.api.world();
        world.snapshots.iter().find(|one| one.id == snapshot).unwrap().more["tags"].clone()
    }
}

fn volumes(request: &CreateRequest) -> Vec<Volume> {
    request.volumes.iter().map(|one| one.volume.clone()).collect()
}

#[async_trait]
impl Fixture for Amazon {
    fn provider(&self) -> &dyn SnapshotProvider {
        &self.provider
    }

    fn later(&self) -> Box<dyn SnapshotProvider> {
        tokio::task::block_in_place(|| {
            Box::new(tokio::runtime::Handle::current().block_on(provider(AwsOptions::default())))
        })
    }

    fn volume_names(&self) -> Vec<String> {
        // One by its id, one by its name.
        let world = self.api.world();
        let id = world.disks.iter().find(|disk| disk.name == DISKS[0]).unwrap().id.clone();
        vec![id, DISKS[1].to_owned()]
    }

    async fn write(&self, volume: &Volume, path: &Path, bytes: &[u8]) {
        let path = volume.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        // A disk knows only what was flushed.
        rustix::fs::syncfs(File::open(&path).unwrap()).unwrap();
    }

    fn scratch(&self) -> PathBuf {
        self.place.join(SystemIds.token().as_str())
    }

    async fn open(&self, volume: &RestoredVolume) -> Option<PathBuf> {
        let found = HostDescription::here().unwrap().find(&volume.hints).unwrap();
        let mounted = Mounted::new(GuestFs::Ext4, &found.device, &self.scratch());
        let root = mounted.point().to_owned();
        self.opened.lock().unwrap().insert(volume.id.clone(), mounted);
        Some(root)
    }

    async fn close(&self, volume: &RestoredVolume) {
        drop(self.opened.lock().unwrap().remove(&volume.id));
    }

    fn token(&self) -> Token {
        SystemIds.token()
    }

    async fn pause(&self) {
        SystemClock::new().sleep(Duration::from_millis(20)).await;
    }
}

async fn instances_and_disks_are_resolved_as_the_errors_say(aws: &Amazon) {
    let here = aws.provider.instance(None).await.unwrap();
    let named = aws.instance().await;
    assert_eq!(here.attributes, named.attributes, "this machine is pg1");
    let twin = aws.provider.instance(Some("twin")).await.unwrap_err();
    assert_eq!(twin.kind(), ErrorKind::InvalidInput);
    assert_eq!(twin.message().matches("i-").count(), 2, "{twin}");
    for name in ["pg*", "i-0123456789abcdef0"] {
        let error = aws.provider.instance(Some(name)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    let elsewhere = provider(AwsOptions { region: Some(ELSEWHERE.into()), ..AwsOptions::default() }).await;
    let wrong = elsewhere.instance(Some(&here.attributes["instance_id"])).await.unwrap_err();
    assert!(wrong.to_string().contains(ELSEWHERE), "{wrong}");

    let select = async |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        aws.provider.volumes(&named, &VolumeSelection::Named(names)).await
    };
    let id = aws.volume_names().remove(0);
    let same = select(&[&id, DISKS[0], &id]).await.unwrap();
    assert_eq!(same.len(), 1, "a disk by id and by name is one volume");
    assert_eq!(same[0].id, id);
    let root = aws.api.world().disks.iter().find(|disk| disk.name.is_empty()).unwrap().id.clone();
    for (names, kind, parts) in [
        (vec!["nothing", "vol-0123456789abcdef0", "loose"], ErrorKind::NotFound, vec!["nothing, vol-0123", "loose"]),
        (vec!["theirs", "loose"], ErrorKind::Precondition, vec!["theirs (it is at i-", "loose"]),
        (vec![root.as_str()], ErrorKind::Precondition, vec!["root volume", &root]),
        (vec!["idle"], ErrorKind::Precondition, vec!["not mounted", "idle"]),
    ] {
        let error = select(&names).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(parts.iter().all(|part| error.message().contains(part)), "{error}");
    }
    let held = VolumeSelection::Holding(vec![
        HostDescription::here().unwrap().real_path(Path::new("/")).unwrap_or("/".into()),
    ]);
    let error = aws.provider.volumes(&named, &held).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "this machine's own root is on no disk of the cloud: {error}");
}

async fn what_ec2_says_is_passed_on(aws: &Amazon) {
    let request = aws.request(&[DISKS[0]]).await;
    for (fault, kind, retry, made) in [
        (Fault::throttle("CreateSnapshot"), ErrorKind::Exhausted, Retry::After(Duration::from_secs(5)), 0),
        (Fault::denied("CreateSnapshot"), ErrorKind::PermissionDenied, Retry::Never, 0),
        (Fault::fail("CreateSnapshot"), ErrorKind::Unavailable, Retry::Unknown, 0),
        (Fault::hang("CreateSnapshot", 0.1), ErrorKind::Unavailable, Retry::Unknown, 0),
        (Fault::lost_reply("CreateSnapshot"), ErrorKind::Unavailable, Retry::Unknown, 1),
    ] {
        let shown = format!("{fault:?}");
        let request = CreateRequest { token: SystemIds.token(), ..request.clone() };
        aws.api.faults(&[fault]);
        let error = aws.provider.create(&request).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (kind, retry), "{shown}: {}", error.chain());
        let found = aws.provider.find(&request.token, &volumes(&request)).await.unwrap();
        assert_eq!(found.len(), made, "{shown}");
        // What is there already is returned, and not made again.
        let tickets = aws.provider.create(&request).await.unwrap();
        assert_eq!(aws.provider.find(&request.token, &volumes(&request)).await.unwrap(), tickets);
        aws.provider.delete(&tickets[0]).await.unwrap();
    }
    aws.api.settings(&json!({"max_concurrent": 0}));
    let error = aws.provider.create(&request).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Exhausted, Retry::Never), "{error}");
    aws.api.settings(&json!({"max_concurrent": 1000, "min_interval_ms": 600_000}));
    let error = aws.provider.create(&CreateRequest { token: SystemIds.token(), ..request.clone() }).await;
    // The disk had one within ten minutes only if the fake remembers those that are gone; if not, it is made.
    match error {
        Err(error) => assert_eq!(error.retry(), Retry::After(Duration::from_secs(15)), "{error}"),
        Ok(tickets) => aws.provider.delete(&tickets[0]).await.unwrap(),
    }
    aws.api.settings(&json!({"min_interval_ms": 0}));
    // Reads are repeated.
    aws.api.faults(&[Fault::fail("DescribeSnapshots").times(2), Fault::throttle("DescribeInstances")]);
    assert_eq!(aws.provider.find(&request.token, &volumes(&request)).await.unwrap(), []);
    aws.instance().await;
    aws.api.faults(&[]);
    // What fails after the cut.
    aws.api.settings(&json!({"fail_after_cut": [DISKS[0]]}));
    let failing = CreateRequest { token: SystemIds.token(), ..request.clone() };
    let ticket = aws.provider.create(&failing).await.unwrap().remove(0);
    assert_eq!(aws.provider.status(&ticket).await.unwrap().state, SnapshotState::Cut, "the reply was the cut");
    let reason = loop {
        match aws.provider.status(&ticket).await.unwrap().state {
            SnapshotState::Failed { reason } => break reason,
            SnapshotState::Ready => panic!("it should fail"),
            _ => aws.pause().await,
        }
    };
    assert!(reason.contains("internal error"), "{reason}");
    aws.provider.delete(&ticket).await.unwrap();
    aws.api.settings(&json!({"fail_after_cut": []}));
}

async fn one_call_cuts_all_volumes_and_names_come_later(aws: &Amazon) {
    let request = aws.request(&DISKS).await;
    let all = volumes(&request);
    assert!(aws.provider.can_group(&all) && aws.provider.after_cut(&all, true).promote);
    assert!(!aws.provider.after_cut(&all, false).promote && !aws.provider.after_cut(&all, true).secure);
    aws.api.faults(&[Fault::lost_reply("CreateSnapshots")]);
    assert_eq!(aws.provider.create(&request).await.unwrap_err().retry(), Retry::Unknown);
    let found = aws.provider.find(&request.token, &all).await.unwrap();
    assert_eq!(found.len(), 2, "the idle disk and the root are left out: {found:?}");
    assert_eq!(aws.provider.create(&request).await.unwrap(), found, "a second call makes no second set");
    assert_eq!(found[0].name, request.volumes[0].name, "a name that is not there yet is known");
    assert!(aws.tags(&found[0].snapshot)["Name"].is_null());
    // The name is set after backup mode, also after a first attempt that failed.
    let requests = std::slice::from_ref(&request);
    aws.api.faults(&[Fault::denied("CreateTags")]);
    assert!(aws.provider.promote(requests, &found).await.is_err());
    for _ in 0..2 {
        assert_eq!(aws.provider.promote(requests, &found).await.unwrap(), found);
    }
    for (ticket, wanted) in found.iter().zip(&request.volumes) {
        let tags = aws.tags(&ticket.snapshot);
        assert_eq!(tags["Name"], wanted.name.as_str());
        assert_eq!((&tags["team"], &tags["barman_snap:mark"]), (&json!("db"), &json!(MARK)));
        aws.provider.delete(ticket).await.unwrap();
    }
    let calls = aws.api.calls();
    let is_ours = |call: &&Call| {
        call.resource.contains(found[0].snapshot.as_str()) || call.resource.contains(found[1].snapshot.as_str())
    };
    let named: Vec<_> =
        calls.iter().filter(|call| call.action == "CreateTags" && call.status == Some(200)).filter(is_ours).collect();
    assert_eq!(named.len(), 2, "{named:?}");
}

async fn a_volume_that_is_attached_too_late_leaves_no_snapshot(aws: &Amazon) {
    let request = aws.request(&DISKS).await;
    let late = aws.api.create_disk("late", 1, &json!({}));
    // It is attached after the provider has looked which others there are, and before EC2 takes the snapshots.
    aws.api.faults(&[Fault::delay("CreateSnapshots", 1.0)]);
    let attach = async {
        while !aws.api.calls().iter().any(|call| call.action == "CreateSnapshots" && call.status.is_none()) {
            aws.pause().await;
        }
        aws.api.attach("pg1", "late");
    };
    let (made, ()) = tokio::join!(aws.provider.create(&request), attach);
    let tickets = made.unwrap();
    assert_eq!(tickets.len(), 2);
    let found = aws.provider.find(&request.token, &volumes(&request)).await.unwrap();
    assert_eq!(found[..2], tickets);
    assert_eq!(found.iter().map(|ticket| &ticket.volume).nth(2), Some(&late), "it was snapshotted, too");
    aws.provider.promote(std::slice::from_ref(&request), &tickets).await.unwrap();
    assert_eq!(aws.provider.find(&request.token, &volumes(&request)).await.unwrap(), tickets);
    for ticket in &tickets {
        aws.provider.delete(ticket).await.unwrap();
    }
    aws.api.destroy(&late);
    // One that is gone before the call is an error, and nothing is made.
    let fewer = CreateRequest { token: SystemIds.token(), ..request.clone() };
    let mut strange = fewer.clone();
    strange.volumes[1].volume.attributes.insert("volume_id".into(), late);
    let error = aws.provider.create(&strange).await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Precondition, Retry::Never), "{error}");
    assert_eq!(aws.provider.find(&fewer.token, &volumes(&fewer)).await.unwrap(), []);
}

/// EC2 says of a private snapshot of another account that it does not exist; and what carries a token is nobody else's.
async fn what_belongs_to_somebody_else_is_neither_gone_nor_deleted(aws: &Amazon) {
    let request = aws.request(&[DISKS[0]]).await;
    let ticket = aws.provider.create(&request).await.unwrap().remove(0);
    aws.ready(&ticket).await;
    let mut foreign = Ticket { token: SystemIds.token(), ..ticket.clone() };
    let mut stock = ticket.clone();
    stock.attributes.insert(Ticket::STOCK.into(), "1".into());
    for other in [&foreign, &stock] {
        let error = aws.provider.check_delete(&[ticket.clone(), other.clone()]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
        assert!(error.message().contains(&ticket.snapshot), "{error}");
        assert_eq!(aws.provider.delete(other).await.unwrap_err().kind(), ErrorKind::Conflict);
    }
    aws.provider.check_delete(std::slice::from_ref(&ticket)).await.unwrap();
    aws.provider.delete(&ticket).await.unwrap();
    aws.provider.check_delete(std::slice::from_ref(&ticket)).await.unwrap();
    aws.provider.delete(&ticket).await.unwrap();
    assert_eq!(aws.provider.status(&ticket).await.unwrap_err().kind(), ErrorKind::NotFound);

    assert_eq!(ticket.attributes["account_id"], "123456789012");
    foreign.attributes.insert("account_id".into(), "210987654321".into());
    // Who has seen its instance knows whose it is; another process has to ask.
    let later = provider(AwsOptions::default()).await;
    let errors = [
        later.status(&foreign).await.unwrap_err(),
        later.check_delete(std::slice::from_ref(&foreign)).await.unwrap_err(),
        aws.provider.delete(&foreign).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
        assert!(error.message().contains("210987654321, and these credentials are of account 123456789012"), "{error}");
    }
    let asked = aws.api.calls().iter().filter(|call| call.action == "sts:GetCallerIdentity").count();
    assert!(asked > 0, "it was asked who we are");
}

async fn snapshots_are_copied_then_locked_and_go_together() {
    let aws = Amazon::new(AwsOptions {
        copy_to: vec![ELSEWHERE.into(), "us-east-1".into()],
        lock_mode: Some("governance".into()),
        lock_duration: Some(1),
        fast_restore_zones: vec!["us-east-1a".into()],
        ..AwsOptions::default()
    })
    .await;
    let request = aws.request(&[DISKS[0]]).await;
    let all = volumes(&request);
    assert!(aws.provider.after_cut(&all, false).secure, "it is noted in the volume");
    aws.provider.check_requests(std::slice::from_ref(&request)).await.unwrap();
    let tickets = aws.provider.create(&request).await.unwrap();
    aws.ready(&tickets[0]).await;
    // Another process, which was given no options, finishes it, though replies are lost.
    let later = provider(AwsOptions::default()).await;
    let requests = std::slice::from_ref(&request);
    aws.api.faults(&[Fault::lost_reply("CopySnapshot")]);
    let secured = later.secure(requests, &tickets).await.unwrap();
    assert_eq!(later.secure(requests, &tickets).await.unwrap(), secured, "it can be repeated");
    let fast = aws.api.calls().into_iter().filter(|call| call.action == "EnableFastSnapshotRestores").count();
    assert_eq!(fast, 2, "enabled, and again by the repetition");
    let ticket = &secured[0];
    assert_eq!(ticket.attributes["lock_mode"], "governance");
    assert!(ticket.attributes["lock_expires"].starts_with("20"), "{ticket:?}");
    let (region, copy) = ticket.attributes["copies"].split_once('=').unwrap();
    assert_eq!(region, ELSEWHERE, "no copy is made where the original is");
    let copies = aws.api.calls().iter().filter(|call| call.action == "CopySnapshot" && !call.dry_run).count();
    assert_eq!(copies, 1, "there is one copy, though its reply was lost");
    // All that bears the token is found: the original first, then its copy.
    let found = later.find(&request.token, &all).await.unwrap();
    let ids: Vec<&str> = found.iter().map(|ticket| ticket.snapshot.as_str()).collect();
    assert_eq!(ids, [ticket.snapshot.as_str(), copy]);
    assert_eq!(later.list(MARK, &all).await.unwrap(), found);

    let error = later.check_delete(&secured).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.message().contains(&ticket.snapshot) && error.message().contains(copy), "{error}");
    assert_eq!(later.delete(ticket).await.unwrap_err().kind(), ErrorKind::Precondition);

    // A day of the fake's locks passes in no time.
    aws.api.settings(&json!({"more": {"day_ms": 1}}));
    aws.pause().await;
    let info = later.snapshots_info(&request.instance, &[]);
    assert!(info.is_some());
    // What a lock says of its end is EC2's word, and that is in the past now.
    let gone = later.check_delete(&secured).await.and(later.delete(ticket).await);
    gone.unwrap();
    assert_eq!(later.find(&request.token, &all).await.unwrap(), []);
}

async fn what_is_known_before_a_backup_is_told(aws: &Amazon) {
    let selection = VolumeSelection::Named(vec![DISKS[0].into()]);
    let good = aws.provider.preflight(Some("pg1"), &selection).await;
    assert!(good.findings.is_ok() && good.volumes.is_some(), "{:?}", good.findings);
    let idle = VolumeSelection::Named(vec!["idle".into(), DISKS[0].into()]);
    let bad = aws.provider.preflight(Some("pg1"), &idle).await;
    assert!(!bad.findings.is_ok() && bad.volumes.is_none(), "{:?}", bad.findings);
    let request = aws.request(&DISKS).await;
    let requests = std::slice::from_ref(&request);
    let findings = aws.provider.preflight_requests(requests).await;
    assert!(findings.is_ok(), "{findings:?}");
    aws.api.faults(&[Fault::denied("CreateSnapshots").always()]);
    let error = aws.provider.check_requests(requests).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.hint().unwrap().contains("ec2:CreateSnapshots"), "{error}");
    let bad = aws.provider.preflight_requests(requests).await;
    assert_eq!(bad.lines.iter().filter(|line| !line.ok).count(), 1, "{bad:?}");
    aws.api.faults(&[]);
    let many = (0..50).map(|n| (format!("k{n}"), String::new())).collect();
    let tagged = CreateRequest { tags: many, ..request };
    let error = aws.provider.check_requests(&[tagged]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

/// With credentials of another account, without a permission, or without an answer, nothing is found; and nothing is gone.
async fn what_cannot_be_seen_is_not_gone(aws: &Amazon) {
    let request = aws.request(&DISKS).await;
    let (instance, all) = (&request.instance, volumes(&request));
    assert_eq!(aws.provider.unseen(instance, &all).await.unwrap(), None);
    let mut theirs = request.clone();
    theirs.instance.attributes.insert("account_id".into(), "210987654321".into());
    for one in &mut theirs.volumes {
        assert_eq!(one.volume.attributes.insert("account_id".into(), "210987654321".into()).unwrap(), "123456789012");
    }
    // Another process, which has to ask who it is.
    let later = provider(AwsOptions::default()).await;
    let why = later.unseen(&theirs.instance, &volumes(&theirs)).await.unwrap().unwrap();
    assert!(
        why.contains("of AWS account 210987654321 in us-east-1, and these credentials are of account 123456789012"),
        "{why}"
    );
    let error = later.find(&theirs.token, &volumes(&theirs)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    aws.api.faults(&[Fault::denied("DescribeSnapshots")]);
    let why = aws.provider.unseen(instance, &all).await.unwrap().unwrap();
    assert!(why.contains("look for snapshots in us-east-1") && why.contains("ec2:DescribeSnapshots"), "{why}");
    aws.api.faults(&[Fault::hang("DescribeSnapshots", 2.0).always()]);
    let hasty = provider(AwsOptions { call_timeout_s: Some(1), ..AwsOptions::default() }).await;
    let why = hasty.unseen(instance, &all).await.unwrap().unwrap();
    assert!(why.contains("did not answer in time"), "{why}");
    aws.api.faults(&[]);
    // Where it was recorded is looked, whatever region the environment names.
    let ticket = aws.provider.create(&request).await.unwrap().remove(0);
    let abroad = provider(AwsOptions { region: Some(ELSEWHERE.into()), ..AwsOptions::default() }).await;
    assert_eq!(abroad.unseen(instance, &all).await.unwrap(), None);
    let found = abroad.find(&request.token, &all).await.unwrap();
    assert_eq!((found.len(), &found[0].snapshot), (2, &ticket.snapshot));
    for ticket in &found {
        abroad.delete(ticket).await.unwrap();
    }
}

async fn what_comes_late_or_is_listed_late_is_found(aws: &Amazon) {
    let request = aws.request(&[DISKS[0]]).await;
    let all = volumes(&request);
    aws.api.faults(&[Fault::late("CreateSnapshot", 1.5)]);
    aws.api.settings(&json!({"lag_ms": 500}));
    assert_eq!(aws.provider.create(&request).await.unwrap_err().retry(), Retry::Unknown);
    assert_eq!(aws.provider.find(&request.token, &all).await.unwrap(), []);
    tokio::time::timeout(Duration::from_secs(10), async {
        while aws.provider.list(MARK, &all).await.unwrap().is_empty() {
            aws.pause().await;
        }
    })
    .await
    .unwrap();
    for ticket in aws.provider.find(&request.token, &all).await.unwrap() {
        aws.provider.delete(&ticket).await.unwrap();
    }
    aws.api.settings(&json!({"lag_ms": 0}));
}
