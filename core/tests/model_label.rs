//! `backup_label` and `tablespace_map`: what PostgreSQL writes is understood, kept to the byte, and moved where asked.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use std::collections::BTreeMap;

use barman_snap::ErrorKind;
use barman_snap::model::{BackupInfo, BackupLabel, BackupSource, Lsn, TablespaceMap, Timeline};
use proptest::prelude::*;

const REAL: &str = include_str!("fixtures/backup_info/aws_real_run_pg17.info");

fn label() -> String {
    BackupInfo::parse(REAL).unwrap().info.backup_label.unwrap()
}

#[test]
fn a_label_of_a_real_run_is_understood_and_kept() {
    let text = label();
    let label = BackupLabel::parse(&text).unwrap();
    assert_eq!(label.start, Lsn(0xC00_0028));
    assert_eq!(label.segment.to_string(), "00000001000000000000000C");
    assert_eq!(label.checkpoint, Lsn(0xC00_0080));
    assert_eq!(label.method.as_deref(), Some("streamed"));
    assert_eq!(label.source, Some(BackupSource::Primary));
    assert_eq!(label.start_time.as_deref(), Some("2026-11-21 06:20:58 UTC"));
    assert_eq!(label.label.as_deref(), Some("Barman backup main 20261121T062058"));
    assert_eq!(label.timeline, Some(Timeline(1)));
    assert_eq!((label.incremental_from, label.incremental_from_timeline), (None, None));
    assert_eq!(label.text(), text);
}

#[test]
fn a_label_may_lack_or_add_lines_and_have_windows_line_ends() {
    let text = "START WAL LOCATION: 0/2000028 (file 000000020000000000000002)\r\nCHECKPOINT LOCATION: 0/2000060\r\n\
                BACKUP FROM: standby\r\nLABEL: a: b\r\nFUTURE: x\r\nINCREMENTAL FROM LSN: 0/1000028\r\n\
                INCREMENTAL FROM TLI: 1\r\n";
    let label = BackupLabel::parse(text).unwrap();
    assert_eq!(label.source, Some(BackupSource::Standby));
    assert_eq!(label.label.as_deref(), Some("a: b"));
    assert_eq!((label.method.as_deref(), label.timeline), (None, None));
    assert_eq!(label.incremental_from, Some(Lsn(0x100_0028)));
    assert_eq!(label.incremental_from_timeline, Some(Timeline(1)));
    assert_eq!(label.text(), text);
}

#[test]
fn a_label_that_postgresql_would_refuse_is_corrupt() {
    let good = label();
    for text in [
        String::new(),
        "LABEL: x\n".to_owned(),
        good.replace("0/C000028", "nowhere"),
        good.replace("(file 00000001000000000000000C)", ""),
        good.replace("CHECKPOINT LOCATION", "CHECKPOINT"),
        good.replace("START TIMELINE: 1", "START TIMELINE: 2"),
        good.replace("START TIMELINE: 1", "START TIMELINE: 0"),
        good.clone() + &"x".repeat(2 << 20),
    ] {
        assert_eq!(BackupLabel::parse(&text).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn a_second_line_of_the_same_name_does_not_change_the_first() {
    let text = label() + "START TIMELINE: 9\n";
    assert_eq!(BackupLabel::parse(&text).unwrap().timeline, Some(Timeline(1)));
}

#[test]
fn paths_with_spaces_line_breaks_and_backslashes_read() {
    let text = "16384 /srv/ts 1\n16385 /srv/a\\\nb\\\rc\\\\d\r\n";
    let map = TablespaceMap::parse(text).unwrap();
    let expected = [(16384, "/srv/ts 1".to_owned()), (16385, "/srv/a\nb\rc\\d".to_owned())];
    assert_eq!(map.entries(), expected);
    assert_eq!(map.text(), text);
    assert_eq!(TablespaceMap::parse("").unwrap(), TablespaceMap::default());
}

#[test]
fn a_map_that_postgresql_would_refuse_is_corrupt() {
    for text in
        ["16384 /a", "16384\n", "16384 \n", " /a\n", "x /a\n", "1 /a\n1 /b\n", "99999999999 /a\n", "1 /a\\", "1 /\0\n"]
    {
        assert_eq!(TablespaceMap::parse(text).unwrap_err().kind(), ErrorKind::Corrupt, "{text:?}");
    }
}

#[test]
fn relocating_changes_only_the_asked_paths() {
    let map = TablespaceMap::parse("16384 /srv/a\n16385 /srv/b\n").unwrap();
    let moved = map.relocate(&BTreeMap::from([(16385, "/new/b\nx\\".to_owned())])).unwrap();
    assert_eq!(moved.text(), "16384 /srv/a\n16385 /new/b\\\nx\\\\\n");
    assert_eq!(map.relocate(&BTreeMap::new()).unwrap(), map);
    for (oid, path) in [(7, "/x"), (16384, "relative"), (16384, ""), (16384, "/nul\0")] {
        let error = map.relocate(&BTreeMap::from([(oid, path.to_owned())])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn a_map_that_is_not_changed_keeps_its_bytes_even_if_we_would_write_others() {
    // A letter needs no backslash, and no line needs the end of Windows.
    let text = "16384 /srv/\\a\r\n";
    let map = TablespaceMap::parse(text).unwrap();
    assert_eq!(map.entries(), [(16384, "/srv/a".to_owned())]);
    assert_eq!(map.relocate(&BTreeMap::from([(16384, "/srv/a".to_owned())])).unwrap().text(), text);
}

proptest! {
    #[test]
    fn any_path_survives_relocation_and_reading(paths in prop::collection::vec("/[^\\x00]{0,20}", 1..4)) {
        let lines: String = (0..paths.len()).map(|oid| format!("{oid} /old\n")).collect();
        let wanted: BTreeMap<u32, String> = (0..).zip(paths).collect();
        let moved = TablespaceMap::parse(&lines).unwrap().relocate(&wanted).unwrap();
        let back = TablespaceMap::parse(moved.text()).unwrap();
        prop_assert_eq!(back.entries().iter().cloned().collect::<BTreeMap<_, _>>(), wanted);
    }

    #[test]
    fn no_text_makes_the_parsers_panic(text in "((START WAL LOCATION|LABEL|[0-9]{1,3}) ?:? ?(\\PC|[\\\\\n\r()/]){0,20}\n?){0,4}") {
        let _ = BackupLabel::parse(&text);
        let _ = TablespaceMap::parse(&text);
    }
}
