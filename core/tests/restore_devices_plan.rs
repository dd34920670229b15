//! Where the file systems of new volumes are mounted, as arithmetic: what the plan says, and what it refuses.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use barman_snap::ErrorKind;
use barman_snap::id::{BackupId, Token};
use barman_snap::model::{
    BackupInfo, BackupStatus, EngineRecord, ExcludedTablespace, Lsn, SnapshotRecord, Tablespace, Timeline,
};
use barman_snap::provider::{FileSystem, Instance, Ticket, Volume};
use barman_snap::restore::devices::throw_away;
use barman_snap::restore::host::{Place, PlaceKind};
use barman_snap::restore::plan::plan;
use barman_snap::restore::{
    ArchiveFacts, DeviceFacts, DevicePlan, HostFacts, PlanInput, Purpose, RestorePlan, RestoreRequest, WalSource,
};

/// A cluster on three disks: data in a directory of one, a tablespace on another, WAL on the third.
#[derive(Clone)]
struct Case {
    info: BackupInfo,
    record: EngineRecord,
    request: RestoreRequest,
    host: HostFacts,
    facts: DeviceFacts,
}

fn snapshot(name: &str, file_systems: &[FileSystem]) -> SnapshotRecord {
    let ticket = Ticket {
        snapshot: format!("snap-{name}"),
        name: name.into(),
        volume: format!("vol-{name}"),
        root: file_systems[0].mount_point.clone(),
        method: "ebs".into(),
        token: Token::from_bits(1),
        attributes: BTreeMap::new(),
    };
    SnapshotRecord {
        ticket,
        mount_point: file_systems[0].mount_point.display().to_string(),
        mount_options: file_systems[0].options.clone(),
        file_systems: file_systems.to_vec(),
    }
}

fn fs(mount_point: &str) -> FileSystem {
    FileSystem {
        part: String::new(),
        fs_type: "ext4".into(),
        uuid: Some(format!("uuid-of-{mount_point}")),
        mount_point: mount_point.into(),
        fs_root: "/".into(),
        options: "rw,noatime,seclabel,stripe=8".into(),
        shared_with: Vec::new(),
    }
}

fn tablespace(name: &str, oid: u32, location: &str) -> Tablespace {
    Tablespace { name: name.into(), oid, location: location.into() }
}

fn three() -> Case {
    let info = BackupInfo {
        backup_label: Some("START WAL LOCATION: 0/9000028\n".into()),
        status: BackupStatus::Done,
        pgdata: Some("/srv/pg/main/data".into()),
        begin_xlog: Some(Lsn(0x900_0028)),
        end_xlog: Some(Lsn(0xA00_0100)),
        systemid: Some("42".into()),
        timeline: Some(Timeline(1)),
        version: Some(170_002),
        tablespaces: Some(vec![tablespace("ts1", 16384, "/srv/ts/one")]),
        ..BackupInfo::default()
    };
    let record = EngineRecord {
        snapshots: vec![
            snapshot("data", &[fs("/srv/pg")]),
            snapshot("ts", &[fs("/srv/ts")]),
            snapshot("wal", &[fs("/srv/wal")]),
        ],
        real_paths: BTreeMap::from([("/srv/pg/main/data/pg_wal".into(), "/srv/wal/pg_wal".into())]),
        ..EngineRecord::new("aws", Token::from_bits(1))
    };
    let wal = WalSource::Catalog { program: vec!["barman-snap".into()], url: "/cat".into(), server: "main".into() };
    let mut request = RestoreRequest::new("/srv/pg/main/data", wal, Token::from_bits(2));
    request.purpose = Some(Purpose::Clone);
    let facts = DeviceFacts {
        instance: Instance { name: "i-1".into(), attributes: BTreeMap::new() },
        mark: "main.0123456789abcdef".into(),
        may_mount: true,
        btrfs: BTreeSet::new(),
        attached: None,
        outlook: Vec::new(),
    };
    Case { info, record, request, host: HostFacts::default(), facts }
}

