//! The reader of `backup.info`: no file may make it panic, and what can be written again must say the same.
#![no_main]

use barman_snap::model::BackupInfo;
use chrono::Utc;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(parsed) = BackupInfo::parse_in(text, &Utc) else { return };
    let mut info = parsed.info;
    let _ = info.snapshots();
    let _ = info.engine_record();
    let _ = info.to_stock_json(&"20260529T101112".parse().expect("a good id"));
    // A text with a carriage return or a zero byte in it can be read, but is refused when writing, or bent (an error).
    let Ok(written) = info.to_text() else { return };
    let again = BackupInfo::parse_in(&written, &Utc).expect("what was written must read");
    assert_eq!(again.warnings, Vec::<String>::new());
    if info.error.as_deref().is_some_and(|error| error.contains(['\r', '\0'])) {
        info.error.clone_from(&again.info.error);
    }
    assert_eq!(again.info, info);
    assert_eq!(again.info.to_text().expect("it was written before"), written);
});
