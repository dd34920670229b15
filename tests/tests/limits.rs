//! The host as it is: few files may be open, memory is short, the disk is full. Whatever is not there, the original is left as it is,
//! the message says what was missing, and a good backup is never called bad for it.
#![allow(clippy::print_stderr, reason = "a limit that cannot be set says why")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use barman_snap_tests::command::{Ran, attempt, run};
use barman_snap_tests::fs::Kind;
use barman_snap_tests::need;
use barman_snap_tests::pg::{Cluster, Installation, Stop};
use barman_snap_tests::scratch::Scratch;
use barman_snap_tests::site::{Plan, Site, wait_until_promoted};
use barman_snap_tests::user;
use barman_snap_tests::wait::{pass, wait_for};

/// A control group in which memory is short; gone when this is dropped.
struct Memory {
    group: PathBuf,
}

impl Memory {
    /// `None` where this machine has none that can be used, with the reason on standard error.
    fn of_mib(limit: u64) -> Option<Self> {
        let name = format!("barman-snap-test-{}", std::process::id());
        for (top, file) in [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")] {
            let group = Path::new(top).join(&name);
            if std::fs::create_dir(&group).is_err() {
                continue;
            }
            let made = Self { group };
            if std::fs::write(made.group.join(file), (limit << 20).to_string()).is_ok() {
                return Some(made);
            }
        }
        eprintln!("skipped: the limit of memory, as no control group can be made here; that of files holds");
        None
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.group);
    }
}

/// Runs a command with few files, in that group if there is one.
fn limited(site: &Site, memory: Option<&Memory>, command: &str, rest: &[&str]) -> Ran {
    let plain = site.snap.command_that_mounts(site.args(command, rest));
    let mut shell = Command::new("sh");
    shell.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?)))).current_dir("/");
    let procs = memory.map(|memory| memory.group.join("cgroup.procs").display().to_string()).unwrap_or_default();
    shell.env("PROCS", procs);
    shell.args(["-c", "[ -z \"$PROCS\" ] || echo $$ > \"$PROCS\" || exit 99\nulimit -n 256 && exec \"$@\"", "sh"]);
    if let Some(user) = user::server_user() {
        shell.args(["setpriv", "--clear-groups", &format!("--reuid={}", user.uid), &format!("--regid={}", user.gid)]);
    }
    attempt(shell.arg(plain.get_program()).args(plain.get_args()))
}

#[test]
fn twenty_thousand_tables_need_neither_more_files_nor_more_memory() {
    let installation = need!(Installation::of(17));
    let plan = Site::plan(&installation, Kind::XfsReflink).on_one_volume().setting("fsync", "off");
    let plan =
        plan.setting("max_locks_per_transaction", "256").setting("autovacuum", "off").setting("max_wal_size", "4GB");
    let site = need!(plan.start());
    let make = |from: u32| {
        let each = "EXECUTE 'CREATE TABLE t' || i || ' (i int)'";
        for first in (from..from + 10_000).step_by(2000) {
            let last = first + 1999;
            site.cluster.sql(&format!("DO $$ BEGIN FOR i IN {first}..{last} LOOP {each}; END LOOP; END $$"));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| make(1));
        make(10_001);
    });
    let memory = Memory::of_mib(128);
    let target = site.fs().path().join("restored/clone");
    user::make_dir(target.parent().expect("it has one"));
    let (target, bin) = (target.display().to_string(), installation.bin().display().to_string());
    let commands: [(&str, &[&str]); 4] = [
        ("check", &[]),
        ("backup", &["--immediate-checkpoint"]),
        ("restore", &["last", &target, "--clone"]),
        ("verify", &["last", "--pg-bin-dir", &bin]),
    ];
    for (command, rest) in commands {
        limited(&site, memory.as_ref(), command, rest).expect_success();
    }
}

/// A small file system for what is restored, on which files or bytes run out.
struct Small {
    mount: PathBuf,
    _scratch: Scratch,
}

impl Small {
    fn of_mib(size: u64) -> Self {
        let scratch = Scratch::new();
        let (image, mount) = (scratch.path().join("image"), scratch.dir("small"));
        std::fs::File::create(&image).and_then(|file| file.set_len(size << 20)).expect("a sparse file");
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0", "-N", "4096"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount));
        user::give(&mount);
        Self { mount, _scratch: scratch }
    }

    /// Takes files until `left` more can be made.
    fn leave_files(&self, left: u64) {
        let filler = self.mount.join("filler");
        user::make_dir(&filler);
        let free = || rustix::fs::statvfs(&self.mount).expect("it is mounted").f_favail;
        for number in 0..free().saturating_sub(left) {
            std::fs::write(filler.join(number.to_string()), "").expect("there is room for it");
        }
        assert_eq!(free(), left);
    }

