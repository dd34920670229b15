//! The WAL archive: what PostgreSQL hands out comes back as it was, and nothing else comes in or out.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may panic, say why it skips, and use the real time"
)]

use std::path::{Path, PathBuf};

use barman_snap::catalog::{Catalog, Layout, ObjectSpace, ServerName, StoreHook, StoreOp};
use barman_snap::model::{BackupInfo, Compression, Segment, SegmentSize};
use barman_snap::wal::{Archived, Level, WalArchive};
use barman_snap::{Error, ErrorKind, Result, Retry};

const SIZE: u64 = 1 << 20;
const SYSTEM: u64 = 7_406_321_547_896_325_411;
const NAME: &str = "000000010000000000000009";

fn catalog(space: &ObjectSpace) -> Catalog {
    Catalog::new(space.clone(), Layout::new("", ServerName::new("pg1").unwrap()).unwrap())
}

fn segment(name: &str) -> Segment {
    name.parse().unwrap()
}

/// A segment of 1 MiB as PostgreSQL 15 begins it, with `fill` behind the first page.
fn content(name: &str, system: u64, fill: u8) -> Vec<u8> {
    let at = segment(name);
    let mut page = Vec::new();
    page.extend(0xD110_u16.to_le_bytes());
    page.extend(2_u16.to_le_bytes());
    page.extend(at.timeline.0.to_le_bytes());
    page.extend(at.start(SegmentSize::new(SIZE).unwrap()).0.to_le_bytes());
    page.extend([0; 8]);
    page.extend(system.to_le_bytes());
    page.extend((SIZE as u32).to_le_bytes());
    page.extend(8192_u32.to_le_bytes());
    page.resize(8192, 0);
    page.resize(SIZE as usize, fill);
    page
}

fn write(dir: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

#[tokio::test]
async fn every_codec_brings_back_what_was_archived() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), NAME, &content(NAME, SYSTEM, 7));
    let to = dir.path().join("RECOVERYXLOG");
    for codec in std::iter::once(None).chain(Compression::ALL.map(Some)) {
        let space = ObjectSpace::in_memory();
        let mut archive = WalArchive::new(&catalog(&space)).with_system_id(SYSTEM.to_string());
        if let Some(codec) = codec {
            archive = archive.with_compression(codec, Level::Low).unwrap();
        }
        assert_eq!(archive.archive(&path).await.unwrap(), Archived::Stored);
        assert_eq!(archive.archive(&path).await.unwrap(), Archived::AlreadyThere);
        let fetched = archive.fetch(NAME, &to, false).await.unwrap();
        let suffix = codec.map_or("", Compression::suffix);
        assert_eq!(fetched.key, format!("pg1/wals/0000000100000000/{NAME}{suffix}"));
        assert_eq!((fetched.size, fetched.partial), (SIZE, false));
        assert!(std::fs::read(&to).unwrap() == std::fs::read(&path).unwrap(), "{codec:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file is left");
}

