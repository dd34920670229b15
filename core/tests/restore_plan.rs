//! The plan of a restore as arithmetic: what it says, and what it refuses.
//!
//! Every refusal is one change of a request that works, and its whole message is written down here.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use barman_snap::ErrorKind;
use barman_snap::catalog::{Chosen, PassedOver};
use barman_snap::host::clusters::ClusterDir;
use barman_snap::id::{BackupId, Token};
use barman_snap::model::{
    BackupInfo, BackupStatus, EngineRecord, ExcludedTablespace, Lsn, SnapshotRecord, Tablespace, Timeline,
    TimelineHistory,
};
use barman_snap::provider::Ticket;
use barman_snap::restore::host::{Place, PlaceKind};
use barman_snap::restore::plan::{places_to_look_at, plan};
use barman_snap::restore::target::parse_time;
use barman_snap::restore::{
    ArchiveFacts, HostFacts, Owner, PlanInput, Purpose, RecoveryTarget, RestorePlan, RestoreRequest, TargetPoint,
    TargetTimeline, WalSource,
};
use chrono::{FixedOffset, Utc};

/// A restore that works: two tablespaces, one on a volume of its own, one inside the volume of the data directory.
#[derive(Clone)]
struct Case {
    info: BackupInfo,
    record: EngineRecord,
    request: RestoreRequest,
    host: HostFacts,
    archive: ArchiveFacts,
}

fn utc(text: &str) -> chrono::DateTime<FixedOffset> {
    parse_time(text, &FixedOffset::east_opt(0).unwrap()).unwrap()
}

fn snapshot(name: &str, root: &str) -> SnapshotRecord {
    let ticket = Ticket {
        snapshot: format!("/snapshots/{name}"),
        name: name.into(),
        volume: root.into(),
        root: root.into(),
        method: "copy".into(),
        token: Token::from_bits(1),
        attributes: BTreeMap::new(),
    };
    SnapshotRecord { ticket, mount_point: root.into(), mount_options: "rw".into(), file_systems: Vec::new() }
}

fn good() -> Case {
    let tablespace = |name: &str, oid, location: &str| Tablespace { name: name.into(), oid, location: location.into() };
    let info = BackupInfo {
        backup_label: Some("START WAL LOCATION: 0/9000028 (file 000000010000000000000009)\n".into()),
        status: BackupStatus::Done,
        pgdata: Some("/srv/pg/data".into()),
        begin_xlog: Some(Lsn(0x900_0028)),
        end_xlog: Some(Lsn(0xA00_0100)),
        end_time: Some(utc("2026-05-29 10:00:00")),
        systemid: Some("42".into()),
        timeline: Some(Timeline(1)),
        version: Some(150_004),
        tablespaces: Some(vec![tablespace("ts1", 16384, "/srv/ts/one"), tablespace("ts2", 16385, "/srv/pg/two")]),
        config_file: Some("/srv/pg/data/postgresql.conf".into()),
        ..BackupInfo::default()
    };
    let record = EngineRecord {
        snapshots: vec![snapshot("pg", "/srv/pg"), snapshot("ts", "/srv/ts")],
        tablespace_map: Some("16384 /srv/ts/one\n16385 /srv/pg/two\n".into()),
        settings: BTreeMap::from([("max_connections".into(), "200".into())]),
        ..EngineRecord::new("local", Token::from_bits(1))
    };
    let wal =
        WalSource::Catalog { program: vec!["/usr/bin/barman-snap".into()], url: "/cat".into(), server: "main".into() };
    let mut request = RestoreRequest::new("/new/data", wal, Token::from_bits(0xABCD_EF01 << 96));
    request.tablespaces = vec!["ts1:/new/one".parse().unwrap(), "ts2:/new/two".parse().unwrap()];
    let segments = ["000000010000000000000009", "00000001000000000000000A"].map(str::to_owned);
    Case {
        info,
        record,
        request,
        host: HostFacts::default(),
        archive: ArchiveFacts { segments: Some(BTreeSet::from(segments)), ..ArchiveFacts::default() },
    }
}

