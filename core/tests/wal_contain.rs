//! WAL that creates tablespaces, and how it is kept inside the data directory.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support_wal;

use std::path::Path;

use barman_snap::ErrorKind;
use barman_snap::catalog::{Catalog, Layout, ObjectSpace, ServerName};
use barman_snap::model::Lsn;
use barman_snap::wal::contain::{contain, may_begin_inside, spanning};
use barman_snap::wal::records::Pages;
use barman_snap::wal::{Archived, NewTablespaces, WalArchive};
use proptest::prelude::*;

use support_wal::{PAGE, SEGMENT, START, Wal, Written, crc32c};

/// What the walk finds in all segments, as the writer tells it; of a record over a border, what can be seen.
fn walked(wal: &Wal) -> Vec<Written> {
    let mut found = Vec::new();
    for (number, segment) in wal.segments().iter().enumerate() {
        for record in Pages::new(segment).unwrap().records() {
            let (manager, info) = record.kind.map_or((255, 255), |kind| (kind.manager, kind.info));
            found.push(Written { at: number * SEGMENT + record.at, length: record.length, manager, info });
        }
    }
    found
}

#[test]
fn the_checksum_of_the_tests_is_the_known_one() {
    assert_eq!(crc32c(b"123456789"), 0xE306_9283);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_record_is_found_whatever_lies_between(
        lengths in prop::collection::vec(prop_oneof![8 => 0_usize..300, 2 => 0_usize..20_000, 1 => 0_usize..1_200_000], 1..300),
        big_endian: bool,
    ) {
        let mut wal = Wal::new(big_endian);
        let mut written: Vec<Written> = Vec::new();
        for (at, length) in lengths.into_iter().enumerate() {
            written.push(wal.record((at % 20) as u8, 0x30, &vec![0xAA; length]));
        }
        // Of a header that is cut by a border between segments, the kind cannot be seen.
        for one in &mut written {
            let left = SEGMENT - one.at % SEGMENT;
            if left < 24 {
                (one.manager, one.info) = (255, 255);
            }
        }
        prop_assert_eq!(walked(&wal), written);
    }

    #[test]
    fn random_bytes_are_read_without_a_panic(
        mut noise in prop::collection::vec(any::<u8>(), 0..40_000),
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        cut: prop::sample::Index,
        big_endian: bool,
    ) {
        let mut wal = Wal::new(big_endian);
        for at in 0..600 {
            wal.record(at as u8 % 9, 0, &vec![at as u8; at * 5]);
        }
        wal.create_tablespace(1, "/srv/new");
        let mut segment = wal.segments().swap_remove(0);
        for (place, byte) in &places {
            let at = place.index(segment.len());
            segment[at] = *byte;
        }
        segment.truncate(cut.index(segment.len()));
        for bytes in [&mut segment, &mut noise] {
            let _ = may_begin_inside(bytes);
            let _ = spanning(bytes, &wal.segments()[0]);
            let _ = spanning(&wal.segments()[0], bytes);
            let _ = contain(bytes);
        }
    }

    #[test]
    fn a_tablespace_is_contained_wherever_it_lies(before in 0_usize..20_000, path in "/[a-zö/]{1,900}", big_endian: bool, origin: bool) {
        let mut wal = Wal::new(big_endian);
        if origin {
            // The origin of replication 1, and the transaction above.
            wal.extra = vec![253, 0, 1, 252, 1, 2, 3, 4];
        }
        wal.record(10, 0, &vec![1; before]);
        let create = wal.create_tablespace(16_500, &path);
        wal.record(10, 0, b"behind");
        let original = wal.segments().swap_remove(0);
        let mut contained = original.clone();
        let found = contain(&mut contained).unwrap();
        prop_assert_eq!(found.len(), 1);
        prop_assert_eq!((found[0].oid, &found[0].location), (16_500, &path));
        prop_assert_eq!(found[0].position, Lsn(START + create.at as u64));

        // What was written with an empty path, and as many zeros behind it, is what came out.
        let mut expected = Wal::new(big_endian);
        expected.extra.clone_from(&wal.extra);
        expected.record(10, 0, &vec![1; before]);
        expected.create_tablespace(16_500, &"\0".repeat(path.len()));
        expected.record(10, 0, b"behind");
        prop_assert!(contained == expected.segments()[0]);
        // And a second time there is nothing to do.
        prop_assert_eq!(contain(&mut contained).unwrap(), vec![]);
        prop_assert!(contained == expected.segments()[0]);
    }
}

#[test]
fn records_behind_a_torn_one_are_found() {
    for pages in [1, 2, SEGMENT / PAGE] {
        let mut wal = Wal::new(false);
        let first = wal.record(1, 0x20, b"first");
        wal.torn(10, 0, &[7; 2 * SEGMENT], pages);
        let behind = wal.record(1, 0x20, b"behind");
        let last = wal.record(1, 0x20, &[3; 9000]);
        let found = walked(&wal);
        let torn_in_its_segment = usize::from(pages == SEGMENT / PAGE);
        // In the segment that ends in it, nobody can tell that it is torn.
        assert_eq!(found.len(), 3 + torn_in_its_segment, "{found:?}");
        assert_eq!(found[0], first);
        assert_eq!(found[found.len() - 2..], [behind, last]);
    }
}