impl Case {
    fn plan(&self) -> barman_snap::Result<RestorePlan> {
        let id: BackupId = "20260529T095900".parse().unwrap();
        plan(PlanInput {
            backup_id: &id,
            info: &self.info,
            record: &self.record,
            request: &self.request,
            host: &self.host,
            archive: &ArchiveFacts::default(),
            devices: Some(&self.facts),
            now: "2026-06-01T00:00:00Z".parse().unwrap(),
        })
    }

    fn to(mut self, target: &str, tablespaces: &[&str]) -> Self {
        self.request.target = target.into();
        self.request.tablespaces = tablespaces.iter().map(|text| text.parse().unwrap()).collect();
        self
    }

    fn fs(&mut self, snapshot: usize) -> &mut FileSystem {
        &mut self.record.snapshots[snapshot].file_systems[0]
    }

    fn place(&mut self, path: &str, place: Place) {
        self.host.places.insert(path.into(), place);
    }

    /// `snapshot:part at mount point`, in the order of the plan.
    fn mounts(&self) -> Vec<String> {
        mounts(self.plan().unwrap().devices.as_ref().unwrap())
    }

    /// The message and the hint of the refusal.
    fn refusal(&self) -> (String, String) {
        let error = self.plan().unwrap_err();
        (error.message().to_owned(), error.hint().unwrap_or_default().to_owned())
    }
}

fn mounts(plan: &DevicePlan) -> Vec<String> {
    let one = |mount: &barman_snap::restore::devices::PlannedMount| {
        let of = &plan.volumes[mount.volume].ticket.name;
        format!("{of}:{} at {}", mount.part, mount.mount_point.display())
    };
    plan.mounts.iter().map(one).collect()
}

#[test]
fn at_the_original_places_everything_is_mounted_where_it_was() {
    let case = three();
    assert_eq!(case.mounts(), ["data: at /srv/pg", "ts: at /srv/ts"]);
    let plan = case.plan().unwrap();
    assert_eq!(plan.pieces, []);
    let devices = plan.devices.clone().unwrap();
    assert_eq!(devices.volumes.len(), 2, "the volume with pg_wal is not made");
    assert_eq!(devices.mounts[0].options, "noatime");
    assert_eq!(devices.mounts[0].uuid.as_deref(), Some("uuid-of-/srv/pg"));
    assert_eq!(devices.system_id.as_deref(), Some("42"));
    assert_eq!(
        plan.warnings,
        [
            "the volume that was mounted at /srv/wal is not made again: of what it held, a restore needs nothing of pg_wal, \
          which becomes a directory in /srv/pg/main/data"
        ]
    );
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<RestorePlan>(&json).unwrap(), plan);
    let text = plan.to_string();
    assert!(text.contains("  create   a volume of data (snap-data), attach to i-1\n"), "{text}");
    assert!(text.contains("  mount    data at /srv/pg (noatime)\n"), "{text}");
}

#[test]
fn elsewhere_the_place_of_the_directory_decides_the_mount_point() {
    let case = three().to("/new/main/data", &["ts1:/fast/one"]);
    assert_eq!(case.mounts(), ["ts: at /fast", "data: at /new"]);
    let map = case.plan().unwrap().write.iter().find(|file| file.name == "tablespace_map").unwrap().content.clone();
    assert_eq!(map, "16384 /fast/one\n");
    // A data directory that was a mount point itself can go anywhere.
    let mut case = three().to("/any/where", &[]);
    case.info.pgdata = Some("/srv/pg".into());
    assert_eq!(case.mounts(), ["data: at /any/where", "ts: at /srv/ts"]);
}

#[test]
fn a_place_that_cannot_be_is_refused_with_one_that_can() {
    assert_eq!(
        three().to("/new/data", &["ts1:/fast/one"]).refusal(),
        (
            "the data directory cannot be at /new/data: it lies in the directory main/data of its file system, which is \
             mounted as a whole"
                .into(),
            "/new/data/main/data would do, and /srv/pg/main/data, where it was".into()
        )
    );
    let (message, hint) = three().to("/new/main/data", &["ts1:/fast/two"]).refusal();
    assert!(
        message.starts_with("tablespace \"ts1\" cannot be at /fast/two: it lies in the directory one"),
        "{message}"
    );
    assert_eq!(hint, "--tablespace ts1:/fast/two/one would do");
    let (message, _) = three().to("/main/data", &[]).refusal();
    assert_eq!(message, "the file system of the data directory would have to be mounted at /");
}

