//! `backup.info`: the golden files to the byte, the forms that old and foreign writers left, and the record of the engine.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use std::collections::BTreeMap;

use barman_snap::ErrorKind;
use barman_snap::id::Token;
use barman_snap::model::{
    BackupInfo, BackupStatus, CloudSnapshots, EngineRecord, ExcludedTablespace, Literal, Lsn, ProviderInfo,
    SavedConfigRef, SegmentSize, SnapshotDetails, SnapshotRecord, Tablespace, Timeline,
};
use barman_snap::provider::Ticket;
use chrono::{DateTime, FixedOffset, TimeZone as _};
use proptest::prelude::*;

const AWS: &str = include_str!("fixtures/backup_info/aws_snapshot_two_disks_locked.info");
const AZURE: &str = include_str!("fixtures/backup_info/azure_snapshot_tablespaces_pg17.info");
const FAILED: &str = include_str!("fixtures/backup_info/failed_at_start.info");
const GCP: &str = include_str!("fixtures/backup_info/gcp_snapshot.info");
const REAL: &str = include_str!("fixtures/backup_info/aws_real_run_pg17.info");
const STARTED: &str = include_str!("fixtures/backup_info/started.info");
const UPLOAD: &str = include_str!("fixtures/backup_info/upload.info");
const GOLDEN: [&str; 7] = [AWS, AZURE, FAILED, GCP, REAL, STARTED, UPLOAD];

fn read(text: &str) -> BackupInfo {
    let parsed = BackupInfo::parse(text).unwrap();
    assert_eq!(parsed.warnings, Vec::<String>::new());
    parsed.info
}

fn zone(hours: i32) -> FixedOffset {
    FixedOffset::east_opt(hours * 3600).unwrap()
}

#[test]
fn every_file_of_the_fixtures_round_trips_to_the_byte() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/backup_info");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(read(&text).to_text().unwrap(), text, "{}", path.display());
        count += 1;
    }
    assert_eq!(count, GOLDEN.len());
}

#[test]
fn the_fields_of_a_finished_backup_are_understood() {
    let info = read(AWS);
    assert_eq!(info.backup_name.as_deref(), Some("nightly"));
    assert_eq!(info.status, BackupStatus::Done);
    assert_eq!((info.begin_xlog, info.begin_offset), (Some(Lsn(0x900_0028)), Some(40)));
    assert_eq!(info.end_time.unwrap().to_rfc3339(), "2026-05-29T10:14:02.654321+02:00");
    assert_eq!((info.timeline, info.version), (Some(Timeline(1)), Some(160_009)));
    assert_eq!(info.xlog_segment_size, Some(SegmentSize::DEFAULT));
    assert_eq!(info.included_files.unwrap(), ["/var/lib/pgsql/16/data/postgresql.auto.conf"]);
    let tablespace = Tablespace { name: "tbs1".to_owned(), oid: 16387, location: "/srv/tbs1/pg".to_owned() };
    assert_eq!(info.tablespaces.unwrap(), [tablespace]);
    assert!(info.backup_label.unwrap().ends_with("START TIMELINE: 1\n"));
    let azure = read(AZURE).tablespaces.unwrap();
    assert_eq!((azure[1].name.as_str(), azure[1].location.as_str()), ("tbs 2", "/srv/tbs'2"));
}

#[test]
fn unfinished_backups_read_without_what_they_do_not_have() {
    let started = read(STARTED);
    assert_eq!((started.status, started.end_time, started.end_xlog), (BackupStatus::Started, None, None));
    let failed = read(FAILED);
    assert_eq!((failed.status, failed.begin_wal.as_deref(), failed.timeline), (BackupStatus::Failed, None, None));
    assert!(failed.error.unwrap().contains("permission denied"));
}

#[test]
fn comments_blank_lines_spaces_and_duplicates_read_as_stock_reads_them() {
    let text = "# made by hand\n\n  \t\nstatus = FAILED \nserver_name=a=b\r\nstatus=DONE\nsize=  7\nerror=None\n";
    let info = read(text);
    assert_eq!(info.status, BackupStatus::Done);
    assert_eq!(info.server_name.as_deref(), Some("a=b"));
    assert_eq!((info.size, info.error), (Some(7), None));
}

