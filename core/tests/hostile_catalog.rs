//! A catalog that somebody else can write to: what lies in it leads nowhere, and costs a bounded amount.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and say why it skips")]

use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use barman_snap::catalog::{Catalog, Layout, ObjectSpace, ServerName, StoreOptions};
use barman_snap::model::Compression;
use barman_snap::wal::{Level, WalArchive, codec};
use barman_snap::{ErrorKind, Result};

const NAME: &str = "000000010000000000000009";

async fn open(directory: &Path) -> Catalog {
    Catalog::open(directory.to_str().unwrap(), &StoreOptions::default(), "pg1").await.unwrap()
}

/// A segment of 1 MiB as PostgreSQL 15 begins it, with more behind it than it says.
fn overlong(bytes: usize) -> Vec<u8> {
    let mut page = Vec::new();
    page.extend(0xD110_u16.to_le_bytes());
    page.extend(2_u16.to_le_bytes());
    page.extend(1_u32.to_le_bytes());
    page.extend((9_u64 << 20).to_le_bytes());
    page.extend([0; 8]);
    page.extend(7_u64.to_le_bytes());
    page.extend((1_u32 << 20).to_le_bytes());
    page.extend(8192_u32.to_le_bytes());
    page.resize(bytes, 0);
    page
}

fn packed(codec: Compression, content: &[u8]) -> Vec<u8> {
    codec::compress(codec, Level::Low, content).unwrap()
}

#[tokio::test]
async fn what_unpacks_to_more_than_it_can_be_is_refused_in_every_codec() {
    let (bomb, text) = (overlong(8 << 20), vec![b'1'; 4 << 20]);
    for codec in Compression::ALL {
        let space = ObjectSpace::in_memory();
        let layout = Layout::new("", ServerName::new("pg1").unwrap()).unwrap();
        let catalog = Catalog::new(space.clone(), layout);
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in [
            (NAME, &bomb),
            ("000000010000000000000009.partial", &bomb),
            ("00000002.history", &text),
            ("000000010000000000000009.00000028.backup", &text),
        ] {
            let key = catalog.layout().wal(name.parse().unwrap(), Some(codec));
            space.put(&key, packed(codec, content)).await.unwrap();
            let to = dir.path().join(name);
            let error = WalArchive::new(&catalog).fetch(name, &to, false).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{codec:?} {name}: {error}");
            let said = error.chain();
            assert!(said.contains("decompresses to more than 1048576 bytes"), "{codec:?} {name}: {said}");
            assert!(!to.exists());
        }
    }
}

#[tokio::test]
async fn pipes_and_devices_are_no_objects_and_nobody_waits_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let backup = dir.path().join("pg1/base/20260529T095900");
    let wals = dir.path().join("pg1/wals/0000000100000000");
    for directory in [&backup, &wals] {
        std::fs::create_dir_all(directory).unwrap();
    }
    let pipe = |path: &Path| {
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    };
    pipe(&backup.join("backup.info"));
    pipe(&wals.join(NAME));
    pipe(&dir.path().join("pg1/wals/.barman-snap.1.1"));
    let catalog = open(dir.path()).await;
    let _ = catalog.list().await;
    let to = dir.path().join("to");
    assert!(WalArchive::new(&catalog).fetch(NAME, &to, false).await.is_err());
    catalog.space().put_new("pg1/wals/x", "x").await.unwrap();
    assert!(catalog.space().get("pg1/base/20260529T095900/backup.info").await.unwrap().is_none());
    symlink("/dev/zero", dir.path().join("pg1/endless")).unwrap();
    assert!(catalog.space().get("pg1/endless").await.unwrap().is_none());
}

/// A catalog of user 4711, in which that user has put links to `outside`, and one that root has made.
async fn with_links() -> Option<(tempfile::TempDir, Catalog)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can make files of others");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("catalog/pg1/base")).unwrap();
    std::fs::create_dir_all(at("outside/0000000100000000")).unwrap();
    std::fs::write(at("outside/secret"), "secret").unwrap();
    for (link, to) in [("wals", "outside"), ("file", "outside/secret"), ("../.barman-snap.lock", "outside/made")] {
        let link = at("catalog/pg1").join(link);
        symlink(at(to), &link).unwrap();
        lchown(&link, Some(4711), Some(4711)).unwrap();
    }
    symlink(at("outside"), at("catalog/pg1/of_root")).unwrap();
    chown(at("catalog"), Some(4711), Some(4711)).unwrap();
    let catalog = open(&at("catalog")).await;
    Some((dir, catalog))
}

#[tokio::test]
async fn root_goes_through_no_link_that_another_user_has_put_into_a_catalog() {
    let Some((dir, catalog)) = with_links().await else { return };
    let space = catalog.space();
    let refused = |done: Result<bool>| {
        let error = done.unwrap_err();
        assert!(error.message().contains("link of user 4711"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("chown -h root")));
    };
    refused(space.get("pg1/wals/secret").await.map(|_| true));
    refused(space.get("pg1/file").await.map(|_| true));
    refused(space.put_new("pg1/wals/0000000100000000/x", "x").await.map(|_| true));
    refused(space.list("pg1").await.map(|_| true));
    refused(space.delete("pg1/wals/secret").await.map(|()| true));
    assert_eq!(space.get("pg1/of_root/secret").await.unwrap().unwrap().0, "secret");
    // The lock would be made where the link leads.
    assert!(space.put("pg1/new", "x").await.is_err());
    let mut names: Vec<_> =
        std::fs::read_dir(dir.path().join("outside")).unwrap().flatten().map(|one| one.file_name()).collect();
    names.sort();
    assert_eq!(names, ["0000000100000000", "secret"]);
}

#[tokio::test]
async fn wal_is_written_through_no_link_and_belongs_to_whom_the_directory_belongs() {
    use std::os::unix::fs::MetadataExt;

    let dir = tempfile::tempdir().unwrap();
    let (pg_wal, precious) = (dir.path().join("pg_wal"), dir.path().join("precious"));
    std::fs::create_dir(&pg_wal).unwrap();
    std::fs::write(&precious, "x").unwrap();
    for link in ["RECOVERYXLOG", "RECOVERYXLOG.barman-snap"] {
        symlink(&precious, pg_wal.join(link)).unwrap();
    }
    let root = rustix::process::geteuid().is_root();
    if root {
        chown(&pg_wal, Some(4711), Some(4712)).unwrap();
    }
    let segment = dir.path().join(NAME);
    std::fs::write(&segment, overlong(1 << 20)).unwrap();
    let archive = WalArchive::new(&open(&dir.path().join("catalog")).await);
    archive.archive(&segment).await.unwrap();
    let to = pg_wal.join("RECOVERYXLOG");
    archive.fetch(NAME, &to, false).await.unwrap();
    assert_eq!(std::fs::read(&precious).unwrap(), b"x");
    let meta = std::fs::symlink_metadata(&to).unwrap();
    assert!(meta.is_file() && meta.len() == 1 << 20 && meta.permissions().mode() & 0o777 == 0o600);
    if root {
        assert_eq!((meta.uid(), meta.gid()), (4711, 4712));
    }
    assert!(std::fs::symlink_metadata(pg_wal.join("RECOVERYXLOG.barman-snap")).is_err());
}