#[test]
fn directories_of_one_file_system_move_together() {
    let mut case = three();
    case.info.tablespaces = Some(vec![tablespace("ts1", 16384, "/srv/pg/one")]);
    assert_eq!(case.mounts(), ["data: at /srv/pg"]);
    assert_eq!(case.clone().to("/new/main/data", &["ts1:/new/one"]).mounts(), ["data: at /new"]);
    let (message, hint) = case.to("/new/main/data", &[]).refusal();
    assert_eq!(
        message,
        "tablespace \"ts1\" and the data directory lie on one file system, which is mounted once: with the data directory \
         at /new/main/data, tablespace \"ts1\" is at /new/one"
    );
    assert_eq!(hint, "--tablespace ts1:/new/one");
}

#[test]
fn a_tablespace_inside_the_data_directory_comes_along() {
    let mut case = three().to("/new/main/data", &[]);
    case.info.tablespaces = Some(vec![tablespace("ts1", 16384, "/srv/pg/main/data/inner")]);
    assert_eq!(case.mounts(), ["data: at /new"]);
    // On a disk of its own, mounted inside the data directory.
    *case.fs(1) = fs("/srv/pg/main/data/inner");
    assert_eq!(case.mounts(), ["data: at /new", "ts: at /new/main/data/inner"]);
}

#[test]
fn what_was_mounted_inside_is_mounted_inside_unless_its_content_is_dropped() {
    let mut case = three().to("/new/main/data", &["ts1:/fast/one"]);
    case.record.real_paths.clear();
    *case.fs(2) = fs("/srv/pg/main/data/pg_wal");
    assert_eq!(case.mounts(), ["ts: at /fast", "data: at /new"]);
    *case.fs(2) = fs("/srv/pg/main/data/base/16400");
    assert_eq!(case.mounts(), ["ts: at /fast", "data: at /new", "wal: at /new/main/data/base/16400"]);
    *case.fs(2) = fs("/srv/ts/one/PG_17_202406281/5");
    assert_eq!(case.mounts(), ["ts: at /fast", "wal: at /fast/one/PG_17_202406281/5", "data: at /new"]);
    *case.fs(2) = fs("/elsewhere");
    assert_eq!(
        case.plan().unwrap().warnings,
        ["the volume that was mounted at /srv/wal is not needed: it held no part of the cluster"]
    );
}

#[test]
fn one_disk_may_have_several_file_systems() {
    let mut case = three();
    let part = |number: &str, at: &str| FileSystem { part: number.into(), ..fs(at) };
    case.record.snapshots =
        vec![snapshot("disk", &[part("1", "/srv/pg"), part("2", "/srv/ts"), part("3", "/srv/wal")])];
    assert_eq!(case.mounts(), ["disk:1 at /srv/pg", "disk:2 at /srv/ts"]);
    assert_eq!(case.plan().unwrap().devices.unwrap().volumes.len(), 1);
}

#[test]
fn a_link_of_the_original_leads_where_it_led_then() {
    let mut case = three();
    case.info.pgdata = Some("/var/lib/pg".into());
    case.record.real_paths.insert("/var/lib/pg".into(), "/srv/pg/main/data".into());
    // The link of this host, if there is one, leads elsewhere.
    case.place("/var/lib/pg", Place { real: Some("/srv/ts/other".into()), ..Place::default() });
    case.request.target = "/new/main/data".into();
    assert_eq!(case.mounts(), ["data: at /new", "ts: at /srv/ts"]);
    case.request.target = "/var/lib/pg".into();
    assert_eq!(case.refusal().1, "/var/lib/pg/main/data would do, and /srv/pg/main/data, where it was");
}