    /// Takes all bytes that are free, now.
    fn take_bytes(&self) {
        let filler = self.mount.join("filler");
        user::make_dir(&filler);
        let file =
            std::fs::OpenOptions::new().append(true).create(true).open(filler.join("bytes")).expect("it is made");
        for _ in 0..1000 {
            let free = rustix::fs::statvfs(&self.mount).expect("it is mounted");
            let length = file.metadata().expect("it is open").len();
            // What is free is not quite: some is needed to write down what is taken.
            let wanted = (free.f_bavail / 2).max(1) * free.f_bsize;
            if free.f_bavail == 0
                || rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), length, wanted).is_err()
            {
                return;
            }
        }
    }

    /// Runs something, and takes all bytes as soon as there is a path that ends so.
    fn full_when(&self, there: impl Fn(&Path) -> bool + Sync, work: impl FnOnce() -> Ran) -> Ran {
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    if there(&self.mount) {
                        return self.take_bytes();
                    }
                    pass(Duration::from_millis(1));
                }
            });
            let ran = work();
            over.store(true, std::sync::atomic::Ordering::Relaxed);
            ran
        })
    }

    fn make_room(&self) {
        std::fs::remove_dir_all(self.mount.join("filler")).expect("it is there");
    }

    /// What is there beside ours.
    fn rest(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.mount).expect("it is mounted").flatten().map(|entry| entry.file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        names.filter(|name| !["filler", "lost+found"].contains(&name.as_str())).collect()
    }

    fn files(&self) -> u64 {
        let known = rustix::fs::statvfs(&self.mount).expect("it is mounted");
        known.f_files - known.f_favail
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}

fn plan() -> Option<Plan> {
    match Installation::of(17) {
        // Copies: what is restored needs as many files and bytes as the original.
        Ok(installation) => Some(Site::plan(&installation, Kind::Ext4).on_one_volume()),
        Err(missing) => {
            missing.report();
            None
        }
    }
}

fn proofs(site: &Site) -> usize {
    std::fs::read_dir(site.object("proofs")).map_or(0, |found| {
        found.flatten().map(|backup| std::fs::read_dir(backup.path()).map_or(0, Iterator::count)).sum()
    })
}

/// One line about space, and nothing that is called bad.
#[track_caller]
fn says_that_space_is_short(ran: &Ran, when: &str) {
    let errors: Vec<&str> = ran.stderr.lines().filter(|line| line.starts_with("error:")).collect();
    assert!(!ran.success(), "{when}");
    assert_eq!(errors.len(), 1, "{when}: {}{}", ran.stdout, ran.stderr);
    assert!(errors[0].contains("space"), "{when}: {}", ran.stderr);
}

#[test]
fn a_restore_that_runs_out_of_files_at_any_step_leaves_nothing() {
    let Some(plan) = plan() else { return };
    let site = need!(plan.start());
    site.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    let id = site.backup(&[]);
    let small = Small::of_mib(600);
    let target = small.mount.join("data");
    let path = target.display().to_string();
    let before = small.files();
    site.ok("restore", &[&id, &path, "--clone"]);
    let needed = small.files() - before;
    std::fs::remove_dir_all(&target).expect("it is there");
    // In the middle of the copy, and at each file that is written after it.
    let steps: Vec<u64> = [0, 1, 2, 10, needed / 2].into_iter().chain(needed - 12..=needed + 2).collect();
    let mut failed = 0;
    for left in steps {
        small.leave_files(left);
        let ran = site.run("restore", &[&id, &path, "--clone"]);
        if ran.success() {
            std::fs::remove_dir_all(&target).expect("it is there");
        } else {
            failed += 1;
            says_that_space_is_short(&ran, &format!("{left} of {needed} files"));
        }
        assert_eq!(small.rest(), [""; 0], "{left} of {needed} files: {}", ran.stderr);
        small.make_room();
    }
    assert!(failed >= 10, "only {failed} have failed");
    site.ok("restore", &[&id, &path, "--clone"]);
    let clone = Cluster::adopt(site.cluster.installation(), &target);
    clone.start();
    wait_until_promoted(&clone);
    assert_eq!(clone.sql("SELECT count(*) FROM t"), "1000");
    clone.stop(Stop::Fast);
    // In place: what is there stays until all that is new is complete.
    small.leave_files(needed / 2);
    let ran = site.run("restore", &[&id, &path, "--in-place"]);
    says_that_space_is_short(&ran, "in place");
    assert_eq!(small.rest(), ["data"], "{}", ran.stderr);
    small.make_room();
    clone.start();
    assert_eq!(clone.sql("SELECT count(*) FROM t"), "1000");
    clone.stop(Stop::Fast);
}