#[tokio::test]
async fn other_content_is_a_conflict_under_every_suffix_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let space = ObjectSpace::in_memory();
    let plain = WalArchive::new(&catalog(&space));
    let zstd = plain.clone().with_compression(Compression::Zstd, Level::Medium).unwrap();
    let path = write(dir.path(), NAME, &content(NAME, SYSTEM, 1));
    assert_eq!(zstd.archive(&path).await.unwrap(), Archived::Stored);
    assert_eq!(plain.archive(&path).await.unwrap(), Archived::AlreadyThere, "another suffix is the same file");
    let before = space.list("").await.unwrap();
    assert_eq!(before.len(), 2, "the segment, and whose it is");
    write(dir.path(), NAME, &content(NAME, SYSTEM, 2));
    for archive in [&plain, &zstd] {
        let error = archive.archive(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
    assert_eq!(space.list("").await.unwrap(), before);
}

#[tokio::test]
async fn what_is_not_a_whole_segment_of_this_cluster_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let space = ObjectSpace::in_memory();
    let archive = WalArchive::new(&catalog(&space)).with_system_id(SYSTEM.to_string());
    let whole = content(NAME, SYSTEM, 0);
    let other = "00000001000000000000000A";
    for (name, bytes, kind) in [
        (NAME, &whole[..SIZE as usize - 1], ErrorKind::Corrupt),
        (NAME, &whole[..8192], ErrorKind::Corrupt),
        (NAME, &[][..], ErrorKind::Corrupt),
        (NAME, &vec![0; SIZE as usize], ErrorKind::Corrupt),
        (other, &whole, ErrorKind::Corrupt),
        (NAME, &content(NAME, 42, 0), ErrorKind::Conflict),
        ("postgresql.conf", &whole, ErrorKind::InvalidInput),
        ("00000002.history", &[], ErrorKind::Corrupt),
        ("000000010000000000000009.00000028.backup", b"nonsense", ErrorKind::Corrupt),
    ] {
        let error = archive.archive(&write(dir.path(), name, bytes)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name}: {error}");
    }
    let gone = archive.archive(&dir.path().join("00000001000000000000000B")).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert!(space.list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn history_and_backup_files_are_archived_too() {
    let dir = tempfile::tempdir().unwrap();
    let space = ObjectSpace::in_memory();
    let archive = WalArchive::new(&catalog(&space)).with_compression(Compression::Gzip, Level::Medium).unwrap();
    for (name, text, key) in [
        ("00000002.history", "1\t0/9000028\tno recovery target specified\n", "pg1/wals/00000002.history.gz"),
        (
            "000000010000000000000009.00000028.backup",
            "START WAL LOCATION: 0/9000028 (file 000000010000000000000009)\n",
            "pg1/wals/0000000100000000/000000010000000000000009.00000028.backup.gz",
        ),
    ] {
        archive.archive(&write(dir.path(), name, text.as_bytes())).await.unwrap();
        let fetched = archive.fetch(name, &dir.path().join("to"), false).await.unwrap();
        assert_eq!(fetched.key, key);
        assert_eq!(std::fs::read_to_string(dir.path().join("to")).unwrap(), text);
    }
}

#[tokio::test]
async fn a_partial_segment_is_given_only_when_asked_for_and_only_without_the_whole_one() {
    let dir = tempfile::tempdir().unwrap();
    let archive = WalArchive::new(&catalog(&ObjectSpace::in_memory()));
    let (to, partial) = (dir.path().join("to"), format!("{NAME}.partial"));
    archive.archive(&write(dir.path(), &partial, &content(NAME, SYSTEM, 1))).await.unwrap();
    assert_eq!(archive.fetch(NAME, &to, false).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!to.exists());
    let size = SegmentSize::new(SIZE).unwrap();
    assert_eq!(archive.missing(segment(NAME), segment(NAME), size).await.unwrap(), [segment(NAME)]);
    assert!(archive.fetch(NAME, &to, true).await.unwrap().partial);
    archive.archive(&write(dir.path(), NAME, &content(NAME, SYSTEM, 2))).await.unwrap();
    assert!(!archive.fetch(NAME, &to, true).await.unwrap().partial);
    assert_eq!(std::fs::read(&to).unwrap()[8192], 2);
    assert_eq!(archive.missing(segment(NAME), segment(NAME), size).await.unwrap(), []);
}

#[tokio::test]
async fn a_damaged_object_is_corrupt_and_a_sound_twin_is_used_instead() {
    let dir = tempfile::tempdir().unwrap();
    let space = ObjectSpace::in_memory();
    let archive = WalArchive::new(&catalog(&space));
    let to = dir.path().join("to");
    let key = format!("pg1/wals/0000000100000000/{NAME}");
    space.put(&key, content(NAME, SYSTEM, 1)[..5000].to_vec()).await.unwrap();
    assert_eq!(archive.fetch(NAME, &to, false).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(!to.exists());
    let packed = barman_snap::wal::codec::compress(Compression::Lz4, Level::Low, &content(NAME, SYSTEM, 1)).unwrap();
    space.put(&format!("{key}.lz4"), packed).await.unwrap();
    assert!(archive.fetch(NAME, &to, false).await.unwrap().key.ends_with(".lz4"));
    let stranger = archive.clone().with_system_id("1");
    std::fs::remove_file(&to).unwrap();
    assert!(stranger.fetch(NAME, &to, false).await.is_err());
    assert!(!to.exists());
}

#[tokio::test]
async fn absent_is_not_found_and_a_missing_directory_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let archive = WalArchive::new(&catalog(&ObjectSpace::in_memory()));
    archive.archive(&write(dir.path(), NAME, &content(NAME, SYSTEM, 1))).await.unwrap();
    let fetch = |name: &'static str, to: &'static str| {
        let (archive, to) = (archive.clone(), dir.path().join(to));
        async move { archive.fetch(name, &to, true).await.unwrap_err().kind() }
    };
    assert_eq!(fetch("00000001000000000000000A", "to").await, ErrorKind::NotFound);
    assert_eq!(fetch("00000005.history", "to").await, ErrorKind::NotFound);
    assert_eq!(fetch(NAME, "no/such/dir").await, ErrorKind::Precondition);
    assert_eq!(fetch("../x", "to").await, ErrorKind::InvalidInput);
}

#[tokio::test]
async fn an_archive_inside_a_cluster_or_around_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("pg1/data");
    std::fs::create_dir_all(data.join("global")).unwrap();
    std::fs::create_dir_all(data.join("pg_wal")).unwrap();
    std::fs::write(data.join("PG_VERSION"), "15").unwrap();
    std::fs::write(data.join("global/pg_control"), "x").unwrap();
    std::fs::create_dir_all(dir.path().join("ts/PG_15_202209061")).unwrap();
    let path = write(&data.join("pg_wal"), NAME, &content(NAME, SYSTEM, 1));
    for (root, words) in [
        (data.join("catalog"), "lies inside the data directory"),
        (dir.path().join("ts/catalog"), "lies inside the tablespace"),
        (dir.path().to_owned(), "of the cluster lies inside the catalog"),
    ] {
        let error = WalArchive::new(&catalog(&ObjectSpace::local(&root))).archive(&path).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition, "{}", error.chain());
        assert!(error.message().contains(words), "{words}: {}", error.chain());
        assert!(!root.join("pg1/wals").exists());
    }
    let beside = ObjectSpace::local(dir.path().join("catalog"));
    WalArchive::new(&catalog(&beside)).archive(&path).await.unwrap();
}