impl Case {
    fn plan(&self) -> barman_snap::Result<RestorePlan> {
        plan(PlanInput {
            backup_id: &id(),
            info: &self.info,
            record: &self.record,
            request: &self.request,
            host: &self.host,
            archive: &self.archive,
            devices: None,
            now: utc("2026-06-01 00:00:00").with_timezone(&Utc),
        })
    }

    fn place(&mut self, path: &str, place: Place) {
        self.host.places.insert(path.into(), place);
    }
}

fn id() -> BackupId {
    "20260529T095900".parse().unwrap()
}

fn full() -> Place {
    Place { kind: PlaceKind::Full, ..Place::default() }
}

/// The stopped data directory of the same cluster.
fn same_cluster() -> Place {
    Place {
        major: Some(15),
        system_id: Some("42".into()),
        tablespaces: BTreeMap::from([(16384, PathBuf::from("/new/one"))]),
        ..full()
    }
}

fn at(point: TargetPoint) -> RecoveryTarget {
    RecoveryTarget { point, ..RecoveryTarget::default() }
}

#[test]
fn a_plan_takes_each_piece_from_the_volume_that_held_it() {
    let plan = good().plan().unwrap();
    let pieces: Vec<_> = plan
        .pieces
        .iter()
        .map(|piece| format!("{}:{}:{}", piece.ticket.name, piece.subtree.display(), piece.destination.display()))
        .collect();
    assert_eq!(pieces, ["pg:data:/new/data", "ts:one:/new/one", "pg:two:/new/two"]);
    assert!(plan.pieces[0].exclude_content.contains(&"pg_wal".into()));
    let written: BTreeMap<_, _> = plan.write.iter().map(|file| (file.name.as_str(), file.content.as_str())).collect();
    assert_eq!(written["tablespace_map"], "16384 /new/one\n16385 /new/two\n");
    assert_eq!(written["backup_label"], good().info.backup_label.unwrap());
    assert_eq!(written["recovery.signal"], "");
    assert_eq!(plan.write.last().unwrap().name, "backup_label");
}

#[test]
fn a_plan_reads_well_and_round_trips_as_json() {
    let mut case = good();
    case.request.recovery = at(TargetPoint::Lsn(Lsn(0xA00_0200)));
    let plan = case.plan().unwrap();
    let json = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<RestorePlan>(&json).unwrap(), plan);
    insta::assert_snapshot!(plan.to_string(), @r#"
    restore of backup 20260529T095900 (PostgreSQL 15) to /new/data
    as a replacement
    recover up to and including 0/A000200 on timeline 1, then promote
      copy     pg (data) -> /new/data
      copy     ts (one) -> /new/one
      copy     pg (two) -> /new/two
      empty    pg_wal, pg_replslot, pg_dynshmem, pg_notify, pg_serial, pg_snapshots, pg_stat_tmp, pg_subtrans, log, pg_log
      remove   what belongs to the running original: postmaster.pid, temporary files, relation caches, old signal files
      link     pg_tblspc/16384 (ts1) -> /new/one
      link     pg_tblspc/16385 (ts2) -> /new/two
      write    tablespace_map (30 bytes)
      write    recovery.signal (0 bytes)
      write    backup_label (62 bytes)
      set      restore_command = /usr/bin/barman-snap wal-restore --new-tablespaces inside /cat main %f %p || exit $(($? == 1 ? 1 : 255))
      set      recovery_end_command = sed -i -E "s/^(recovery_target(_time|_lsn|_xid|_name)?) *=.*/\1 = ''/;s/^(recovery_target_timeline) *=.*/\1 = 'latest'/;s/^(recovery_target_action) *=.*/\1 = 'pause'/" postgresql.auto.conf
      set      recovery_target_lsn = 0/A000200
      set      recovery_target_inclusive = on
      set      recovery_target_timeline = 1
      set      recovery_target_action = promote
      set      allow_in_place_tablespaces = on
    warning: this server takes the place of the original: it archives with the archive_command of the original, and its subscriptions go on; if the original lives, restore with --clone
    "#);
}