#[test]
fn of_a_bind_mount_the_whole_file_system_counts() {
    let mut case = three().to("/new/export/pg/main/data", &[]);
    case.fs(0).fs_root = "/export/pg".into();
    assert_eq!(case.mounts(), ["data: at /new", "ts: at /srv/ts"]);
    let (message, hint) = case.to("/srv/pg/main/data", &[]).refusal();
    assert!(message.contains("it lies in the directory export/pg/main/data of its file system"), "{message}");
    assert_eq!(hint, "/srv/pg/main/data/export/pg/main/data would do");
}

#[test]
fn a_btrfs_subvolume_is_mounted_as_it_was_but_not_beside_the_original() {
    let mut case = three().to("/new/main/data", &[]);
    *case.fs(0) = FileSystem {
        fs_type: "btrfs".into(),
        fs_root: "/@pg".into(),
        uuid: Some("AB".into()),
        options: "rw,noatime,compress=zstd:3,ssd,space_cache=v2,subvolid=256,subvol=/@pg".into(),
        ..fs("/srv/pg")
    };
    assert_eq!(case.mounts(), ["data: at /new", "ts: at /srv/ts"]);
    let mount = case.plan().unwrap().devices.unwrap().mounts.remove(0);
    assert_eq!((mount.subvolume.as_path(), mount.options.as_str()), (Path::new("/@pg"), "noatime,compress=zstd:3"));
    case.facts.btrfs.insert("ab".into());
    assert!(case.refusal().0.starts_with("the btrfs file system AB is mounted on this host"));
}

#[test]
fn a_record_of_a_stock_tool_means_the_whole_disk() {
    let mut case = three();
    case.record.snapshots.iter_mut().for_each(|one| one.file_systems.clear());
    case.record.real_paths.clear();
    assert_eq!(case.mounts(), ["data: at /srv/pg", "ts: at /srv/ts"]);
    let mount = case.plan().unwrap().devices.unwrap().mounts.remove(0);
    assert_eq!((mount.fs_type.as_str(), mount.uuid, mount.options.as_str()), ("", None, "noatime"));
    // And one that does not say where its volume was mounted holds nothing.
    case.record.snapshots[0].mount_point.clear();
    let error = case.plan().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.message(), "no snapshot of this backup holds the data directory /srv/pg/main/data");
}

#[test]
fn what_has_to_be_activated_first_is_left_to_the_user() {
    for part in ["lvm:vg/pg", "md:0", "crypt:pg"] {
        let mut case = three();
        case.fs(0).part = part.into();
        let (message, hint) = case.refusal();
        assert_eq!(
            message,
            format!("the file system that was mounted at /srv/pg lies on {part}, which is not activated")
        );
        assert!(hint.ends_with("restore with --mounted"), "{hint}");
    }
    let mut case = three();
    case.fs(1).shared_with = vec!["vol-x".into(), "vol-y".into()];
    let (message, _) = case.refusal();
    assert_eq!(message, "the file system that was mounted at /srv/ts lies on several disks (also vol-x, vol-y)");
    // What is not needed may be whatever it likes.
    let mut case = three();
    case.fs(2).part = "lvm:vg/wal".into();
    assert_eq!(case.mounts().len(), 2);
}

#[test]
fn a_mount_point_that_is_taken_is_refused() {
    for (place, problem) in [
        (Place { kind: PlaceKind::Empty, mount_point: true, ..Place::default() }, "something is mounted there"),
        (Place { kind: PlaceKind::Full, mount_point: true, ..Place::default() }, "something is mounted there"),
        (Place { kind: PlaceKind::Full, ..Place::default() }, "it is not empty"),
        (Place { kind: PlaceKind::Other, ..Place::default() }, "it is not a directory"),
    ] {
        let mut case = three();
        case.place("/srv/ts", place);
        let expected = format!("the file system of tablespace \"ts1\" cannot be mounted at /srv/ts: {problem}");
        assert_eq!(case.refusal().0, expected);
    }
    let mut case = three();
    case.place("/srv/pg", Place { kind: PlaceKind::Empty, ..Place::default() });
    assert_eq!(case.mounts().len(), 2);
}

