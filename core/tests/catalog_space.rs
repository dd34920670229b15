//! The verbs of `ObjectSpace`, the same list over every backend; and what is special about the local one.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test may panic, say why it skips, and use the real time"
)]

mod catalog_shared;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use barman_snap::catalog::{ObjectSpace, PutNew, StoreHook, StoreOp};
use barman_snap::{Error, ErrorKind, Result, Retry};
use catalog_shared::{behaves, one_of_many_wins};

#[tokio::test]
async fn memory_behaves() {
    behaves(&ObjectSpace::in_memory()).await;
    one_of_many_wins(&ObjectSpace::in_memory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_behaves() {
    let dir = tempfile::tempdir().unwrap();
    let space = ObjectSpace::local(dir.path().join("not/yet/there"));
    behaves(&space).await;
    one_of_many_wins(&space).await;
}

#[tokio::test]
async fn a_doubled_slash_is_a_key_of_its_own_where_the_store_can_hold_it() {
    let space = ObjectSpace::in_memory();
    space.put("p//srv/keep", "full").await.unwrap();
    assert_eq!(space.get("p/srv/keep").await.unwrap(), None);
    assert_eq!(space.get("p//srv/keep").await.unwrap().unwrap().0, "full");
}

#[tokio::test]
async fn files_are_private_and_the_folders_of_deleted_objects_go() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("catalog");
    let space = ObjectSpace::local(&root);
    space.put_new("pg1/base/x/backup.info", "x").await.unwrap();
    space.put("pg1/base/x/backup_label", "y").await.unwrap();
    let mode = |path: &str| std::fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
    for folder in ["", "pg1", "pg1/base", "pg1/base/x"] {
        assert_eq!(mode(folder), 0o700, "{folder:?}");
    }
    for file in ["pg1/base/x/backup.info", "pg1/base/x/backup_label"] {
        assert_eq!(mode(file), 0o600, "{file:?}");
    }
    assert_eq!(space.delete_prefix("pg1").await.unwrap(), 2);
    assert!(!root.join("pg1").exists());
    assert!(root.exists());
}

#[tokio::test]
async fn leftovers_of_a_crash_are_never_seen_and_vanish() {
    let dir = tempfile::tempdir().unwrap();
    let (dead, alive) = (dir.path().join("a/.barman-snap.1.1"), dir.path().join("a/.barman-snap.1.2"));
    std::fs::create_dir(dir.path().join("a")).unwrap();
    std::fs::write(&dead, "half an obj").unwrap();
    std::fs::write(&alive, "half an obj").unwrap();
    let writer = std::fs::File::open(&alive).unwrap();
    rustix::fs::flock(&writer, rustix::fs::FlockOperation::LockExclusive).unwrap();

    let space = ObjectSpace::local(dir.path());
    assert_eq!(space.list("").await.unwrap(), []);
    assert_eq!(space.list_dir("a").await.unwrap().objects, []);
    space.put_new("a/b", "x").await.unwrap();
    assert_eq!(space.list("").await.unwrap().len(), 1);
    assert!(!dead.exists(), "nobody is writing this one");
    assert!(alive.exists(), "this one is another process at work");

    // Another process deletes the last object: what a dead one has left does not keep the directory.
    drop(writer);
    ObjectSpace::local(dir.path()).delete("a/b").await.unwrap();
    assert!(!dir.path().join("a").exists());
}

#[tokio::test]
async fn no_key_leaves_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let space = ObjectSpace::local(dir.path().join("c"));
    for key in ["../x", "a/../../x", "/etc/x", "a//b", "./x", ".barman-snap.lock"] {
        let error = space.put(key, "x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{key}");
    }
}

/// Root may write anywhere, so this runs the store in a process of an ordinary user.
#[test]
fn a_read_only_directory_is_permission_denied() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("catalog");
    std::fs::create_dir(&root).unwrap();
    if rustix::process::geteuid().is_root() {
        // An immutable directory refuses root as well, on file systems that have the flag.
        let immutable = |on: &str| {
            let status = std::process::Command::new("chattr").args([on, &root.display().to_string()]).status();
            status.is_ok_and(|status| status.success())
        };
        if !immutable("+i") {
            eprintln!("skipped: running as root, and chattr +i does not work here");
            return;
        }
        let error = put_fails(&root);
        immutable("-i");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    } else {
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o500)).unwrap();
        let error = put_fails(&root);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
    }
}

