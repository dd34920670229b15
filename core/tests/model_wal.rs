//! WAL arithmetic for every segment size and both sides of a boundary, names of WAL files, and timelines.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use barman_snap::model::{Compression, Lsn, Segment, SegmentSize, Timeline, TimelineHistory, WalName, WalObject};
use proptest::prelude::*;

const ONE: Timeline = Timeline(1);

fn sizes() -> impl Iterator<Item = SegmentSize> {
    (20..=30).map(|shift| SegmentSize::new(1 << shift).unwrap())
}

fn segment(name: &str) -> Segment {
    name.parse().unwrap()
}

fn names(segments: impl Iterator<Item = Segment>) -> Vec<String> {
    segments.map(|segment| segment.to_string()).collect()
}

#[test]
fn segment_sizes_are_powers_of_two_from_one_mebibyte_to_one_gibibyte() {
    assert_eq!(sizes().count(), 11);
    for bytes in [0, 1, 1 << 19, (1 << 20) + 1, 3 << 20, 1 << 31, u64::MAX] {
        assert!(SegmentSize::new(bytes).is_err(), "{bytes}");
    }
}

#[test]
fn segments_per_log_follow_the_size() {
    assert_eq!(SegmentSize::DEFAULT.per_log(), 256);
    for (mebibytes, last) in [(1, 0xFFF), (16, 0xFF), (64, 0x3F), (1024, 3)] {
        let size = SegmentSize::new(mebibytes << 20).unwrap();
        assert_eq!(size.per_log() - 1, last);
        assert!(Segment { timeline: ONE, log: 0, seg: last as u32 }.fits(size));
        assert!(!Segment { timeline: ONE, log: 0, seg: last as u32 + 1 }.fits(size));
    }
}

#[test]
fn names_and_offsets_are_those_of_the_golden_files() {
    let size = SegmentSize::DEFAULT;
    let lsn: Lsn = "0/9000028".parse().unwrap();
    assert_eq!(Segment::of(lsn, ONE, size).to_string(), "000000010000000000000009");
    assert_eq!(Segment::offset(lsn, size), 40);
    let big: Lsn = "1A/FF000000".parse().unwrap();
    assert_eq!(Segment::of(big, Timeline(10), size).to_string(), "0000000A0000001A000000FF");
    assert_eq!(
        Segment::of(big, Timeline(10), SegmentSize::new(64 << 20).unwrap()).to_string(),
        "0000000A0000001A0000003F"
    );
}

#[test]
fn at_a_boundary_the_name_is_of_the_next_segment_and_the_need_ends_with_the_previous_one() {
    for size in sizes() {
        for boundary in [size.bytes(), 5 * size.bytes(), 1 << 32, (7 << 32) + size.bytes()] {
            let at = Lsn(boundary);
            let (next, previous) = (Segment::of(at, ONE, size), Segment::before(at, ONE, size));
            assert_eq!((next.start(size), Segment::offset(at, size)), (at, 0));
            assert_eq!((previous.next(size), next.previous(size)), (Some(next), Some(previous)));
            assert_eq!(Segment::of(Lsn(boundary - 1), ONE, size), previous);
            assert_eq!(Segment::before(Lsn(boundary + 1), ONE, size), next);
            assert_eq!(Segment::offset(Lsn(boundary - 1), size), size.bytes() - 1);
        }
    }
}

#[test]
fn the_ends_of_the_address_space_have_no_neighbours() {
    for size in sizes() {
        assert_eq!(Segment::of(Lsn(0), ONE, size).previous(size), None);
        assert_eq!(Segment::before(Lsn(0), ONE, size), Segment::of(Lsn(0), ONE, size));
        let last = Segment::of(Lsn(u64::MAX), ONE, size);
        assert_eq!(last.next(size), None);
        assert!(last.fits(size));
        assert_eq!(last.through(last, size).count(), 1);
    }
}

#[test]
fn needed_segments_run_from_begin_to_the_byte_before_stop() {
    let size = SegmentSize::DEFAULT;
    let needed =
        |begin: &str, stop: &str| names(Segment::needed(begin.parse().unwrap(), stop.parse().unwrap(), ONE, size));
    assert_eq!(needed("0/9000028", "0/9000138"), ["000000010000000000000009"]);
    assert_eq!(needed("0/9000028", "0/A000000"), ["000000010000000000000009"]);
    assert_eq!(needed("0/9000028", "0/A000001"), ["000000010000000000000009", "00000001000000000000000A"]);
    assert_eq!(needed("0/FF000028", "1/1"), ["0000000100000000000000FF", "000000010000000100000000"]);
    assert_eq!(needed("0/9000028", "0/9000028"), ["000000010000000000000009"]);
    assert_eq!(needed("0/9000000", "0/9000000"), ["000000010000000000000009"]);
}

