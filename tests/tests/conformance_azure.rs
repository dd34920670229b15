//! The provider for Azure passes the suites against the fake of the Resource Manager, with real file systems on its disks;
//! and what only a cloud does: disks made of snapshots, a permission that is missing, a snapshot that fails late.
//!
//! The environment of a process cannot be changed safely, and credentials are found by it. So the test that the runner sees
//! lays out the world and runs the other one of this file with the environment of the fake.
#![allow(clippy::unwrap_used, reason = "a panic is a failure")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use barman_snap::ErrorKind;
use barman_snap::clock::{Clock, SystemClock};
use barman_snap::conformance::{self, Fixture};
use barman_snap::error::Retry;
use barman_snap::host::devices::DeviceHint;
use barman_snap::id::{IdSource, SystemIds, Token};
use barman_snap::provider::azure::AzureProvider;
use barman_snap::provider::options::AzureOptions;
use barman_snap::provider::{
    CreateRequest, CreateVolumeRequest, Instance, RestoredVolume, SnapshotProvider, SnapshotState, Ticket, Volume,
    VolumeSelection, VolumeSnapshot,
};
use barman_snap_tests::cloud::{Api, Cloud, CloudSet, Fault, GuestFs, Mounted};
use barman_snap_tests::scratch::Scratch;
use barman_snap_tests::{checkout, need, own_dev};
use serde_json::json;

const SUBSCRIPTION: &str = "00000000-1111-2222-3333-444444444444";
const ENDPOINT: &str = "BARMAN_SNAP_TEST_AZURE_ENDPOINT";
const PLACE: &str = "BARMAN_SNAP_TEST_AZURE_PLACE";

#[test]
fn the_provider_passes_the_suites_against_the_fake() {
    own_dev!();
    let set = need!(CloudSet::start(&[Cloud::Azure]));
    let api = set.of(Cloud::Azure);
    let place = Scratch::new();
    api.create_instance("pg1", &json!({"zone": "1"}));
    let set =
        format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/rg1/providers/Microsoft.Compute/diskEncryptionSets/des1");
    let fast = json!({
        "diskIOPSReadWrite": 5000,
        "diskMBpsReadWrite": 200,
        "encryption": {"type": "EncryptionAtRestWithCustomerKey", "diskEncryptionSetId": set},
        "networkAccessPolicy": "DenyAll",
    });
    // One disk lies in another resource group, and its snapshots take their time.
    for (name, more) in [
        ("pg-data", json!({"zones": ["1"], "more": {"tier": "P10"}})),
        ("pg.ts", json!({"group": "rg2", "sku": "PremiumV2_LRS", "zones": ["1"], "more": fast})),
    ] {
        api.create_disk(name, 1, &more);
    }
    api.create_disk("loose", 1, &json!({}));
    let _mounts = ["pg-data", "pg.ts"].map(|name| {
        let device = api.attach("pg1", name).paths.swap_remove(0);
        let made = Command::new("mkfs.ext4").arg("-q").arg(&device).status();
        assert!(made.unwrap().success());
        Mounted::new(GuestFs::Ext4, &device, &place.path().join(name))
    });
    // Nothing but what the documentation tells users to permit.
    let role = std::fs::read_to_string(checkout().join("docs/permissions/azure-role.json")).unwrap();
    let role: serde_json::Value = serde_json::from_str(&role).unwrap();
    api.settings(&json!({"cut_ms": 20, "ready_ms": 150, "more": {"actions": role["Actions"]}}));
    let mut inner = Command::new(std::env::current_exe().unwrap());
    inner.args(["--exact", "inside", "--include-ignored", "--nocapture"]);
    inner.envs(api.env().iter().cloned()).env(ENDPOINT, api.endpoint()).env(PLACE, place.path());
    let done = inner.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    eprintln!("{out}{err}");
    assert!(done.status.success() && out.contains("1 passed"), "see above");
    let used: BTreeSet<String> = api.calls().into_iter().map(|call| call.action).collect();
    for action in role["Actions"].as_array().unwrap() {
        // The service asks for the first by itself, when a snapshot is made.
        let asked =
            used.contains(action.as_str().unwrap()) || action == "Microsoft.Compute/disks/beginGetAccess/action";
        assert!(asked, "the role permits {action}, and nothing needs it");
    }
    let world = api.world();
    assert!(world.snapshots.is_empty(), "nothing is left: {:?}", world.snapshots);
    assert_eq!(world.disks.len(), 4, "no disk is left: {:?}", world.disks);
}