#[test]
fn a_full_file_system_is_exhausted_and_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small file system");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let run = |program: &str, args: &[&str]| {
        let status = std::process::Command::new(program).args(args).arg(dir.path()).status();
        status.is_ok_and(|status| status.success())
    };
    if !run("mount", &["-t", "tmpfs", "-o", "size=64k", "none"]) {
        eprintln!("skipped: mounting a small tmpfs does not work here");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let space = ObjectSpace::local(dir.path());
    let error = runtime.block_on(space.put_new("a/b", vec![1; 100_000])).unwrap_err();
    let files = std::fs::read_dir(dir.path().join("a")).unwrap().count();
    run("umount", &[]);
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error:?}");
    assert_eq!(files, 0);
}

/// A network file system whose mount is missing, and a link that leads to it.
#[tokio::test]
async fn a_link_that_leads_nowhere_is_refused_at_once_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("nas");
    std::os::unix::fs::symlink("/nowhere/at/all", &link).unwrap();
    // It can stand at the root, above it, and below it.
    std::fs::create_dir(dir.path().join("catalog")).unwrap();
    std::os::unix::fs::symlink(&link, dir.path().join("catalog/pg1")).unwrap();
    for root in [link.clone(), link.join("deep/er"), dir.path().join("catalog")] {
        let space = ObjectSpace::local(&root);
        let key = "pg1/sessions/x";
        assert!(!space.holds_any("pg1").await.unwrap());
        assert_eq!(space.get(key).await.unwrap(), None);
        for error in [space.put_new(key, "x").await.unwrap_err(), space.put(key, "x").await.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Precondition, "{}", error.chain());
            assert!(error.chain().contains("is a link to /"), "{}", error.chain());
        }
    }
    let file = dir.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let error = ObjectSpace::local(&file).put("a", "x").await.unwrap_err();
    assert!(error.message().ends_with("file is not a directory"), "{}", error.chain());
}

#[tokio::test]
async fn a_directory_that_does_not_answer_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let space = ObjectSpace::local(dir.path()).with_limit(std::time::Duration::from_millis(300));
    space.put("other", "x").await.unwrap();
    // Somebody who is stopped while he holds the lock.
    let lock = std::fs::File::open(dir.path().join(".barman-snap.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = space.put("other", "y").await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Unknown), "{}", error.chain());
    assert_eq!(space.get("other").await.unwrap().unwrap().0, "x");
}

#[tokio::test]
async fn a_folder_holds_an_object_at_any_depth_or_none() {
    let dir = tempfile::tempdir().unwrap();
    for space in [ObjectSpace::in_memory(), ObjectSpace::local(dir.path())] {
        assert!(!space.holds_any("pg1/wals").await.unwrap());
        space.put("pg1/wals2/x", "x").await.unwrap();
        assert!(!space.holds_any("pg1/wals").await.unwrap());
        space.put("pg1/wals/a/b", "x").await.unwrap();
        assert!(space.holds_any("pg1/wals").await.unwrap());
    }
    std::fs::create_dir_all(dir.path().join("pg2/wals/0000000100000000")).unwrap();
    assert!(!ObjectSpace::local(dir.path()).holds_any("pg2/wals").await.unwrap());
}

fn put_fails(root: &Path) -> Error {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(ObjectSpace::local(root).put_new("a", "x")).unwrap_err()
}

#[derive(Debug)]
struct LoseReply;

impl StoreHook for LoseReply {
    fn before(&self, op: StoreOp, _: &str) -> Result<()> {
        if op == StoreOp::Delete { Err(Error::new(ErrorKind::Unavailable, "no network")) } else { Ok(()) }
    }

    fn after(&self, op: StoreOp, _: &str) -> Result<()> {
        let lost = Error::new(ErrorKind::Unavailable, "reply lost").with_retry(Retry::Unknown);
        if op == StoreOp::PutNew { Err(lost) } else { Ok(()) }
    }
}

#[tokio::test]
async fn a_hook_can_refuse_an_operation_and_lose_a_reply() {
    let space = ObjectSpace::in_memory();
    let faulty = space.with_hook(Arc::new(LoseReply));
    assert_eq!(faulty.put_new("a", "x").await.unwrap_err().retry(), Retry::Unknown);
    assert_eq!(space.put_new("a", "x").await.unwrap(), PutNew::Exists("x".into()), "it had happened");
    faulty.delete("a").await.unwrap_err();
    assert!(space.head("a").await.unwrap().is_some(), "it had not happened");
}