#[test]
fn an_empty_file_is_an_empty_backup_with_the_default_segment_size() {
    let info = read("");
    assert_eq!(info.status, BackupStatus::Empty);
    assert_eq!(info, BackupInfo { xlog_segment_size: Some(SegmentSize::DEFAULT), ..BackupInfo::default() });
    assert_eq!(read("xlog_segment_size=None\n").xlog_segment_size, None);
}

#[test]
fn a_backup_id_in_the_file_is_handed_on_and_an_unknown_key_is_reported_and_never_written() {
    let parsed = BackupInfo::parse("backup_id=20260529T101112\nstatus=DONE\nfuture_field=1\n").unwrap();
    assert_eq!(parsed.backup_id.as_deref(), Some("20260529T101112"));
    assert_eq!(parsed.warnings.len(), 1);
    assert!(parsed.warnings[0].contains("line 3") && parsed.warnings[0].contains("future_field"));
    let text = parsed.info.to_text().unwrap();
    assert!(!text.contains("future_field") && !text.contains("\nbackup_id="));
}

#[test]
fn times_of_old_writers_read_in_the_zone_of_the_host() {
    let text = "begin_time=Fri May 29 10:11:13 2026\nend_time=2026-05-29T10:14:02.5Z\n";
    let info = BackupInfo::parse_in(text, &zone(2)).unwrap().info;
    assert_eq!(info.begin_time.unwrap().to_rfc3339(), "2026-05-29T10:11:13+02:00");
    let naive = BackupInfo::parse_in("begin_time=2026-05-29 10:11:13.25\n", &zone(-5)).unwrap().info;
    assert!(naive.to_text().unwrap().contains("begin_time=2026-05-29 10:11:13.250000-05:00\n"));
    assert!(info.to_text().unwrap().contains("end_time=2026-05-29 10:14:02.500000+00:00\n"));
}

#[test]
fn values_of_python_2_read() {
    let text = "backup_label=u'START\\nx'\ntablespaces=[(u'a', 16384L, u'/t\\xe9'), [u'b', '16385', '/u']]\n\
                included_files=(u'/etc/a',)\ncopy_stats=None\n";
    let info = read(text);
    assert_eq!(info.backup_label.as_deref(), Some("START\nx"));
    let tablespaces = info.tablespaces.unwrap();
    assert_eq!((tablespaces[0].oid, tablespaces[0].location.as_str()), (16384, "/té"));
    assert_eq!(tablespaces[1].oid, 16385);
    assert_eq!(info.included_files.unwrap(), ["/etc/a"]);
    assert_eq!(read("children_backup_ids=20260101T000000, 20260102T000000\n").children_backup_ids.unwrap().len(), 2);
}

#[test]
fn empty_literals_are_nothing_both_ways() {
    let empty = "backup_label=''\ncopy_stats={}\nincluded_files=[]\nsnapshots_info={}\ntablespaces=()\n";
    assert_eq!(read(empty), read(""));
    let info = BackupInfo {
        backup_label: Some(String::new()),
        children_backup_ids: Some(vec![]),
        copy_stats: Some(Literal::Dict(vec![])),
        included_files: Some(vec![]),
        snapshots_info: Some(Literal::Dict(vec![])),
        tablespaces: Some(vec![]),
        ..BackupInfo::default()
    };
    assert_eq!(info.to_text().unwrap(), BackupInfo::default().to_text().unwrap());
}