#[test]
fn what_was_left_by_a_recycled_segment_is_not_read() {
    let mut wal = Wal::new(false);
    wal.record(1, 0x20, b"first");
    wal.skip_page();
    let mut old = Wal::new(false);
    old.skip_page();
    for _ in 0..1000 {
        old.create_tablespace(1, "/srv/old");
    }
    let mut segment = wal.segments().swap_remove(0);
    let stale = &old.segments()[0];
    // Two pages further on than they were written for.
    segment[3 * PAGE..9 * PAGE].copy_from_slice(&stale[PAGE..7 * PAGE]);
    let before = segment.clone();
    assert_eq!(contain(&mut segment).unwrap(), vec![]);
    assert!(segment == before);
}

#[test]
fn a_record_that_postgresql_would_not_replay_is_left_alone() {
    let mut wal = Wal::new(false);
    let create = wal.create_tablespace(1, "/srv/new");
    let mut segment = wal.segments().swap_remove(0);
    segment[create.at + 33] ^= 1;
    let before = segment.clone();
    assert_eq!(contain(&mut segment).unwrap(), vec![]);
    assert!(segment == before);
}

#[test]
fn what_only_resembles_a_new_tablespace_is_left_alone() {
    let mut wal = Wal::new(false);
    // A dropped one; one in place; and the bytes of a whole record within another.
    let dropped = wal.tablespace(1, "");
    wal.record(5, 0x10, &dropped[..4]);
    wal.create_tablespace(2, "");
    let mut inner = Wal::new(false);
    inner.create_tablespace(3, "/srv/inner");
    wal.record(10, 0, &inner.segments()[0][..200]);
    let mut segment = wal.segments().swap_remove(0);
    let before = segment.clone();
    assert_eq!(contain(&mut segment).unwrap(), vec![]);
    assert!(segment == before);
}

#[test]
fn a_form_that_is_not_known_is_an_error() {
    for data in [&b""[..], b"abc", b"\x01\0\0\0", b"\x01\0\0\0/srv/new"] {
        let mut wal = Wal::new(false);
        wal.record(5, 0, data);
        let error = contain(&mut wal.segments()[0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("0/900028"), "{error}");
    }
}

/// Two segments, with a `CREATE TABLESPACE` that has its first `before` bytes in the first one.
fn over_the_border(before: usize, path: &str, big_endian: bool, extra: &[u8]) -> Wal {
    let mut wal = Wal::new(big_endian);
    let until = SEGMENT - before;
    wal.skip_most();
    wal.record(10, 0, &[9; 4000]);
    let left = until - wal.here();
    // The header of a page may come in between.
    let page = if wal.here() / PAGE == (until - 1) / PAGE { 0 } else { 24 };
    wal.record(10, 0, &vec![9; left - page - 24 - 5]);
    wal.extra = extra.to_vec();
    assert_eq!(wal.create_tablespace(16_500, path).at, until);
    wal.extra = Vec::new();
    wal.record(10, 0, b"behind");
    wal
}

#[test]
fn a_new_tablespace_between_two_segments_is_noticed_however_it_is_cut() {
    let long = format!("/{}", "x".repeat(900));
    for (path, extra) in [("/srv/new", &[][..]), (&long, &[]), ("/srv/new", &[253, 0, 1, 252, 1, 2, 3, 4])] {
        for big_endian in [false, true] {
            let length = over_the_border(16, path, big_endian, extra).segments();
            let whole = Pages::new(&length[0]).unwrap().records().last().unwrap().length as usize;
            for before in (8..whole).step_by(8) {
                let wal = over_the_border(before, path, big_endian, extra);
                let [first, second]: [Vec<u8>; 2] = wal.segments().try_into().unwrap();
                assert!(may_begin_inside(&second).unwrap(), "{before} of {whole} bytes");
                let found = spanning(&first, &second).unwrap().unwrap();
                assert_eq!((found.oid, found.location.as_str()), (16_500, path));
                // Neither of the two is changed alone.
                for mut segment in [first, second] {
                    assert_eq!(contain(&mut segment).unwrap(), vec![]);
                }
            }
        }
    }
}

#[test]
fn most_ends_of_other_records_are_told_apart_without_the_segment_before() {
    let mut wal = Wal::new(false);
    let mut asked = 0;
    let borders = 40;
    while wal.here() < borders * SEGMENT {
        if wal.here() % SEGMENT < PAGE {
            wal.skip_most();
        }
        // Rows of a table: a header, numbers, a text.
        wal.record(
            10,
            0,
            &[&[0, 0, 3, 1, 0, 2, 9, 24][..], &7_u64.to_le_bytes(), b"some text of a row", &[0; 30]].concat(),
        );
    }
    for segment in wal.segments().iter().skip(1) {
        asked += usize::from(may_begin_inside(segment).unwrap());
    }
    assert!(asked < borders / 4, "{asked} of {borders}");
}

/// Names of the segments that [`Wal`] makes.
fn name(timeline: u32, number: usize) -> String {
    format!("{timeline:08X}00000000{:08X}", 9 + number)
}

async fn archive_of(dir: &Path, files: &[(String, &[u8])]) -> WalArchive {
    let layout = Layout::new("", ServerName::new("pg1").unwrap()).unwrap();
    let archive = WalArchive::new(&Catalog::new(ObjectSpace::in_memory(), layout));
    for (name, content) in files {
        std::fs::write(dir.join(name), content).unwrap();
        archive.archive(&dir.join(name)).await.unwrap();
    }
    archive
}

#[tokio::test]
async fn wal_is_given_out_as_it_was_stored_unless_it_shall_stay_inside() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = Wal::new(false);
    wal.create_tablespace(1, "/srv/one");
    wal.record(10, 0, &[1; 10_000]);
    wal.create_tablespace(2, "/srv/two");
    let stored = wal.segments().swap_remove(0);
    let archive = archive_of(dir.path(), &[(name(1, 0), &stored)]).await;
    let to = dir.path().join("RECOVERYXLOG");

    let fetched = archive.fetch(&name(1, 0), &to, false).await.unwrap();
    assert!(std::fs::read(&to).unwrap() == stored && fetched.contained.is_empty());

    let inside = archive.clone().with_new_tablespaces(NewTablespaces::Inside);
    let fetched = inside.fetch(&name(1, 0), &to, false).await.unwrap();
    let places: Vec<_> = fetched.contained.iter().map(|one| (one.oid, one.location.as_str())).collect();
    assert_eq!(places, [(1, "/srv/one"), (2, "/srv/two")]);
    let given = std::fs::read(&to).unwrap();
    assert!(given != stored && given.len() == stored.len());
    // A restored server with archive_mode = always hands it back. It is the same WAL, and nothing is replaced.
    std::fs::rename(&to, dir.path().join(name(1, 0))).unwrap();
    assert_eq!(archive.archive(&dir.path().join(name(1, 0))).await.unwrap(), Archived::AlreadyThere);
    archive.fetch(&name(1, 0), &to, false).await.unwrap();
    assert!(std::fs::read(&to).unwrap() == stored);
}

