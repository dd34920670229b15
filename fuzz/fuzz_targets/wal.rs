//! The records of WAL: no bytes may make the walk panic or find a record outside of them, and WAL in which new tablespaces stay
//! inside has none left that would lead out.
#![no_main]

use barman_snap::wal::contain::{contain, may_begin_inside, spanning};
use barman_snap::wal::records::Pages;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(pages) = Pages::new(bytes) else { return };
    let mut last = None;
    for record in pages.records() {
        assert!(last < Some(record.at), "the walk goes forward");
        last = Some(record.at);
        assert!(pages.places(&record).iter().all(|place| place.is_empty() || place.end <= bytes.len()));
        assert!(pages.copy(&record).len() <= record.length as usize);
    }
    let _ = may_begin_inside(bytes);
    let _ = spanning(bytes, bytes);
    let mut segment = bytes.to_vec();
    if contain(&mut segment).is_ok() {
        assert_eq!(contain(&mut segment).expect("it was read before"), vec![]);
    }
});