#[test]
fn what_cannot_be_understood_is_refused_with_its_line() {
    for (text, part) in [
        ("status=DONE\n\nnonsense\n", "line 3"),
        ("status=DONE\n # indented\n", "line 2"),
        ("status=done\n", "not a status"),
        ("size=7kB\n", "size is not a number"),
        ("size=\n", "size is not a number"),
        ("begin_xlog=9000028\n", "not a WAL position"),
        ("begin_time=soon\n", "not a time"),
        ("timeline=0\n", "not a timeline"),
        ("xlog_segment_size=17\n", "not a WAL segment size"),
        ("tablespaces=[('a', 1)]\n", "tablespaces is not a list of"),
        ("tablespaces=[('a', 99999999999, '/x')]\n", "tablespaces is not a list of"),
        ("copy_stats={\"a\": null}\n", "not a Python literal"),
        ("copy_stats=[1]\n", "not a dict"),
        ("backup_label=plain\n", "not a Python literal"),
        ("backup_label=['x']\n", "not a quoted text"),
        ("included_files=['a', 1]\n", "not a list of texts"),
    ] {
        let error = BackupInfo::parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().contains(part), "{text:?}: {error}");
    }
    assert!(BackupInfo::parse_bytes(b"pgdata=\xFF\n").unwrap_err().message().contains("byte 7"));
}

#[test]
fn a_text_that_would_not_come_back_is_refused_when_writing() {
    let bad = ["two\nlines", "a\r", " leading", "trailing ", "None", "\u{1f}x", "nul\0"];
    for text in bad {
        let info = BackupInfo { pgdata: Some(text.to_owned()), ..BackupInfo::default() };
        let error = info.to_text().unwrap_err();
        assert!(error.message().contains("pgdata") && error.kind() == ErrorKind::InvalidInput, "{text:?}");
        assert!(BackupInfo::check_text("backup_name", text).is_err());
    }
    let children = BackupInfo { children_backup_ids: Some(vec!["a,b".to_owned()]), ..BackupInfo::default() };
    assert!(children.to_text().is_err());
    let infinite = Literal::dict([("copy_time", f64::INFINITY.into())]);
    assert!(BackupInfo { copy_stats: Some(infinite), ..BackupInfo::default() }.to_text().is_err());
    assert!(BackupInfo { copy_stats: Some(Literal::Int(1)), ..BackupInfo::default() }.to_text().is_err());
}

#[test]
fn an_error_of_several_lines_is_bent_into_one_that_comes_back() {
    for (error, line) in [
        ("failure (a\r\n  b)\nstatus=DONE\n", "failure (a b) status=DONE"),
        ("None", "unknown"),
        ("\n", "unknown"),
        ("  padded ", "padded"),
        ("", ""),
    ] {
        let info = BackupInfo { error: Some(error.to_owned()), status: BackupStatus::Failed, ..BackupInfo::default() };
        let back = read(&info.to_text().unwrap());
        assert_eq!((back.error.as_deref(), back.status), (Some(line), BackupStatus::Failed));
    }
}

#[test]
fn snapshots_of_every_cloud_have_a_typed_form_that_writes_the_same_bytes() {
    for text in [AWS, AZURE, GCP, REAL] {
        let info = read(text);
        let typed = info.snapshots().unwrap().unwrap();
        assert_eq!(typed.to_literal().to_string(), info.snapshots_info.unwrap().to_string());
    }
    let aws = read(AWS).snapshots().unwrap().unwrap();
    assert_eq!(aws.provider_info.provider(), "aws");
    let ids: Vec<_> = aws.snapshots.iter().map(|snapshot| snapshot.details.identifier()).collect();
    assert_eq!(ids, [Some("snap-0aa"), Some("snap-0bb")]);
    let gcp = read(GCP).snapshots().unwrap().unwrap();
    assert_eq!(gcp.snapshots[0].details.identifier(), Some("pg-data-20260529t101112"));
    assert_eq!(read(UPLOAD).snapshots().unwrap(), None);
}