/// PostgreSQL would be promoted there and then.
#[tokio::test]
async fn a_file_is_absent_only_from_an_archive_that_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (root, to, next) = (dir.path().join("catalog"), dir.path().join("to"), "00000001000000000000000A");
    let archive = WalArchive::new(&catalog(&ObjectSpace::local(&root)));
    let refused = async |what: &str| {
        for name in [NAME, next, "00000002.history"] {
            let error = archive.fetch(name, &to, true).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {}", error.chain());
            assert!(error.chain().contains(name) && error.chain().contains("catalog"), "{what}: {}", error.chain());
        }
    };
    let moved = |from: &str, to: &str| std::fs::rename(dir.path().join(from), dir.path().join(to)).unwrap();
    refused("nothing was ever there").await;
    archive.archive(&write(dir.path(), NAME, &content(NAME, SYSTEM, 1))).await.unwrap();
    assert_eq!(archive.fetch(next, &to, true).await.unwrap_err().kind(), ErrorKind::NotFound);
    moved("catalog", "away");
    refused("the directory is gone").await;
    std::fs::create_dir(&root).unwrap();
    refused("a mount point on which nothing is mounted").await;
    std::fs::remove_dir(&root).unwrap();
    std::os::unix::fs::symlink("/nowhere/at/all", &root).unwrap();
    refused("a link to what is not mounted").await;
    std::fs::remove_file(&root).unwrap();
    moved("away", "catalog");
    // Only the WAL is on another disk; the rest is still there.
    moved("catalog/pg1/wals", "wals");
    refused("the folder of the WAL is gone").await;
    std::fs::create_dir_all(root.join("pg1/wals/0000000100000000")).unwrap();
    refused("the folder of the WAL is empty").await;
    std::fs::remove_dir_all(root.join("pg1/wals")).unwrap();
    moved("wals", "catalog/pg1/wals");
    archive.fetch(NAME, &to, true).await.unwrap();
    assert_eq!(archive.fetch(next, &to, true).await.unwrap_err().kind(), ErrorKind::NotFound);
}