#[test]
fn a_plan_says_how_its_backup_was_chosen() {
    let mut case = good();
    assert!(!serde_json::to_string(&case.plan().unwrap()).unwrap().contains("chosen"));
    let over = PassedOver { backup_id: "20260530T000000".parse().unwrap(), why: "it is FAILED: disk full".into() };
    case.request.chosen = Some(Chosen {
        backup_id: id(),
        asked: "last".into(),
        because: "the newest complete one".into(),
        passed_over: vec![over],
    });
    let plan = case.plan().unwrap();
    assert_eq!(
        plan.to_string().lines().nth(1).unwrap(),
        "backup 20260529T095900: the newest complete one; passed over: 20260530T000000 (it is FAILED: disk full)"
    );
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["chosen"]["asked"], "last");
    assert_eq!(json["chosen"]["passed_over"][0]["why"], "it is FAILED: disk full");
}

#[test]
fn where_new_tablespaces_would_go_is_told_unless_they_stay_inside() {
    let told = |wal: Option<WalSource>, standby: bool| {
        let mut case = good();
        case.request.purpose = standby.then_some(Purpose::Standby);
        case.request.wal = wal.unwrap_or(case.request.wal);
        case.plan().unwrap().warnings.iter().any(|warning| warning.contains("--new-tablespaces inside"))
    };
    assert!(!told(None, false));
    assert!(told(Some(WalSource::None), false));
    let own = || Some(WalSource::Command("cp /archive/%f %p".into()));
    assert!(told(own(), false) && !told(own(), true));
}

#[test]
fn tablespaces_in_place_are_allowed_where_the_server_knows_them() {
    for (version, known) in [(130_007, false), (130_008, true), (140_004, false), (140_005, true), (180_000, true)] {
        let mut case = good();
        case.info.version = Some(version);
        let plan = case.plan().unwrap();
        assert_eq!(plan.settings.iter().any(|one| one.name == "allow_in_place_tablespaces"), known, "{version}");
    }
}

#[test]
fn no_link_is_made_for_what_the_backup_does_not_know() {
    let mut case = good();
    case.record.tablespace_map.as_mut().unwrap().push_str("16999 /srv/late\n");
    let plan = case.plan().unwrap();
    let map = plan.write.iter().find(|file| file.name == "tablespace_map").unwrap();
    assert_eq!(map.content, "16384 /new/one\n16385 /new/two\n");
    let warning = plan.warnings.iter().find(|warning| warning.contains("16999 at /srv/late"));
    assert!(warning.is_some(), "{:?}", plan.warnings);
}