#[test]
fn two_file_systems_do_not_fit_on_one_mount_point() {
    let (message, _) = three().to("/new/main/data", &["ts1:/new/one"]).refusal();
    assert_eq!(
        message,
        "the file systems of the data directory and of tablespace \"ts1\" cannot both be mounted at /new"
    );
}

#[test]
fn without_the_right_to_mount_nothing_is_begun() {
    let mut case = three();
    case.facts.may_mount = false;
    let error = case.plan().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.hint().unwrap().starts_with("run it as root"), "{error}");
    let mut case = three();
    case.request.in_place = true;
    assert_eq!(case.refusal().0, "a restore in place is for directories; here new volumes are mounted");
}

#[test]
fn a_throw_away_restore_has_a_directory_for_each_disk() {
    let case = three();
    let (target, tablespaces) = throw_away(&case.info, &case.record, Path::new("/tmp/v")).unwrap();
    assert_eq!(target, Path::new("/tmp/v/disk-0/main/data"));
    assert_eq!(tablespaces[0].to, Path::new("/tmp/v/disk-1/one"));
    let mut case = three();
    (case.request.target, case.request.tablespaces) = (target, tablespaces);
    assert_eq!(case.mounts(), ["data: at /tmp/v/disk-0", "ts: at /tmp/v/disk-1"]);
    case.info.tablespaces = Some(vec![tablespace("ts1", 16384, "/srv/pg/one")]);
    let (_, tablespaces) = throw_away(&case.info, &case.record, Path::new("/tmp/v")).unwrap();
    assert_eq!(tablespaces[0].to, Path::new("/tmp/v/disk-0/one"));
}

/// The three disks, made of the snapshots and mounted by the user at other places.
fn mounted_by_hand() -> Case {
    let mut case = three().to("/new/main/data", &["ts1:/fast/one"]);
    let volume = |id: &str, mount_point: &str| Volume {
        id: id.into(),
        root: mount_point.into(),
        mount_point: mount_point.into(),
        mount_options: "rw,noatime".into(),
        device: "/dev/nvme1n1".into(),
        method: "ebs".into(),
        attributes: BTreeMap::new(),
        file_systems: vec![FileSystem { options: "rw,noatime".into(), ..fs(mount_point) }],
    };
    case.facts.attached = Some(vec![Some(volume("vol-8", "/new")), Some(volume("vol-9", "/fast")), None]);
    case.facts.may_mount = false;
    let there = Place { kind: PlaceKind::Full, major: Some(17), system_id: Some("42".into()), ..Place::default() };
    // The snapshot has the postmaster.pid of the original, whose process runs on this host.
    case.place("/new/main/data", Place { running: Some(77), ..there });
    case
}

impl Case {
    fn attached(&mut self, at: usize) -> &mut Option<Volume> {
        &mut self.facts.attached.as_mut().unwrap()[at]
    }
}

#[test]
fn volumes_that_the_user_has_mounted_are_taken_as_they_are() {
    let case = mounted_by_hand();
    let plan = case.plan().unwrap();
    let devices = plan.devices.clone().unwrap();
    assert_eq!(devices.mounts, []);
    let used: Vec<_> = devices.volumes.iter().map(|volume| volume.attached.as_deref().unwrap()).collect();
    assert_eq!(used, ["vol-8", "vol-9"]);
    assert!(plan.to_string().contains("  use      the volume vol-8, made of data\n"), "{plan}");
    assert_eq!(plan.warnings.len(), 1, "only that of the WAL disk: {:?}", plan.warnings);
}

#[test]
fn other_mount_options_are_only_told() {
    let mut case = mounted_by_hand();
    case.attached(1).as_mut().unwrap().file_systems[0].options = "rw,relatime".into();
    let warnings = case.plan().unwrap().warnings;
    let expected =
        "the volume vol-9 is mounted at /fast with other options than the original: \"relatime\", not \"noatime\"";
    assert_eq!(warnings[0], expected);
}