/// A standby at the end of the WAL asks every few seconds.
#[tokio::test]
async fn to_see_the_archive_costs_one_list_for_a_file_that_is_absent_and_none_for_another() {
    #[derive(Debug, Default)]
    struct Count(std::sync::atomic::AtomicUsize);
    impl StoreHook for Count {
        fn before(&self, op: StoreOp, _: &str) -> Result<()> {
            self.0.fetch_add(usize::from(op == StoreOp::List), std::sync::atomic::Ordering::SeqCst);
            Ok(())
        }
        fn after(&self, _: StoreOp, _: &str) -> Result<()> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let count = std::sync::Arc::new(Count::default());
    let archive = WalArchive::new(&catalog(&ObjectSpace::in_memory().with_hook(count.clone())));
    archive.archive(&write(dir.path(), NAME, &content(NAME, SYSTEM, 1))).await.unwrap();
    let before = count.0.load(std::sync::atomic::Ordering::SeqCst);
    archive.fetch(NAME, &dir.path().join("to"), false).await.unwrap();
    assert_eq!(count.0.load(std::sync::atomic::Ordering::SeqCst), before);
    archive.fetch("00000001000000000000000A", &dir.path().join("to"), true).await.unwrap_err();
    assert_eq!(count.0.load(std::sync::atomic::Ordering::SeqCst), before + 1);
}

#[tokio::test]
async fn missing_segments_are_found_across_folders_and_supplied_from_pg_wal() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = catalog(&ObjectSpace::in_memory());
    let archive = WalArchive::new(&catalog).with_compression(Compression::Gzip, Level::Low).unwrap();
    let size = SegmentSize::new(SIZE).unwrap();
    // 1 MiB segments: 4096 to a folder, so this range has a border in it.
    let (begin, end) = (segment("000000010000000000000FFE"), segment("000000010000000100000002"));
    let all: Vec<_> = begin.through(end, size).collect();
    assert_eq!(all.len(), 5);
    assert_eq!(archive.missing(begin, end, size).await.unwrap(), all);
    for at in &all[..4] {
        write(dir.path(), &at.to_string(), &content(&at.to_string(), SYSTEM, 3));
    }
    archive.archive(&dir.path().join(all[1].to_string())).await.unwrap();
    // As stock tools with another compression would have it.
    let key = catalog.layout().wal(barman_snap::model::WalName::Segment(all[2]), None);
    catalog.space().put(&key, content(&all[2].to_string(), SYSTEM, 3)).await.unwrap();

    let missing = archive.missing(begin, end, size).await.unwrap();
    assert_eq!(missing, [all[0], all[3], all[4]]);
    let supplied = archive.supply(dir.path(), &missing).await.unwrap();
    assert_eq!((supplied.stored, supplied.absent), (vec![all[0], all[3]], vec![all[4]]));
    assert_eq!(archive.missing(begin, end, size).await.unwrap(), [all[4]]);
    assert!(archive.missing(end, begin, size).await.is_err());
}