#[test]
fn what_cannot_work_is_refused_in_one_line() {
    type Change = fn(&mut Case);
    let table: &[(&str, Change)] = &[
        ("the target directory /new/data is not empty", |case| case.place("/new/data", full())),
        ("the target /new/data is not a directory", |case| {
            case.place("/new/data", Place { kind: PlaceKind::Other, ..Place::default() });
        }),
        ("/new/data, the target, lies inside the data directory /new", |case| {
            let within = Some(ClusterDir { path: "/new".into(), is_tablespace: false });
            case.place("/new/data", Place { within, ..Place::default() });
        }),
        ("/new/one, the place of tablespace \"ts1\", lies inside the tablespace /new", |case| {
            let within = Some(ClusterDir { path: "/new".into(), is_tablespace: true });
            case.place("/new/one", Place { within, ..Place::default() });
        }),
        ("/cat/main/data, the target, lies inside the catalog /cat/main", |case| {
            case.request.target = "/cat/main/data".into();
        }),
        ("/new/data, the target, has in it the catalog /cat/main", |case| {
            // Through a link.
            case.place("/cat/main", Place { real: Some("/new/data/catalog/main".into()), ..full() });
            case.request.in_place = true;
            case.place("/new/data", same_cluster());
        }),
        ("the target directory must be an absolute path: data", |case| case.request.target = "data".into()),
        ("the target directory has a \"..\": /new/../data", |case| case.request.target = "/new/../data".into()),
        ("/new/data is not a PostgreSQL data directory, so nothing there is replaced", |case| {
            case.request.in_place = true;
            case.place("/new/data", full());
        }),
        ("a server is running on /new/data (process 77)", |case| {
            case.request.in_place = true;
            case.place("/new/data", Place { running: Some(77), ..same_cluster() });
        }),
        ("/new/data is the data directory of another cluster: system identifier 43, the backup has 42", |case| {
            case.request.in_place = true;
            case.place("/new/data", Place { system_id: Some("43".into()), ..same_cluster() });
        }),
        ("/new/data is a mount point and cannot be renamed", |case| {
            case.request.in_place = true;
            case.place("/new/data", Place { mount_point: true, ..same_cluster() });
        }),
        ("the snapshot /new/data/.snapshots/pg lies inside /new/data", |case| {
            case.request.in_place = true;
            case.record.snapshots[0].ticket.snapshot = "/new/data/.snapshots/pg".into();
            case.place("/new/data", same_cluster());
        }),
        ("tablespace \"ts1\" cannot go to /new/one: not empty", |case| case.place("/new/one", full())),
        ("tablespace \"ts2\" cannot go to /new/two: not empty, and not the place that /new/data uses", |case| {
            case.request.in_place = true;
            case.place("/new/data", same_cluster());
            case.place("/new/two", full());
        }),
        ("the backup has no tablespace \"ts3\"", |case| {
            case.request.tablespaces.push("ts3:/new/three".parse().unwrap());
        }),
        ("tablespaces \"ts1\" and \"ts2\" cannot both go to /new/one", |case| {
            case.request.tablespaces[1].to = "/new/one".into();
        }),
        (
            "tablespace \"ts1\" cannot go to /new/data/one: that is not apart from the data directory /new/data",
            |case| case.request.tablespaces[0].to = "/new/data/one".into(),
        ),
        (
            "target time 2026-05-29 09:59:59 +00:00 is before the end of backup 20260529T095900, 2026-05-29 10:00:00 +00:00",
            |case| case.request.recovery = at(TargetPoint::Time(utc("2026-05-29 09:59:59"))),
        ),
        ("target time 2026-06-01 00:00:01 +00:00 is in the future", |case| {
            case.request.recovery = at(TargetPoint::Time(utc("2026-06-01 00:00:01")));
        }),
        ("target LSN 0/A0000FF is before the end of backup 20260529T095900, 0/A000100", |case| {
            case.request.recovery = at(TargetPoint::Lsn(Lsn(0xA00_00FF)));
        }),
        ("target LSN 0/B000001 is beyond the archive, which ends at 0/B000000", |case| {
            case.request.recovery = at(TargetPoint::Lsn(Lsn(0xB00_0001)));
        }),
        ("timeline 7 is not in the archive", |case| {
            case.request.recovery.timeline = TargetTimeline::Id(Timeline(7));
        }),
        ("timeline 2 does not continue backup 20260529T095900, which ended at 0/A000100 on timeline 1", |case| {
            case.archive.ancestry =
                BTreeMap::from([(Timeline(2), TimelineHistory::parse(Timeline(2), "1\t0/9000000\tx\n").unwrap())]);
            case.request.recovery.timeline = TargetTimeline::Id(Timeline(2));
        }),
        (
            "timeline 2, the newest in the archive, does not continue backup 20260529T095900, which ended at 0/A000100 on timeline 1",
            |case| {
                case.archive.ancestry =
                    BTreeMap::from([(Timeline(2), TimelineHistory::parse(Timeline(2), "1\t0/9000000\tx\n").unwrap())]);
            },
        ),
        ("/new/data, the target, is a symbolic link to /data/pg", |case| {
            case.place("/new/data", Place { link: Some("/data/pg".into()), ..full() });
        }),
        ("/new/one, the place of tablespace \"ts1\", is a symbolic link to /data/one", |case| {
            case.place(
                "/new/one",
                Place { kind: PlaceKind::Empty, link: Some("/data/one".into()), ..Place::default() },
            );
        }),
        ("backup 20260529T095900 is FAILED, not DONE: disk full", |case| {
            case.info.status = BackupStatus::Failed;
            case.info.error = Some("disk full".into());
        }),
        ("backup 20260529T095900 is of PostgreSQL 12; 13 is the oldest one supported", |case| {
            case.info.version = Some(120_004);
        }),
        ("backup 20260529T095900 was written by a newer version of this program (record 2)", |case| {
            case.record.version = 2;
        }),
        ("backup 20260529T095900 has no backup_label", |case| case.info.backup_label = None),
        ("the archive lacks 00000001000000000000000A, which backup 20260529T095900 needs", |case| {
            case.archive.segments.as_mut().unwrap().pop_last();
        }),
        ("no snapshot of this backup holds tablespace \"ts1\" at /srv/ts/one", |case| {
            case.record.snapshots.pop();
        }),
        ("only root can give files to another user", |case| {
            case.host.uid = 1000;
            case.request.owner = Some(Owner { uid: 101, gid: 104 });
        }),
        ("a standby follows its primary and has no recovery target", |case| {
            case.request.purpose = Some(Purpose::Standby);
            case.request.recovery = at(TargetPoint::Immediate);
        }),
        ("restore_command cannot fetch a file: \"true\"", |case| {
            case.request.wal = WalSource::Command("true".into());
        }),
    ];
    for (expected, change) in table {
        let mut case = good();
        change(&mut case);
        let error = case.plan().expect_err(expected);
        assert_eq!(error.message(), *expected);
    }
}