#[tokio::test]
async fn the_end_of_a_new_tablespace_is_refused_and_what_is_before_it_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let wal = over_the_border(40, "/srv/new/place", false, &[]);
    let segments = wal.segments();
    let archive = archive_of(dir.path(), &[(name(1, 0), &segments[0]), (name(1, 1), &segments[1])]).await;
    let to = dir.path().join("RECOVERYXLOG");
    archive.fetch(&name(1, 1), &to, false).await.unwrap();
    std::fs::remove_file(&to).unwrap();

    let inside = archive.with_new_tablespaces(NewTablespaces::Inside);
    let error = inside.fetch(&name(1, 1), &to, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let line = error.to_string();
    assert!(line.contains("/srv/new/place") && line.contains("0/9FFFD8") && line.contains(&name(1, 1)), "{line}");
    assert!(!to.exists());
    inside.fetch(&name(1, 0), &to, false).await.unwrap();
    assert!(std::fs::read(&to).unwrap() == segments[0]);
}

#[tokio::test]
async fn the_segment_before_is_looked_for_on_the_timelines_that_lead_here() {
    let dir = tempfile::tempdir().unwrap();
    let wal = over_the_border(8, "/srv/new", false, &[]);
    let segments = wal.segments();
    // The second timeline begins in the second segment, behind the record.
    let history = b"1\t0/A00200\tno recovery target specified\n";
    let files = [(name(1, 0), &segments[0][..]), (name(2, 1), &segments[1]), ("00000002.history".to_owned(), history)];
    let inside = archive_of(dir.path(), &files).await.with_new_tablespaces(NewTablespaces::Inside);
    let to = dir.path().join("RECOVERYXLOG");
    assert_eq!(inside.fetch(&name(2, 1), &to, false).await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn without_the_segment_before_nobody_has_the_beginning_of_the_record() {
    // The first segment of the oldest backup begins with the end of some record that is never read.
    let dir = tempfile::tempdir().unwrap();
    let segments = over_the_border(40, "/srv/new", false, &[]).segments();
    let inside =
        archive_of(dir.path(), &[(name(1, 1), &segments[1])]).await.with_new_tablespaces(NewTablespaces::Inside);
    let to = dir.path().join("RECOVERYXLOG");
    inside.fetch(&name(1, 1), &to, false).await.unwrap();
    assert!(std::fs::read(&to).unwrap() == segments[1]);
}