#[test]
fn snapshots_info_may_lack_all_but_provider_and_list() {
    let read = |text: &str| CloudSnapshots::from_literal(&Literal::parse(text).unwrap());
    let azure = read("{'provider': 'azure', 'snapshots': [{'provider': {'lun': '10', 'extra': 1}}, {}]}").unwrap();
    assert_eq!(azure.provider_info, ProviderInfo::Azure { subscription_id: None, resource_group: None });
    assert_eq!(azure.snapshots[0].mount_point, None);
    assert_eq!(
        azure.snapshots[0].details,
        SnapshotDetails::Azure { location: None, lun: Some(10), snapshot_name: None }
    );
    assert_eq!(azure.snapshots[1].details.identifier(), None);
    for text in ["{'snapshots': []}", "{'provider': 'aws'}", "{'provider': 'local', 'snapshots': []}", "[]"] {
        assert_eq!(read(text).unwrap_err().kind(), ErrorKind::Corrupt, "{text}");
    }
}

fn record() -> EngineRecord {
    let token = Token::from_bits(7);
    let ticket = Ticket {
        snapshot: "/srv/.barman-snap/x".to_owned(),
        name: "x".to_owned(),
        volume: "/srv/it's".to_owned(),
        root: "/srv/it's".into(),
        method: "btrfs".to_owned(),
        token: token.clone(),
        attributes: BTreeMap::from([("subvol".to_owned(), "5".to_owned())]),
    };
    EngineRecord {
        version: EngineRecord::VERSION,
        provider: "local".to_owned(),
        token,
        snapshots: vec![SnapshotRecord {
            ticket,
            mount_point: "/srv".to_owned(),
            mount_options: "rw,noatime".to_owned(),
            file_systems: Vec::new(),
        }],
        tablespace_map: Some("16384 /srv/a\\\nb\n".to_owned()),
        wal_external: true,
        from_standby: false,
        settings: BTreeMap::from([("max_connections".to_owned(), "100".to_owned())]),
        config_files: BTreeMap::from([("/etc/pg.conf".to_owned(), "a = 'b'\n# \"ü\"\n".to_owned())]),
        saved_config: Some(SavedConfigRef { size: 3, sha256: "ab".repeat(32) }),
        saved_files: Vec::new(),
        real_paths: BTreeMap::from([("/pg".to_owned(), "/srv/it's".to_owned())]),
        excluded_tablespaces: vec![ExcludedTablespace {
            oid: 16_401,
            name: "it's \"ü\"".to_owned(),
            databases: vec!["app".to_owned()],
            volume: Some("/srv/it's".to_owned()),
        }],
        bytes_copied: Some(7),
        timings: BTreeMap::from([("cut_s".to_owned(), 0.25)]),
    }
}

#[test]
fn the_record_of_the_engine_lives_in_copy_stats_beside_what_was_there() {
    let mut info = read(AWS);
    assert_eq!(info.engine_record().unwrap(), None);
    info.set_engine_record(&record()).unwrap();
    let back = read(&info.to_text().unwrap());
    assert_eq!(back.engine_record().unwrap(), Some(record()));
    assert_eq!((back.copy_time(), back.total_time()), (Some(168.531), Some(168.531)));

    let mut started = read(STARTED);
    started.set_engine_record(&record()).unwrap();
    started.set_copy_times(1.5, 2.0).unwrap();
    assert!(started.set_copy_times(f64::NAN, 1.0).is_err());
    let back = read(&started.to_text().unwrap());
    assert_eq!(back.engine_record().unwrap(), Some(record()));
    assert_eq!((back.copy_time(), back.total_time()), (Some(1.5), Some(2.0)));
}

#[test]
fn a_record_of_a_later_version_is_refused_and_a_broken_one_is_corrupt() {
    let mut literal = record().to_literal().unwrap();
    literal.insert("added_later", 1_u32).unwrap();
    assert_eq!(EngineRecord::from_literal(&literal).unwrap(), record());
    literal.insert("version", 2_u32).unwrap();
    let error = EngineRecord::from_literal(&literal).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.hint().is_some());
    for text in ["{}", "{'version': 0}", "{'version': 1}", "1", "{'version': '1'}"] {
        let broken = Literal::parse(text).unwrap();
        assert_eq!(EngineRecord::from_literal(&broken).unwrap_err().kind(), ErrorKind::Corrupt, "{text}");
    }
}