#[test]
fn what_is_missing_or_elsewhere_is_named_all_of_it() {
    let mut case = mounted_by_hand();
    *case.attached(0) = None;
    *case.attached(1) = None;
    assert_eq!(
        case.refusal().0,
        "no volume attached to i-1 was made of snap-data (was mounted at /srv/pg), snap-ts (was mounted at /srv/ts)"
    );
    let mut case = mounted_by_hand();
    case.attached(0).as_mut().unwrap().file_systems[0].mount_point = "/old".into();
    case.attached(1).as_mut().unwrap().file_systems.clear();
    case.attached(1).as_mut().unwrap().mount_point = "".into();
    assert_eq!(
        case.refusal().0,
        "the data directory has to be at /new/main/data, and is at /old/main/data on the volume vol-8; \
         tablespace \"ts1\" has to be at /fast/one, but the volume vol-9 is not mounted"
    );
    let mut case = mounted_by_hand();
    case.attached(1).as_mut().unwrap().file_systems[0].fs_root = "/two".into();
    assert_eq!(
        case.refusal().0,
        "tablespace \"ts1\" has to be at /fast/one, but of the volume vol-9 only /two is mounted, at /fast"
    );
}

#[test]
fn what_was_activated_and_bound_by_hand_will_do() {
    let mut case = mounted_by_hand();
    case.fs(0).part = "lvm:vg/pg".into();
    case.attached(0).as_mut().unwrap().file_systems[0].part = "lvm:vg/pg".into();
    // Of the tablespace's file system only the directory itself is mounted.
    let bound = &mut case.attached(1).as_mut().unwrap().file_systems[0];
    (bound.fs_root, bound.mount_point) = ("/one".into(), "/fast/one".into());
    assert!(case.plan().is_ok());
    // All disks of a file system have to be there.
    case.fs(0).shared_with = vec!["vol-wal".into()];
    assert!(case.refusal().0.contains("was made of snap-wal"), "{:?}", case.refusal());
}

#[test]
fn what_is_mounted_has_to_be_the_data_directory_of_the_backup() {
    let with = |change: &dyn Fn(&mut Place)| {
        let mut case = mounted_by_hand();
        change(case.host.places.get_mut(Path::new("/new/main/data")).unwrap());
        case.refusal().0
    };
    assert_eq!(with(&|place| place.major = None), "/new/main/data is not a PostgreSQL data directory");
    assert_eq!(
        with(&|place| place.major = Some(16)),
        "/new/main/data is a data directory of PostgreSQL 16, the backup is of PostgreSQL 17"
    );
    assert_eq!(
        with(&|place| place.system_id = Some("43".into())),
        "/new/main/data is the data directory of another cluster: system identifier 43, the backup has 42"
    );
    assert_eq!(with(&|place| place.served_by = Some(77)), "a server is running on /new/main/data (process 77)");
}

#[test]
fn no_volume_is_made_for_a_tablespace_that_was_left_out() {
    let mut case = three();
    let out = ExcludedTablespace { oid: 16384, name: "ts1".into(), databases: Vec::new(), volume: None };
    case.record.excluded_tablespaces.push(out.clone());
    case.record.snapshots.retain(|one| one.ticket.name != "ts");
    let plan = case.plan().unwrap();
    let devices = plan.devices.unwrap();
    assert!(devices.volumes.iter().all(|volume| volume.ticket.name != "ts"), "{devices:?}");
    assert!(plan.tablespaces[0].left_out && plan.tablespaces[0].location == Path::new("/srv/ts/one"));
    let (_, tablespaces) = throw_away(&case.info, &case.record, Path::new("/tmp/v")).unwrap();
    assert_eq!(tablespaces[0].to, Path::new("/tmp/v/left-out-16384"));

    // Volumes that the user has mounted: what lies there is not known to be of this restore.
    let mut case = mounted_by_hand();
    case.record.excluded_tablespaces.push(out);
    case.place("/new/main/data", Place { running: None, ..case.host.at(Path::new("/new/main/data")) });
    case.plan().unwrap();
    case.host.places.insert("/fast/one".into(), Place { kind: PlaceKind::Full, ..Place::default() });
    let error = case.plan().unwrap_err();
    assert!(error.message().contains("not empty") && error.hint().unwrap().contains("--tablespace ts1:"), "{error}");
}