#[test]
#[ignore = "is run by the other test, with the environment of the fake"]
fn inside() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let azure = Azure::new();
        let report = conformance::run(&azure).await;
        eprintln!("{report}");
        for (name, why) in report.skipped() {
            assert!(why.contains("to devices"), "{name}: {why}");
        }
        names_of_disks_are_resolved_as_the_errors_say(&azure).await;
        a_disk_is_made_of_a_snapshot_and_has_its_bytes(&azure).await;
        a_copy_goes_to_another_region_and_ends_with_its_original().await;
        what_carries_another_token_is_not_deleted(&azure).await;
        what_azure_says_is_passed_on(&azure).await;
        what_cannot_be_seen_is_not_gone(&azure).await;
        what_comes_late_or_is_listed_late_is_found(&azure).await;
    });
}

struct Azure {
    provider: AzureProvider,
    api: Api,
    place: PathBuf,
    /// What `open` has mounted, by the id of the disk.
    opened: Mutex<BTreeMap<String, Mounted>>,
}

fn provider() -> AzureProvider {
    provider_with(AzureOptions::default())
}

fn provider_with(more: AzureOptions) -> AzureProvider {
    let options = AzureOptions {
        subscription_id: Some(SUBSCRIPTION.into()),
        resource_group: Some("rg1".into()),
        endpoint: Some(std::env::var(ENDPOINT).unwrap()),
        call_timeout_s: Some(5),
        ..more
    };
    AzureProvider::new(&options, None, Arc::new(SystemClock::new())).unwrap()
}

impl Azure {
    fn new() -> Self {
        Self::with(provider())
    }

    fn with(provider: AzureProvider) -> Self {
        let endpoint = std::env::var(ENDPOINT).unwrap();
        let place = PathBuf::from(std::env::var_os(PLACE).unwrap());
        Self { provider, api: Api::at(Cloud::Azure, &endpoint), place, opened: Mutex::default() }
    }

    async fn volume(&self, name: &str) -> (Instance, Volume) {
        let instance = self.provider.instance(None).await.unwrap();
        let selection = VolumeSelection::Named(vec![name.to_owned()]);
        let volume = self.provider.volumes(&instance, &selection).await.unwrap().remove(0);
        (instance, volume)
    }

