//! The small texts of PostgreSQL: label, tablespace map, history files and the names of WAL files. None may panic, and a
//! tablespace map whose paths are all replaced must read as what was asked for.
#![no_main]

use std::collections::BTreeMap;

use barman_snap::model::{BackupLabel, TablespaceMap, Timeline, TimelineHistory, WalObject};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(label) = BackupLabel::parse(text) {
        assert_eq!(label.text(), text);
    }
    let _ = TimelineHistory::parse(Timeline(u32::MAX), text);
    if let Ok(object) = text.parse::<WalObject>() {
        assert!(object.to_string().eq_ignore_ascii_case(text));
    }
    let Ok(map) = TablespaceMap::parse(text) else { return };
    let paths: BTreeMap<u32, String> = map.entries().iter().map(|(oid, path)| (*oid, format!("/x{path}"))).collect();
    let moved = map.relocate(&paths).expect("its own oids and absolute paths");
    let again = TablespaceMap::parse(moved.text()).expect("what was written must read");
    assert_eq!(again.entries().iter().cloned().collect::<BTreeMap<_, _>>(), paths);
});