#[test]
fn no_segments_lead_backwards_or_to_another_timeline() {
    let (first, last) = (segment("000000010000000000000009"), segment("00000001000000000000000B"));
    assert_eq!(first.through(last, SegmentSize::DEFAULT).count(), 3);
    assert_eq!(last.through(first, SegmentSize::DEFAULT).count(), 0);
    assert_eq!(first.through(segment("00000002000000000000000B"), SegmentSize::DEFAULT).count(), 0);
}

#[test]
fn every_kind_of_wal_file_has_its_name() {
    let nine = segment("000000010000000A00000009");
    for (text, name, directory) in [
        ("000000010000000A00000009", WalName::Segment(nine), Some("000000010000000A")),
        ("000000010000000A00000009.partial", WalName::Partial(nine), Some("000000010000000A")),
        (
            "000000010000000A00000009.00000028.backup",
            WalName::Backup { segment: nine, offset: 0x28 },
            Some("000000010000000A"),
        ),
        ("0000000C.history", WalName::History(Timeline(12)), None),
    ] {
        assert_eq!(text.parse::<WalName>().unwrap(), name);
        assert_eq!(name.to_string(), text);
        assert_eq!(name.directory().as_deref(), directory);
        let lower: WalName = text.to_lowercase().parse().unwrap();
        assert_eq!(lower, name);
    }
    assert_eq!("0000000c.history".parse::<WalName>().unwrap().timeline(), Timeline(12));
}

#[test]
fn other_names_are_no_wal_files() {
    for text in [
        "",
        "00000001000000000000000",
        "0000000100000000000000090",
        "00000001000000000000000G",
        "+00000010000000000000009",
        "000000000000000000000009",
        "000000010000000000000009.",
        "000000010000000000000009.gz",
        "000000010000000000000009.Partial",
        "000000010000000000000009.partial.partial",
        "000000010000000000000009.0000028.backup",
        "000000010000000000000009..backup",
        "000000010000000000000009.backup",
        "00000000.history",
        "000000010000000000000009.history",
        "../../../../../etc/passwd",
        "archive_status",
        "00000001é00000000000009",
        "0000000é0000000000000009",
    ] {
        assert!(text.parse::<WalName>().is_err(), "{text}");
    }
    assert!("00000001.history".parse::<Segment>().is_err());
}

#[test]
fn an_object_of_the_archive_has_at_most_one_compression_suffix() {
    for compression in Compression::ALL {
        for name in ["000000010000000000000009", "000000010000000000000009.partial", "00000002.history"] {
            let text = format!("{name}{}", compression.suffix());
            let object: WalObject = text.parse().unwrap();
            assert_eq!(object, WalObject { name: name.parse().unwrap(), compression: Some(compression) });
            assert_eq!(object.to_string(), text);
        }
    }
    assert_eq!("00000002.history".parse::<WalObject>().unwrap().compression, None);
    assert_eq!(Compression::split("x.gz.zst"), ("x.gz", Some(Compression::Zstd)));
    assert_eq!(Compression::split("x.txt"), ("x.txt", None));
    assert!("000000010000000000000009.gz.zst".parse::<WalObject>().is_err());
    assert!("000000010000000000000009.zip".parse::<WalObject>().is_err());
}

/// Timeline 1 was left in the middle of segment 3, timeline 2 exactly at the beginning of segment 6.
const HISTORY: &str =
    "# by hand\n1\t0/3800000\tno recovery target specified\n\n2\t0/6000000\tbefore 2026-05-29 10:11:13+00\n";

fn history() -> TimelineHistory {
    TimelineHistory::parse(Timeline(4), HISTORY).unwrap()
}

#[test]
fn a_history_is_read_whatever_the_encoding_of_a_restore_point_in_it() {
    let bytes = b"1\t0/3000000\tat restore point \"caf\xe9\"\n";
    assert_eq!(TimelineHistory::read(Timeline(2), bytes).unwrap().timeline(), Timeline(2));
    let long = vec![b'#'; TimelineHistory::MAX_BYTES + 1];
    assert!(TimelineHistory::read(Timeline(2), &long).is_err());
}

#[test]
fn a_history_says_to_which_timeline_a_byte_belongs() {
    let history = history();
    assert_eq!(history.ancestors().len(), 2);
    assert_eq!(history.ancestors()[1].reason, "before 2026-05-29 10:11:13+00");
    for (lsn, timeline) in [(0, 1), (0x37F_FFFF, 1), (0x380_0000, 2), (0x5FF_FFFF, 2), (0x600_0000, 4), (u64::MAX, 4)] {
        assert_eq!(history.timeline_of(Lsn(lsn)), Timeline(timeline), "{lsn:x}");
    }
    assert_eq!(TimelineHistory::root(ONE).timeline_of(Lsn(7)), ONE);
}

#[test]
fn a_restore_across_timelines_needs_the_file_that_has_the_last_byte() {
    let history = history();
    let needed = |begin, stop| names(history.needed(Lsn(begin), Lsn(stop), SegmentSize::DEFAULT));
    // Up to the switch of timeline 1 its own file is enough; one byte more needs that of timeline 2.
    assert_eq!(needed(0x200_0028, 0x380_0000), ["000000010000000000000002", "000000010000000000000003"]);
    assert_eq!(needed(0x200_0028, 0x380_0001), ["000000010000000000000002", "000000020000000000000003"]);
    // A switch at a boundary leaves no file with bytes of both.
    assert_eq!(needed(0x500_0000, 0x600_0000), ["000000020000000000000005"]);
    assert_eq!(needed(0x500_0000, 0x600_0001), ["000000020000000000000005", "000000040000000000000006"]);
}