    async fn request(&self, name: &str) -> CreateRequest {
        let (instance, volume) = self.volume(name).await;
        let backup_id = "20260529T101112".parse().unwrap();
        let name = self.provider.snapshot_name(&volume, &backup_id);
        CreateRequest {
            token: SystemIds.token(),
            mark: "main.0123456789abcdef".into(),
            backup_id,
            instance,
            volumes: vec![VolumeSnapshot { name, volume }],
            tags: BTreeMap::new(),
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
impl Fixture for Azure {
    fn provider(&self) -> &dyn SnapshotProvider {
        &self.provider
    }

    fn later(&self) -> Box<dyn SnapshotProvider> {
        Box::new(provider())
    }

    fn volume_names(&self) -> Vec<String> {
        vec!["pg-data".into(), "pg.ts".into()]
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
        drop(self.opened.lock().unwrap().remove(&volume.id));
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

async fn names_of_disks_are_resolved_as_the_errors_say(azure: &Azure) {
    let (instance, volume) = azure.volume("PG-DATA").await;
    let attribute = |name: &str| volume.attributes.get(name).map(String::as_str);
    assert_eq!(
        (volume.id.as_str(), attribute("location"), attribute("disk_sku")),
        ("pg-data", Some("westeurope"), Some("Premium_LRS"))
    );
    let select = async |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        azure.provider.volumes(&instance, &VolumeSelection::Named(names)).await
    };
    let twice = select(&["pg-data", attribute("disk_id").unwrap(), "rg1/PG-data"]).await.unwrap();
    assert_eq!(twice.len(), 1, "a disk by name and by id is one volume");
    for (names, kind, part) in [
        (
            vec!["nothing", "loose"],
            ErrorKind::NotFound,
            "no such disk in resource group rg1: nothing; attached to no machine: loose",
        ),
        (vec!["loose"], ErrorKind::Precondition, "attached to no machine: loose"),
        (vec!["pg1_OsDisk_1"], ErrorKind::Precondition, "on the OS disk"),
    ] {
        let error = select(&names).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains(part), "{error}");
    }
    let (_, other) = azure.volume("pg.ts").await;
    let name = azure.provider.snapshot_name(&other, &"20260529T101112".parse().unwrap());
    assert!(!name.contains('.') && name.starts_with("pg-ts-"), "{name}");
}

async fn a_disk_is_made_of_a_snapshot_and_has_its_bytes(azure: &Azure) {
    for name in ["pg-data", "pg.ts"] {
        let request = azure.request(name).await;
        let (instance, volume) = (&request.instance, &request.volumes[0].volume);
        azure.write(volume, Path::new("story"), b"before").await;
        let ticket = azure.provider.create(&request).await.unwrap().remove(0);
        assert_eq!(azure.end(&ticket).await, None);
        azure.write(volume, Path::new("story"), b"after").await;
        let wanted = CreateVolumeRequest {
            ticket: ticket.clone(),
            token: SystemIds.token(),
            subtree: PathBuf::new(),
            destination: None,
            instance: Some(instance.clone()),
            mark: request.mark.clone(),
            exclude_content: Vec::new(),
        };
        let made = azure.provider.create_volume(&wanted).await.unwrap();
        assert_eq!(azure.provider.create_volume(&wanted).await.unwrap(), made, "a second call makes no second disk");
        let left = azure.provider.list_volumes(&request.mark).await.unwrap();
        let created = left.iter().map(RestoredVolume::created).collect::<Vec<_>>();
        assert!(created[0].is_some() && left == [made.clone().born(created[0], false)], "{left:?}");
        let attached = azure.provider.attach(&made, instance).await.unwrap();
        assert_eq!(azure.provider.attach(&made, instance).await.unwrap(), attached, "attached already is success");
        assert_eq!(azure.provider.list_volumes(&request.mark).await.unwrap(), []);
        let device = device(&attached.hints);
        let mounted = Mounted::new(GuestFs::Ext4, &device, &azure.scratch());
        assert_eq!(std::fs::read(mounted.point().join("story")).unwrap(), b"before");
        let of =
            azure.provider.attached_from(instance, std::slice::from_ref(&ticket)).await.unwrap().remove(0).unwrap();
        for key in ["disk_sku", "disk_like", "disk_encryption_set", "network_access_policy"] {
            assert_eq!(of.attributes.get(key), volume.attributes.get(key), "{key}");
        }
        assert!(volume.attributes["disk_like"].contains(if name == "pg.ts" { "5000" } else { "P10" }), "{volume:?}");
        let outlook = azure.provider.outlook(&ticket, instance);
        assert!(outlook.lost.iter().all(|lost| lost.contains("zone")), "{outlook:?}");
        drop(mounted);
        for _ in 0..2 {
            azure.provider.detach(&attached, instance).await.unwrap();
        }
        let forged = RestoredVolume { attributes: BTreeMap::new(), ..made.clone() };
        assert_eq!(azure.provider.delete_volume(&forged).await.unwrap_err().kind(), ErrorKind::Conflict);
        for _ in 0..2 {
            azure.provider.delete_volume(&made).await.unwrap();
        }
        azure.provider.delete(&ticket).await.unwrap();
        let gone = azure.provider.create_volume(&wanted).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
    }
}

async fn a_copy_goes_to_another_region_and_ends_with_its_original() {
    let options = AzureOptions {
        copy_to: Some("North Europe".into()),
        instant_access_minutes: Some(120),
        ..AzureOptions::default()
    };
    let azure = Azure::with(provider_with(options));
    let request = azure.request("pg.ts").await;
    assert!(azure.provider.after_cut(std::slice::from_ref(&request.volumes[0].volume), false).secure);
    let tickets = azure.provider.create(&request).await.unwrap();
    let world = azure.api.world();
    let made = world.snapshots.iter().find(|one| one.name == tickets[0].name).unwrap();
    assert_eq!(made.more["instant_access_minutes"], 120);
    assert_eq!(azure.end(&tickets[0]).await, None);
    // One that fails leaves the original as it is, and is made anew.
    let requests = std::slice::from_ref(&request);
    azure.api.settings(&json!({"more": {"fail_operation": ["pg.ts"]}}));
    let failed = azure.provider.secure(requests, &tickets).await.unwrap_err();
    assert!(failed.message().contains("the copy") && failed.message().contains("InternalExecution"), "{failed}");
    azure.api.settings(&json!({"more": {"fail_operation": []}}));
    // Its reply is lost; whoever comes back to it finds the copy that was begun.
    azure.api.faults(&[Fault::lost_reply("Microsoft.Compute/snapshots/write")]);
    let secured = azure.provider.secure(requests, &tickets).await.unwrap();
    assert_eq!(azure.provider.secure(requests, &tickets).await.unwrap(), secured, "again is the same");
    let copies: Vec<_> =
        azure.api.world().snapshots.into_iter().filter(|thing| thing.more["location"] == "northeurope").collect();
    assert_eq!((copies.len(), copies[0].state.as_str()), (1, "ready"), "{copies:?}");
    let found = azure.provider.find(&request.token, &[]).await.unwrap();
    assert_eq!((found.len(), &found[0]), (2, &tickets[0]), "the original comes first");
    azure.provider.delete(&secured[0]).await.unwrap();
    assert_eq!(azure.provider.find(&request.token, &[]).await.unwrap(), []);
    let both = AzureOptions {
        copy_to: Some("northeurope".into()),
        disk_encryption_set: Some("/x".into()),
        ..AzureOptions::default()
    };
    assert_eq!(
        AzureProvider::new(&both, None, Arc::new(SystemClock::new())).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
}

fn device(hints: &[DeviceHint]) -> PathBuf {
    let link = |hint: &DeviceHint| match hint {
        DeviceHint::Link(path) => path.exists().then(|| path.clone()),
        _ => None,
    };
    hints.iter().find_map(link).unwrap_or_else(|| panic!("the disk shows nowhere: {hints:?}"))
}

async fn what_carries_another_token_is_not_deleted(azure: &Azure) {
    let request = azure.request("pg-data").await;
    let ticket = azure.provider.create(&request).await.unwrap().remove(0);
    assert_eq!(azure.end(&ticket).await, None);
    let foreign = Ticket { token: SystemIds.token(), ..ticket.clone() };
    let mut stock = ticket.clone();
    stock.attributes.insert(Ticket::STOCK.into(), "1".into());
    for other in [&foreign, &stock] {
        let error = azure.provider.check_delete(&[ticket.clone(), other.clone()]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
        assert!(error.message().contains(&ticket.name), "{error}");
        assert_eq!(azure.provider.delete(other).await.unwrap_err().kind(), ErrorKind::Conflict);
    }
    azure.provider.check_delete(std::slice::from_ref(&ticket)).await.unwrap();
    azure.provider.delete(&ticket).await.unwrap();
    azure.provider.check_delete(&[ticket, foreign]).await.unwrap();
}

async fn what_azure_says_is_passed_on(azure: &Azure) {
    const WRITE: &str = "Microsoft.Compute/snapshots/write";
    let request = azure.request("pg-data").await;
    for (fault, kind, retry) in [
        (Fault::throttle(WRITE).seconds(7.0), ErrorKind::Exhausted, Retry::After(Duration::from_secs(7))),
        (Fault::denied(WRITE), ErrorKind::PermissionDenied, Retry::Never),
        (Fault::fail(WRITE), ErrorKind::Unavailable, Retry::Unknown),
        (Fault::hang(WRITE, 1.0), ErrorKind::Unavailable, Retry::Unknown),
        (Fault::lost_reply(WRITE), ErrorKind::Unavailable, Retry::Unknown),
    ] {
        let shown = format!("{fault:?}");
        let lost = shown.contains("lost_reply");
        azure.api.faults(&[fault]);
        let error = azure.provider.create(&request).await.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (kind, retry), "{shown}: {}", error.chain());
        let found = azure.provider.find(&request.token, &[]).await.unwrap();
        assert_eq!(found.len(), usize::from(lost), "{shown}");
        for ticket in found {
            azure.provider.delete(&ticket).await.unwrap();
        }
    }
    // Reads are repeated by the provider.
    azure.api.faults(&[
        Fault::throttle("Microsoft.Compute/snapshots/read").seconds(1.0),
        Fault::fail("Microsoft.Compute/snapshots/read"),
    ]);
    assert_eq!(azure.provider.find(&request.token, &[]).await.unwrap(), []);
    // What fails in the operation alone, and what fails after the cut.
    for settings in [json!({"more": {"fail_operation": ["pg-data"]}}), json!({"fail_after_cut": ["pg-data"]})] {
        azure.api.settings(&settings);
        let ticket = azure.provider.create(&request).await.unwrap().remove(0);
        let reason = azure.end(&ticket).await.unwrap();
        assert!(reason.starts_with("InternalExecutionError: "), "{reason}");
        azure.provider.delete(&ticket).await.unwrap();
        azure.api.settings(&json!({"more": {"fail_operation": []}, "fail_after_cut": []}));
    }
    // A lock is seen before anything is deleted.
    let ticket = azure.provider.create(&request).await.unwrap().remove(0);
    azure.api.settings(&json!({"more": {"locks": [{"scope": ticket.snapshot, "level": "CanNotDelete"}]}}));
    assert_eq!(
        azure.provider.check_delete(std::slice::from_ref(&ticket)).await.unwrap_err().kind(),
        ErrorKind::Precondition
    );
    let locked = azure.provider.delete(&ticket).await.unwrap_err();
    assert_eq!(locked.kind(), ErrorKind::Precondition, "{locked}");
    azure.api.settings(&json!({"more": {"locks": []}}));
    // A role that lacks an action is found out before the backup.
    azure.api.settings(&json!({"more": {"not_actions": ["Microsoft.Compute/snapshots/delete"]}}));
    let poor = azure.request("pg.ts").await;
    let error = azure.provider.check_requests(std::slice::from_ref(&poor)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.message().contains("Microsoft.Compute/snapshots/delete in resource group rg1"), "{error}");
    azure.api.settings(&json!({"more": {"not_actions": []}}));
    azure.provider.delete(&ticket).await.unwrap();
}

/// In another subscription, without a permission, or without an answer, nothing is found; and nothing is gone.
async fn what_cannot_be_seen_is_not_gone(azure: &Azure) {
    let request = azure.request("pg-data").await;
    let volumes = [request.volumes[0].volume.clone()];
    let ticket = azure.provider.create(&request).await.unwrap().remove(0);
    assert_eq!(azure.provider.unseen(&request.instance, &volumes).await.unwrap(), None);
    const OTHER: &str = "99999999-1111-2222-3333-444444444444";
    let mut theirs = volumes.clone();
    theirs[0].attributes.insert("subscription_id".into(), OTHER.into());
    let why = azure.provider.unseen(&request.instance, &theirs).await.unwrap().unwrap();
    assert!(why.contains(&format!("resource group rg1 of subscription {OTHER}")), "{why}");
    let elsewhere = Ticket { snapshot: ticket.snapshot.replace(SUBSCRIPTION, OTHER), ..ticket.clone() };
    let errors = [
        azure.provider.find(&request.token, &theirs).await.unwrap_err(),
        azure.provider.status(&elsewhere).await.unwrap_err(),
        azure.provider.delete(&elsewhere).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
    }
    // The options name one, the record another: where it was recorded is looked.
    let other = provider_with(AzureOptions { resource_group: Some("rg2".into()), ..AzureOptions::default() });
    assert_eq!(other.find(&request.token, &volumes).await.unwrap().len(), 1);
    azure.api.settings(&json!({"more": {"not_actions": ["Microsoft.Compute/snapshots/read"]}}));
    let why = azure.provider.unseen(&request.instance, &volumes).await.unwrap().unwrap();
    assert!(why.contains("Microsoft.Compute/snapshots/read"), "{why}");
    assert_eq!(azure.provider.status(&ticket).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    azure.api.settings(&json!({"more": {"not_actions": []}}));
    let nowhere = AzureOptions {
        subscription_id: Some(SUBSCRIPTION.into()),
        resource_group: Some("rg1".into()),
        endpoint: Some("http://127.0.0.1:1".into()),
        call_timeout_s: Some(1),
        ..AzureOptions::default()
    };
    let nowhere = AzureProvider::new(&nowhere, None, Arc::new(SystemClock::new())).unwrap();
    let why = nowhere.unseen(&request.instance, &volumes).await.unwrap().unwrap();
    assert!(why.contains("cannot reach Azure"), "{why}");
    azure.provider.delete(&ticket).await.unwrap();
}

async fn what_comes_late_or_is_listed_late_is_found(azure: &Azure) {
    const WRITE: &str = "Microsoft.Compute/snapshots/write";
    let request = azure.request("pg-data").await;
    let volumes = [request.volumes[0].volume.clone()];
    azure.api.faults(&[Fault::throttle(WRITE)]);
    let error = azure.provider.create(&request).await.unwrap_err();
    assert!(matches!(error.retry(), Retry::After(wait) if wait <= Duration::from_secs(5)), "{error:?}");
    azure.api.faults(&[Fault::late(WRITE, 1.5)]);
    azure.api.settings(&json!({"lag_ms": 500}));
    assert_eq!(azure.provider.create(&request).await.unwrap_err().retry(), Retry::Unknown);
    assert_eq!(azure.provider.find(&request.token, &volumes).await.unwrap(), []);
    tokio::time::timeout(Duration::from_secs(10), async {
        while azure.provider.list(&request.mark, &volumes).await.unwrap().is_empty() {
            azure.pause().await;
        }
    })
    .await
    .unwrap();
    for ticket in azure.provider.find(&request.token, &volumes).await.unwrap() {
        azure.provider.delete(&ticket).await.unwrap();
    }
    azure.api.settings(&json!({"lag_ms": 0}));
}