#[test]
fn in_place_renames_what_is_there_and_deletes_nothing() {
    let mut case = good();
    case.request.in_place = true;
    case.place("/new/data", same_cluster());
    case.place("/new/one", full());
    let plan = case.plan().unwrap();
    let renamed: Vec<_> =
        plan.set_aside.iter().map(|one| format!("{} {}", one.from.display(), one.to.display())).collect();
    assert_eq!(renamed, ["/new/data /new/data.before-restore-abcdef01", "/new/one /new/one.before-restore-abcdef01"]);
}

#[test]
fn a_tablespace_inside_the_data_directory_never_leads_back_to_the_original() {
    let mut case = good();
    case.request.tablespaces.pop();
    case.info.tablespaces.as_mut().unwrap()[1].location = "/srv/pg/data/two".into();
    let plan = case.plan().unwrap();
    assert_eq!(plan.tablespaces[1].location, Path::new("/new/data/two"));
    assert!(plan.write[0].content.ends_with("16385 /new/data/two\n"));
    // It comes along with the data directory.
    assert_eq!(plan.pieces.len(), 2);
    // Sent elsewhere, its content is not copied twice.
    case.request.tablespaces.push("ts2:/new/two".parse().unwrap());
    let plan = case.plan().unwrap();
    assert_eq!(plan.pieces.len(), 3);
    assert!(plan.pieces[0].exclude_content.contains(&"two".into()));
}

#[test]
fn a_data_directory_named_through_a_link_is_found_on_its_volume() {
    let mut case = good();
    case.info.pgdata = Some("/var/lib/pg".into());
    case.place("/var/lib/pg", Place { real: Some("/srv/pg/data".into()), ..full() });
    assert!(places_to_look_at(&case.info, &case.request).unwrap().contains(&"/var/lib/pg".into()));
    assert_eq!(case.plan().unwrap().pieces[0].subtree, Path::new("data"));
}

#[test]
fn the_configuration_is_known_where_it_lay_outside() {
    let mut case = good();
    let file = "/etc/postgresql/15/main/postgresql.conf";
    case.info.config_file = Some(file.into());
    assert!(case.plan().unwrap().warnings[0].contains("max_connections = 200"), "it is not in the backup");
    case.record.config_files.insert(file.into(), "port = 5432".into());
    let plan = case.plan().unwrap();
    assert_eq!(plan.config.main.as_deref(), Some(Path::new(file)));
    assert_eq!(plan.config.saved[Path::new(file)], b"port = 5432");
    assert!(!plan.config.keeps_outside, "another directory than the original's");
    assert!(!serde_json::to_string(&plan).unwrap().contains("5432"), "what is in a configuration is not printed");
    // At the place of the original it is that server's own.
    case.request.target = "/srv/pg/data".into();
    assert!(case.plan().unwrap().config.keeps_outside);
    case.request.purpose = Some(Purpose::Clone);
    assert!(!case.plan().unwrap().config.keeps_outside);
}