#[test]
fn postgresql_looks_for_the_newest_timeline_first() {
    let history = history();
    let of = |name: &str| names(history.candidates(segment(name), SegmentSize::DEFAULT).into_iter());
    assert_eq!(of("000000010000000000000002"), ["000000010000000000000002"]);
    assert_eq!(of("000000010000000000000003"), ["000000020000000000000003", "000000010000000000000003"]);
    assert_eq!(of("000000010000000000000005"), ["000000020000000000000005", "000000010000000000000005"]);
    assert_eq!(of("000000010000000000000006")[0], "000000040000000000000006");
}

#[test]
fn a_backup_reaches_a_timeline_only_if_it_stopped_before_the_branch() {
    let history = history();
    assert!(history.reaches(ONE, Lsn(0x380_0000)));
    assert!(!history.reaches(ONE, Lsn(0x380_0001)));
    assert!(history.reaches(Timeline(4), Lsn(u64::MAX)));
    assert!(!history.reaches(Timeline(3), Lsn(0)));
}

#[test]
fn broken_histories_are_refused() {
    for text in [
        "1\n",
        "one\t0/1\tx\n",
        "0\t0/1\tx\n",
        "1\t01\tx\n",
        "2\t0/2\tx\n1\t0/3\tx\n",
        "1\t0/3\tx\n2\t0/2\tx\n",
        "4\t0/3\tx\n",
        "9\t0/3\tx\n",
    ] {
        assert!(TimelineHistory::parse(Timeline(4), text).is_err(), "{text:?}");
    }
    assert!(TimelineHistory::parse(Timeline(4), &"#\n".repeat(TimelineHistory::MAX_BYTES)).is_err());
    assert!(TimelineHistory::parse(Timeline(2), "1\t0/3000158\r\n").unwrap().ancestors()[0].reason.is_empty());
}

fn size() -> impl Strategy<Value = SegmentSize> {
    (20..=30_u32).prop_map(|shift| SegmentSize::new(1 << shift).unwrap())
}

proptest! {
    #[test]
    fn a_segment_holds_the_position_it_is_named_for(lsn in any::<u64>(), timeline in 1_u32.., size in size()) {
        let segment = Segment::of(Lsn(lsn), Timeline(timeline), size);
        prop_assert!(segment.fits(size));
        prop_assert_eq!(segment.start(size).0 + Segment::offset(Lsn(lsn), size), lsn);
        prop_assert_eq!(segment.to_string().parse::<Segment>().unwrap(), segment);
        prop_assert_eq!(segment.log, (lsn >> 32) as u32);
        prop_assert_eq!(u64::from(segment.seg), (lsn & 0xFFFF_FFFF) / size.bytes());
        prop_assert_eq!(&segment.to_string()[..16], segment.directory());
    }

    #[test]
    fn neighbours_lie_side_by_side_and_sort_like_their_names(lsn in any::<u64>(), size in size()) {
        let segment = Segment::of(Lsn(lsn), ONE, size);
        if let Some(next) = segment.next(size) {
            prop_assert_eq!(next.start(size).0 - segment.start(size).0, size.bytes());
            prop_assert_eq!(next.previous(size), Some(segment));
            prop_assert!(next > segment && next.to_string() > segment.to_string());
        }
    }

    #[test]
    fn needed_segments_cover_every_byte_and_no_more(begin in 0..1_u64 << 40, length in 1..1_u64 << 28, size in size()) {
        let stop = begin + length;
        let needed: Vec<_> = Segment::needed(Lsn(begin), Lsn(stop), ONE, size).collect();
        let (first, last) = (needed[0], needed[needed.len() - 1]);
        prop_assert!(first.start(size).0 <= begin && begin < first.start(size).0 + size.bytes());
        prop_assert!(last.start(size).0 < stop && stop <= last.start(size).0 + size.bytes());
        prop_assert!(needed.windows(2).all(|pair| pair[0].next(size) == Some(pair[1])));
    }

    #[test]
    fn a_history_without_switch_needs_what_one_timeline_needs(begin in any::<u64>(), length in 0..1_u64 << 30, size in size()) {
        let stop = begin.saturating_add(length);
        let history = TimelineHistory::root(Timeline(7));
        let across: Vec<_> = history.needed(Lsn(begin), Lsn(stop), size).collect();
        let along: Vec<_> = Segment::needed(Lsn(begin), Lsn(stop), Timeline(7), size).collect();
        prop_assert_eq!(across, along);
    }

    #[test]
    fn no_name_makes_the_parser_panic(text in "\\PC{0,45}") {
        let _ = text.parse::<WalObject>();
    }
}