#[derive(Debug)]
struct LoseReplies(&'static str);

impl StoreHook for LoseReplies {
    fn before(&self, _: StoreOp, _: &str) -> Result<()> {
        Ok(())
    }
    fn after(&self, op: StoreOp, key: &str) -> Result<()> {
        match op {
            StoreOp::PutNew if key.contains(self.0) => {
                Err(Error::new(ErrorKind::Unavailable, "reply lost").with_retry(Retry::Unknown))
            }
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn a_lost_reply_is_no_success_and_the_next_attempt_finds_the_object() {
    let dir = tempfile::tempdir().unwrap();
    let space = ObjectSpace::in_memory();
    let path = write(dir.path(), NAME, &content(NAME, SYSTEM, 1));
    // Of the pin, then of the segment.
    for (which, then) in [("system-id", Archived::Stored), ("wals", Archived::AlreadyThere)] {
        let faulty = WalArchive::new(&catalog(&space.with_hook(std::sync::Arc::new(LoseReplies(which)))));
        assert_eq!(faulty.archive(&path).await.unwrap_err().retry(), Retry::Unknown);
        assert_eq!(WalArchive::new(&catalog(&space)).archive(&path).await.unwrap(), then, "{which}");
        space.delete_prefix("").await.unwrap();
    }
}

/// The segment that a real `initdb` leaves: the header is read as PostgreSQL writes it.
#[tokio::test]
async fn a_segment_of_a_real_cluster_is_accepted() {
    let Some(initdb) = ["18", "17", "16", "15", "14", "13"]
        .map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin/initdb")))
        .into_iter()
        .find(|path| path.exists())
    else {
        eprintln!("skipped: there is no initdb in /usr/lib/postgresql");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    // initdb refuses to run as root.
    let mut command = if rustix::process::geteuid().is_root() {
        std::fs::create_dir(&data).unwrap();
        for path in [dir.path(), &data] {
            assert!(std::process::Command::new("chown").arg("postgres").arg(path).status().unwrap().success());
        }
        let mut command = std::process::Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(initdb);
        command
    } else {
        std::process::Command::new(initdb)
    };
    let made = command.args(["--wal-segsize=1", "-N", "-D"]).arg(&data).current_dir("/").output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // Later names may be segments that were made ahead, with nothing in them yet.
    let names =
        std::fs::read_dir(data.join("pg_wal")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let first = names.filter(|name| name.len() == 24).min().unwrap();
    let first = first.as_str();
    let archive = WalArchive::new(&catalog(&ObjectSpace::in_memory()));
    assert_eq!(archive.archive(&data.join("pg_wal").join(first)).await.unwrap(), Archived::Stored);
    let error = archive.clone().with_system_id("42").archive(&data.join("pg_wal").join(first)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(archive.fetch(first, &dir.path().join("to"), false).await.unwrap().size, SIZE);
}

#[tokio::test]
async fn the_first_segment_pins_its_cluster_and_another_is_refused_by_both_names() {
    let dir = tempfile::tempdir().unwrap();
    let space = ObjectSpace::in_memory();
    let archive = WalArchive::new(&catalog(&space));
    let next = "00000001000000000000000A";
    archive.archive(&write(dir.path(), NAME, &content(NAME, SYSTEM, 1))).await.unwrap();
    assert_eq!(catalog(&space).pinned_system_id().await.unwrap(), Some(SYSTEM.to_string()));
    // Neither a name that is free nor one that collides lets it in.
    for name in [next, NAME] {
        let before = space.list("").await.unwrap();
        for file in [name.to_owned(), format!("{name}.partial")] {
            let foreign = write(dir.path(), &file, &content(name, 42, 2));
            let error = archive.archive(&foreign).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
            let text = error.to_string();
            assert!(text.contains(&SYSTEM.to_string()) && text.contains("--new-system-id 42"), "{text}");
        }
        assert_eq!(space.list("").await.unwrap(), before);
    }
    archive.archive(&write(dir.path(), next, &content(next, SYSTEM, 1))).await.unwrap();
    archive.archive(&write(dir.path(), "00000002.history", b"1\t0/9000028\tx\n")).await.unwrap();
}

#[tokio::test]
async fn a_new_cluster_takes_over_only_when_the_user_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let space = ObjectSpace::in_memory();
    let archive = WalArchive::new(&catalog(&space));
    archive.archive(&write(dir.path(), NAME, &content(NAME, SYSTEM, 1))).await.unwrap();
    let next = "00000001000000000000000A";
    let upgraded = write(dir.path(), next, &content(next, 42, 1));
    let wrong = archive.clone().with_new_system_id("43");
    assert_eq!(wrong.archive(&upgraded).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(archive.clone().with_new_system_id("42").archive(&upgraded).await.unwrap(), Archived::Stored);
    assert_eq!(archive.archive(&upgraded).await.unwrap(), Archived::AlreadyThere);
    let old = write(dir.path(), "00000001000000000000000B", &content("00000001000000000000000B", SYSTEM, 1));
    assert_eq!(archive.archive(&old).await.unwrap_err().kind(), ErrorKind::Conflict, "the old one is foreign now");
}

#[tokio::test]
async fn without_a_pin_the_newest_backup_says_whose_catalog_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let space = ObjectSpace::in_memory();
    let catalog = catalog(&space);
    for (id, systemid) in [("20260101T000000", Some("1")), ("20260102T000000", Some("42")), ("20260103T000000", None)] {
        let info = BackupInfo { systemid: systemid.map(str::to_owned), ..BackupInfo::default() };
        catalog.create(&id.parse().unwrap(), &info).await.unwrap();
    }
    space.put("pg1/base/20260104T000000/backup.info", "garbage").await.unwrap();
    let archive = WalArchive::new(&catalog);
    let error = archive.archive(&write(dir.path(), NAME, &content(NAME, SYSTEM, 1))).await.unwrap_err();
    assert!(error.message().contains("is the cluster 42"), "{error}");
    archive.archive(&write(dir.path(), NAME, &content(NAME, 42, 1))).await.unwrap();
    assert_eq!(catalog.pinned_system_id().await.unwrap().as_deref(), Some("42"));
}

#[tokio::test]
async fn other_content_in_an_archive_without_a_pin_pins_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let space = ObjectSpace::in_memory();
    let archive = WalArchive::new(&catalog(&space));
    let path = write(dir.path(), NAME, &content(NAME, SYSTEM, 1));
    archive.archive(&path).await.unwrap();
    space.delete("pg1/sessions/system-id").await.unwrap();
    let foreign = write(dir.path(), NAME, &content(NAME, 42, 2));
    assert!(archive.archive(&foreign).await.unwrap_err().message().contains("other content"));
    assert_eq!(catalog(&space).pinned_system_id().await.unwrap(), None);
}