#[test]
fn a_plan_shows_no_secret_of_the_command_that_is_written() {
    let mut case = good();
    case.request.wal = WalSource::Command("AWS_SECRET_ACCESS_KEY=s3cret fetch https://u:s3cret@h/%f %p".into());
    let plan = case.plan().unwrap();
    let command = plan.settings.iter().find(|setting| setting.name == "restore_command").unwrap();
    assert!(command.value.contains("u:s3cret@h"), "it is written as it is");
    let shown = format!("{plan} {} {plan:?}", serde_json::to_string(&plan).unwrap());
    assert!(!shown.contains("s3cret") && shown.matches("fetch https://u:***@h/%f %p").count() == 3, "{shown}");
}

#[test]
fn beside_an_original_that_is_running_only_a_clone_is_made_unless_the_user_says_otherwise() {
    let mut case = good();
    let setting = |plan: &RestorePlan, name: &str| {
        plan.settings.iter().find(|setting| setting.name == name).map(|setting| setting.value.clone())
    };
    let plan = case.plan().unwrap();
    assert_eq!((plan.purpose, setting(&plan, "archive_mode")), (Purpose::Replacement, None));
    assert!(plan.warnings.iter().any(|warning| warning.contains("--clone")), "{:?}", plan.warnings);

    case.place("/srv/pg/data", Place { running: Some(4711), ..same_cluster() });
    let plan = case.plan().unwrap();
    assert_eq!((plan.purpose, setting(&plan, "archive_mode").as_deref()), (Purpose::Clone, Some("off")));
    assert_eq!(plan.because.as_deref(), Some("the original is running at /srv/pg/data (process 4711)"));
    assert!(plan.to_string().contains("as a clone, because the original is running"), "{plan}");

    case.request.purpose = Some(Purpose::Replacement);
    let plan = case.plan().unwrap();
    assert_eq!((plan.purpose, setting(&plan, "archive_mode")), (Purpose::Replacement, None));
    // Another cluster at that path is not the original.
    case.request.purpose = None;
    case.place("/srv/pg/data", Place { running: Some(4711), system_id: Some("1".into()), ..same_cluster() });
    assert_eq!(case.plan().unwrap().purpose, Purpose::Replacement);
}

#[test]
fn a_tablespace_that_was_left_out_needs_no_snapshot_and_comes_back_empty() {
    let mut case = good();
    let out = |oid, name: &str| ExcludedTablespace { oid, name: name.into(), databases: Vec::new(), volume: None };
    case.record.excluded_tablespaces = vec![out(16384, "ts1"), out(16385, "ts2")];
    // What held the first is not there; the second lies beside the data directory.
    case.record.snapshots.retain(|one| one.ticket.name == "pg");
    let plan = case.plan().unwrap();
    assert_eq!(plan.pieces.iter().map(|one| one.destination.as_path()).collect::<Vec<_>>(), [Path::new("/new/data")]);
    assert!(plan.tablespaces.iter().all(|one| one.left_out));
    let map = plan.write.iter().find(|file| file.name == "tablespace_map").unwrap();
    assert_eq!(map.content, "16384 /new/one\n16385 /new/two\n");
    assert!(plan.settings.iter().any(|one| one.name == "ignore_invalid_pages" && one.value == "on"));
    assert!(plan.warnings.iter().any(|one| one.contains("\"ts1\"") && one.contains("TRUNCATE")), "{:?}", plan.warnings);
    assert!(plan.to_string().contains("empty    /new/one, which was left out of the backup"), "{plan}");

    // In the data directory, and so in its snapshot.
    case.info.tablespaces.as_mut().unwrap()[1].location = "/srv/pg/data/inner".into();
    case.request.tablespaces.pop();
    let plan = case.plan().unwrap();
    assert_eq!(plan.tablespaces[1].location, Path::new("/new/data/inner"));
    assert!(plan.pieces[0].exclude_content.contains(&"inner".into()));

    case.record.excluded_tablespaces.clear();
    assert_eq!(case.plan().unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!good().plan().unwrap().settings.iter().any(|one| one.name == "ignore_invalid_pages"));
}