#[test]
fn a_verification_that_runs_out_of_files_at_any_step_calls_no_backup_bad() {
    let Some(plan) = plan() else { return };
    let site = need!(plan.start());
    site.cluster.sql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i");
    let id = site.backup(&[]);
    let small = Small::of_mib(600);
    let (bin, work) = (site.cluster.installation().bin().display().to_string(), small.mount.display().to_string());
    let options = [&id, "--pg-bin-dir", &bin, "--work-dir", &work, "--timeout", "60"];
    let target = small.mount.join("data");
    let before = small.files();
    site.ok("restore", &[&id, &target.display().to_string(), "--clone"]);
    let needed = small.files() - before;
    std::fs::remove_dir_all(&target).expect("it is there");
    let mut failed = 0;
    for left in [0, 1, 2, 3, 4, 5, needed / 2].into_iter().chain((needed - 4..=needed + 40).step_by(4)) {
        small.leave_files(left);
        let proven = proofs(&site);
        let ran = site.run("verify", &options);
        if ran.success() {
            assert_eq!(proofs(&site), proven + 1);
        } else {
            failed += 1;
            says_that_space_is_short(&ran, &format!("{left} of {needed} files"));
            assert_eq!(proofs(&site), proven, "{left} of {needed} files: {}{}", ran.stdout, ran.stderr);
        }
        assert_eq!(small.rest(), [""; 0], "{left} of {needed} files: {}", ran.stderr);
        small.make_room();
    }
    assert!(failed >= 8, "only {failed} have failed");
    site.ok("verify", &options);
}

#[test]
fn a_disk_that_fills_up_during_the_copy_or_the_recovery_is_told_and_nothing_stays() {
    let Some(plan) = plan() else { return };
    let site = need!(plan.start());
    site.cluster.sql("CREATE TABLE t AS SELECT i, repeat('x', 900) AS x FROM generate_series(1, 150000) i");
    let id = site.backup(&[]);
    // After the backup, so that a recovery has to write.
    site.cluster.sql("CREATE TABLE later AS SELECT * FROM t");
    site.cluster.archive_wal();
    let small = Small::of_mib(700);
    let (bin, work) = (site.cluster.installation().bin().display().to_string(), small.mount.display().to_string());
    let target = small.mount.join("data");
    let path = target.display().to_string();
    let before = site.cluster.sql("SELECT count(*), sum(i) FROM t");

    let ran = small.full_when(|at| at.join("data").exists(), || site.run("restore", &[&id, &path, "--clone"]));
    says_that_space_is_short(&ran, "the copy");
    assert_eq!(small.rest(), [""; 0], "{}", ran.stderr);
    small.make_room();

    let server = |at: &Path| {
        let found = std::fs::read_dir(at).into_iter().flatten().flatten().map(|entry| entry.path());
        found.into_iter().any(|path| path.join("server.log").exists())
    };
    let copy = |at: &Path| {
        let found = std::fs::read_dir(at).into_iter().flatten().flatten().map(|entry| entry.path());
        found.into_iter().any(|path| path.join("data/base").exists())
    };
    let options = [&id, "--pg-bin-dir", &bin, "--work-dir", &work];
    for (when, there) in [("copy", &copy as &(dyn Fn(&Path) -> bool + Sync)), ("server", &server)] {
        for depth in [&[][..], &["--all-wal"]] {
            let ran = small.full_when(there, || site.run("verify", &[&options, depth].concat()));
            if ran.success() {
                // The disk was full too late to matter.
                assert_eq!(when, "server", "{}", ran.stdout);
            } else {
                says_that_space_is_short(&ran, when);
            }
            assert!(ran.success() == (proofs(&site) > 0), "{when} {depth:?}: {}{}", ran.stdout, ran.stderr);
            let _ = std::fs::remove_dir_all(site.object("proofs"));
            assert_eq!(small.rest(), [""; 0], "{when} {depth:?}: {}", ran.stderr);
            small.make_room();
        }
    }
    site.ok("restore", &[&id, &path, "--clone"]);
    // The recovery of the user's own server: it stops, and goes on when there is room.
    let clone = Cluster::adopt(site.cluster.installation(), &target);
    small.take_bytes();
    let _ = clone.try_start();
    let log = || clone.log();
    wait_for("the server to stop", Duration::from_secs(60), || (!clone.is_running()).then_some(()));
    assert!(log().contains("No space left on device"), "{}", log());
    small.make_room();
    clone.start();
    wait_until_promoted(&clone);
    assert_eq!(clone.sql("SELECT count(*) FROM later"), "150000", "{}", log());
    clone.stop(Stop::Fast);
    assert_eq!(site.cluster.sql("SELECT count(*), sum(i) FROM t"), before);
}