/// A text that may stand raw: the word `None` and blanks at the ends are tested above.
fn raw() -> impl Strategy<Value = Option<String>> {
    let text = "[!-~äß漢😀]([ -~äß漢😀#=]{0,20}[!-~äß漢😀])?";
    prop::option::of(text.prop_filter("reads as nothing", |text| text != "None"))
}

fn time() -> impl Strategy<Value = Option<DateTime<FixedOffset>>> {
    let parts = (0_i64..4_000_000_000, 0_u32..1_000_000, -14 * 60..14 * 60);
    prop::option::of(parts.prop_map(|(seconds, micros, minutes)| {
        FixedOffset::east_opt(minutes * 60).unwrap().timestamp_opt(seconds, micros * 1000).unwrap()
    }))
}

prop_compose! {
    fn texts()(a in raw(), b in raw(), c in raw(), d in raw(), e in raw(), f in raw()) -> [Option<String>; 6] {
        [a, b, c, d, e, f]
    }
}

prop_compose! {
    fn infos()(
        [backup_name, config_file, error, pgdata, server_name, systemid] in texts(),
        label in prop::option::of(any::<String>()),
        (begin_time, end_time) in (time(), time()),
        (size, cluster_size) in (any::<Option<u64>>(), any::<Option<u64>>()),
        lsn in any::<Option<u64>>(),
        files in prop::option::of(prop::collection::vec(any::<String>(), 1..3)),
        tablespaces in prop::option::of(prop::collection::vec((any::<String>(), any::<u32>(), any::<String>()), 1..3)),
        status in 0..BackupStatus::ALL.len(),
        shift in prop::option::of(20..=30_u32),
        stats in prop::collection::vec((any::<String>(), -1e300..1e300_f64), 0..3),
    ) -> BackupInfo {
        let entry = |(name, oid, location)| Tablespace { name, oid, location };
        let mut copy_stats = Literal::Dict(Vec::new());
        for (key, number) in stats {
            copy_stats.insert(&key, number).unwrap();
        }
        BackupInfo {
            backup_name, config_file, error, pgdata, server_name, systemid, begin_time, end_time, size, cluster_size,
            backup_label: label.filter(|label| !label.is_empty()),
            begin_xlog: lsn.map(Lsn),
            included_files: files,
            tablespaces: tablespaces.map(|list| list.into_iter().map(entry).collect()),
            status: BackupStatus::ALL[status],
            xlog_segment_size: shift.map(|shift| SegmentSize::new(1 << shift).unwrap()),
            copy_stats: Some(copy_stats).filter(|stats| stats.as_dict() != Some(&[])),
            ..BackupInfo::default()
        }
    }
}

proptest! {
    #[test]
    fn whatever_is_written_reads_back_the_same(info in infos()) {
        let text = info.to_text().unwrap();
        let keys: Vec<_> = text.lines().map(|line| line.split_once('=').unwrap().0).collect();
        prop_assert!(keys.is_sorted());
        prop_assert_eq!(read(&text), info);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "((status|begin_time|tablespaces|copy_stats|size|x)?[ =#]?\\PC{0,12}\n){0,5}") {
        let _ = BackupInfo::parse_in(&text, &zone(1));
    }

    #[test]
    fn a_damaged_golden_file_reads_or_is_refused_but_does_not_panic(which in 0..7_usize, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = GOLDEN[which].as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(parsed) = BackupInfo::parse_bytes(&bytes) {
            // What was read says the same when it is written again. The one exception is a carriage return or zero byte
            // within a text: it is refused, or bent away in an error message.
            let mut info = parsed.info;
            match info.to_text() {
                Ok(text) => {
                    let again = BackupInfo::parse(&text).unwrap().info;
                    if info.error.as_deref().is_some_and(|error| error.contains(['\r', '\0'])) {
                        info.error.clone_from(&again.error);
                    }
                    prop_assert_eq!(again, info);
                }
                Err(error) => prop_assert_eq!(error.kind(), ErrorKind::InvalidInput),
            }
        }
    }
}
