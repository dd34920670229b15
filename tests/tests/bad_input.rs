//! What a person can get wrong, and what the machine can: each gives one clear line on stderr that names the value that
//! mattered, the documented exit code, and leaves nothing behind.
//!
//! 1: failed or refused. 2: could not be reached. 3: wrong options or names.
#![allow(clippy::print_stdout, reason = "the messages are shown to whoever runs the test with --no-capture")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use barman_snap_tests::command::{Ran, run};
use barman_snap_tests::fs::Kind;
use barman_snap_tests::load::fill;
use barman_snap_tests::need;
use barman_snap_tests::pg::{Cluster, Installation, Stop};
use barman_snap_tests::s3::free_port;
use barman_snap_tests::site::{SERVER, Site, wait_until_promoted};
use barman_snap_tests::user;
use barman_snap_tests::wait::{timed, wait_for};

/// One line that begins with `error:` and has all the words, this exit code, and nothing on stdout.
#[track_caller]
fn refused(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code(), code, "{}\n{}", ran.line, ran.stderr);
    let lines: Vec<&str> = ran.stderr.lines().collect();
    let [line] = lines.as_slice() else { panic!("not one line: {}\n{}", ran.line, ran.stderr) };
    assert!(line.starts_with("error: "), "{line}");
    for word in words {
        assert!(line.contains(word), "{word:?} is not in: {line}");
    }
    assert_eq!(ran.stdout, "", "{}", ran.line);
    println!("{code}  {line}");
}

/// What a refused command must not change.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    catalog: Vec<String>,
    snapshots: Vec<String>,
}

impl Traces {
    #[track_caller]
    fn of(site: &Site) -> Self {
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name <> 'psql' \
                        AND backend_type = 'client backend'";
        if site.cluster.is_running() {
            wait_for("the session of the refused command to end", Duration::from_secs(10), || {
                (site.cluster.sql(sessions) == "0").then_some(())
            });
        }
        // PostgreSQL archives in the meantime what the load before has written.
        let catalog = site.objects("").into_iter().filter(|key| !key.starts_with("wals/")).collect();
        Self { catalog, snapshots: site.snapshots() }
    }
}

/// Runs `backup` with options that cannot work.
#[track_caller]
fn refused_backup(site: &Site, rest: &[&str], code: i32, words: &[&str]) {
    let before = Traces::of(site);
    refused(&site.run("backup", &[&["--immediate-checkpoint"], rest].concat()), code, words);
    assert_eq!(Traces::of(site), before, "something was left behind");
}

fn small(kind: Kind) -> Option<Site> {
    let start = || Site::plan(&Installation::newest()?, kind).on_one_volume().start();
    match start() {
        Ok(site) => Some(site),
        Err(missing) => {
            missing.report();
            None
        }
    }
}

#[test]
fn connections_that_cannot_be_made() {
    let Some(site) = small(Kind::Btrfs) else { return };
    refused_backup(&site, &["-d", "host=/nowhere nonsense=1"], 3, &["nonsense"]);
    refused_backup(&site, &["-d", "host='/nowhere"], 3, &["unterminated quoted value"]);
    refused_backup(&site, &["-h", "/nowhere"], 2, &["/nowhere", "is the server running"]);
    refused_backup(&site, &["-p", "1"], 2, &[".s.PGSQL.1", "is the server running"]);
    refused_backup(&site, &["-p", "many"], 3, &["many"]);
    refused_backup(&site, &["-h", "127.0.0.1", "-p", "1"], 2, &["127.0.0.1", "connection refused"]);
    refused_backup(&site, &["-d", "nosuchdb"], 1, &["nosuchdb"]);
    refused_backup(&site, &["-U", "nosuchrole"], 1, &["nosuchrole"]);
    site.cluster.sql("CREATE ROLE weak LOGIN");
    refused_backup(&site, &["-U", "weak"], 1, &["GRANT", "pg_backup_start", "weak"]);
    site.cluster.stop(Stop::Fast);
    refused_backup(&site, &[], 2, &["no such socket", "is the server running"]);
}

#[test]
fn disks_that_do_not_hold_the_cluster() {
    let installation = need!(Installation::newest());
    let site = need!(Site::plan(&installation, Kind::Btrfs).start());
    let disk = |name: &str| site.fs().path().join(name).display().to_string();
    refused_backup(&site, &["--snapshot-disk", "/dev/nosuch"], 1, &["/dev/nosuch", "no such disk"]);
    refused_backup(&site, &["--snapshot-disk", "sdb"], 1, &["sdb", "no such disk"]);
    let (hot, main, wal) = (disk("hot"), disk("main"), disk("wal"));
    // Not the data directory; and all but one tablespace.
    let data = site.cluster.data().display().to_string();
    refused_backup(&site, &["--snapshot-disk", &hot], 1, &[&data, "--snapshot-disk"]);
    let three = ["--snapshot-disk", &hot, "--snapshot-disk", &main, "--snapshot-disk", &wal];
    refused_backup(&site, &three, 1, &["cold", "--snapshot-disk"]);
    refused_backup(&site, &["--snapshot-provider", "aws"], 1, &["EC2", "--snapshot-instance"]);
    refused_backup(&site, &["--snapshot-method", "zfs"], 1, &["zfs"]);
}

#[test]
fn a_copy_that_does_not_fit() {
    let installation = need!(Installation::newest());
    let plan = Site::plan(&installation, Kind::Ext4).on_one_volume().size_mib(260).segment_mib(1);
    let site = need!(plan.setting("max_wal_size", "32MB").setting("min_wal_size", "2MB").start());
    site.cluster
        .sql("CREATE TABLE big AS SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 80000) i; CHECKPOINT");
    refused_backup(&site, &[], 1, &["not enough space", "MiB needed", "MiB free", "--snapshot-directory"]);
}

#[test]
fn space_that_runs_out_while_it_is_copied() {
    let installation = need!(Installation::newest());
    // The server itself has to survive it, so its WAL lies elsewhere.
    let site = need!(Site::plan(&installation, Kind::Ext4).with_wal_elsewhere().size_mib(1000).start());
    site.cluster.sql(
        "CREATE UNLOGGED TABLE big AS SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 300000) i; \
         ALTER TABLE big SET LOGGED; CHECKPOINT",
    );
    let before = Traces::of(&site);
    let mut command = site.snap.command(site.args("backup", &["--immediate-checkpoint"]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("barman-snap can be run");
    wait_for("the first copied file", Duration::from_secs(20), || (!site.snapshots().is_empty()).then_some(()));
    // Somebody else takes the space when the check has passed: nearly all at once, then what is left.
    let hog = site.fs().path().join("hog");
    let script =
        "fallocate -l $(( ($(stat -f -c %f .) - 2000) * $(stat -f -c %S .) )) hog; dd if=/dev/zero bs=64k >>hog";
    let taken = Command::new("sh").args(["-c", script]).current_dir(site.fs().path()).output();
    let output = child.wait_with_output().expect("the child is ours");
    std::fs::remove_file(&hog).expect("the file was made");
    assert!(!taken.expect("sh runs").status.success(), "the space did not run out");
    let ran = Ran {
        line: "backup".to_owned(),
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    // Whether the copy sees in time that little is left, or some file or directory finds no space, is chance.
    refused(&ran, 1, &["snapshot"]);
    assert!(["No space left", "less than 32 MiB free"].iter().any(|said| ran.stderr.contains(said)), "{}", ran.stderr);
    let after = Traces::of(&site);
    assert_eq!(after.snapshots, before.snapshots);
    assert_eq!(site.objects("base"), Vec::<String>::new());
    assert_eq!(site.ok("gc", &[]).text(), "nothing to remove");
    site.backup(&[]);
}

#[test]
fn a_catalog_that_cannot_be_written_or_reached() {
    let Some(site) = small(Kind::Btrfs) else { return };
    let catalog = Path::new(&site.url);
    run(Command::new("chmod").arg("0500").arg(catalog));
    refused_backup(&site, &[], 1, &[&site.url, "ermission denied"]);
    let inside = site.cluster.data().join("catalog").display().to_string();
    let arguments = ["backup", &inside, SERVER, "--immediate-checkpoint"];
    refused(&site.snap.run(arguments), 1, &[&inside, "lies inside", &site.cluster.data().display().to_string()]);
    let link = site.place().join("link");
    std::os::unix::fs::symlink("/nowhere/at/all", &link).expect("a link can be made");
    let link = link.display().to_string();
    for command in ["backup", "check"] {
        let (ran, time) = timed(|| site.snap.run([command, &link, SERVER]));
        assert!(time < Duration::from_secs(20), "{command}: {time:?}");
        let said = ran.stdout.clone() + &ran.stderr;
        assert!(ran.code() == 1 && said.contains("is a link to /nowhere/at/all"), "{}\n{said}", ran.line);
    }
    let locked = site.place().join("locked");
    user::make_dir(&locked);
    run(Command::new("chmod").arg("0000").arg(&locked));
    let locked = locked.display().to_string();
    refused(&site.snap.run(["list", &locked, SERVER]), 1, &[&locked]);

    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let away = |command: &str, rest: &[&str]| {
        let mut arguments = vec![command, "s3://bucket/catalog", SERVER];
        arguments.extend_from_slice(rest);
        arguments.extend_from_slice(&["--endpoint-url", &endpoint]);
        let mut process = site.snap.command(arguments);
        let env = [("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x"), ("AWS_REGION", "eu-west-1")];
        process.envs(env).env("AWS_ALLOW_HTTP", "true");
        let (ran, time) = timed(|| barman_snap_tests::command::attempt(&mut process));
        assert!(time < Duration::from_secs(60), "{}: {time:?} until the error", ran.line);
        ran
    };
    let before = Traces::of(&site);
    refused(&away("backup", &[]), 2, &[&endpoint]);
    refused(&away("list", &[]), 2, &[&endpoint]);
    let destination = site.place().join("segment").display().to_string();
    refused(&away("wal-restore", &["000000010000000000000001", &destination]), 2, &[&endpoint]);
    assert_eq!(Traces::of(&site), before);
    assert!(!Path::new(&destination).exists());
}

#[test]
fn garbage_beside_good_backups_hides_nothing() {
    let Some(site) = small(Kind::Btrfs) else { return };
    let good = site.backup(&[]);
    let bad = "20200101T000000";
    let path = site.object(&format!("base/{bad}/backup.info"));
    user::make_dir(path.parent().expect("it has a directory"));
    std::fs::write(&path, "this is no metadata\n\u{0}\u{1}").expect("the file is written");
    user::give(&path);

    let ran = site.ok("list", &[]);
    assert!(ran.stdout.contains(&good) && ran.stdout.contains("UNREADABLE"), "{}", ran.stdout);
    assert!(ran.stderr.starts_with("warning: ") && ran.stderr.contains(bad), "{}", ran.stderr);
    assert_eq!(site.listed(), [good.as_str()]);
    assert_eq!(site.json("list", &[])["unreadable"][0]["backup_id"], bad);
    refused(&site.run("show", &[bad]), 4, &[bad]);
    assert_eq!(site.show("last")["backup_id"], good);
    // Whose snapshots the bad one names is not known, so none is touched; and the next backup does not mind.
    site.ok("gc", &["--apply"]);
    let next = site.backup(&[]);
    assert_eq!(site.listed(), [good.as_str(), next.as_str()]);

    // Which one is taken is said, on stderr and in JSON; and which one is the last is not guessed.
    let to = site.place().join("restored").display().to_string();
    let ran = site.ok("restore", &["last", &to, "--dry-run"]);
    assert!(ran.stdout.contains(&format!("backup {next}: the newest complete one")), "{}", ran.stdout);
    let plan = site.json("restore", &["first", &to, "--dry-run"]);
    assert_eq!(plan["chosen"]["backup_id"], good.as_str());
    assert_eq!(plan["chosen"]["passed_over"][0]["backup_id"], bad);
    let info = site.object(&format!("base/{next}/backup.info"));
    let sound = std::fs::read(&info).expect("it can be read");
    std::fs::write(&info, "this is no metadata").expect("the file is written");
    refused(&site.run("restore", &["last", &to]), 4, &[&next, "which is newer than", &good]);
    refused(&site.run("verify", &["last"]), 4, &[&next, &good]);
    std::fs::write(&info, sound).expect("the file is written");
    let ran = site.ok("restore", &["last", &to, "--target-immediate"]);
    assert!(ran.stderr.contains(&format!("backup {next}: the newest complete one\n")), "{}", ran.stderr);
}

#[test]
fn names_and_options_that_make_no_sense() {
    let Some(site) = small(Kind::Btrfs) else { return };
    let before = Traces::of(&site);
    let run = |args: &[&str]| site.snap.run(args);
    let url = site.url.as_str();
    for name in ["../other", "a/b", "..", ""] {
        refused(&run(&["backup", url, name]), 3, &["server name", &format!("{name:?}")]);
    }
    refused(&run(&["list", "ftp://host/path", SERVER]), 3, &["ftp://host/path"]);
    refused(&run(&["show", url, SERVER, "20260101T000000"]), 1, &["20260101T000000"]);
    refused(&run(&["show", url, SERVER, "nosuchname"]), 1, &["nosuchname"]);
    refused(&run(&["show", url, SERVER, "last"]), 1, &["no complete backup"]);
    refused(&run(&["backup", url, SERVER, "--name", "last"]), 3, &["\"last\""]);
    refused(&run(&["delete", url, SERVER, "--retention-policy", "KEEP ALL"]), 3, &["KEEP ALL"]);
    // These are clap's: several lines, with the usage.
    for args in [
        ["frobnicate", url, SERVER].as_slice(),
        &["backup", url],
        &["backup", url, SERVER, "--frobnicate"],
        &["backup", url, SERVER, "--tag", "novalue"],
        &["backup", url, SERVER, "--wal-timeout", "soon"],
        &["restore", url, SERVER, "last", "/x", "--target-time", "now", "--target-lsn", "0/1"],
        &["delete", url, SERVER],
    ] {
        let ran = site.snap.run(args);
        assert_eq!(ran.code(), 3, "{}", ran.line);
        assert!(ran.stderr.starts_with("error: ") && ran.stdout.is_empty(), "{}", ran.stderr);
    }
    assert_eq!(Traces::of(&site), before);
}

#[test]
fn restores_that_would_do_harm_or_cannot_work() {
    let installation = need!(Installation::newest());
    let site = need!(Site::plan(&installation, Kind::Btrfs).start());
    let cluster = &site.cluster;
    let before_all = cluster.sql("SELECT clock_timestamp()");
    let id = site.backup(&[]);
    cluster.archive_wal();
    let traces = Traces::of(&site);
    let target = site.fs().path().join("restored");
    let to = target.display().to_string();
    let relocation = site.relocation(&target);
    let relocation: Vec<&str> = relocation.iter().map(String::as_str).collect();
    let restore =
        |target: &str, rest: &[&str]| site.run("restore", &[&[&id, target], relocation.as_slice(), rest].concat());

    let data = cluster.data().display().to_string();
    let inside = cluster.data().join("base/new").display().to_string();
    refused(&restore(&inside, &[]), 1, &[&inside, "lies inside the data directory"]);
    let catalog = Path::new(&site.url).join(SERVER).join("new").display().to_string();
    refused(&restore(&catalog, &[]), 1, &[&catalog, "lies inside the catalog"]);
    let folder = |path: &Path| path.display().to_string();
    for work_dir in [folder(&cluster.data().join("base")), folder(&Path::new(&site.url).join(SERVER))] {
        let bin = folder(installation.bin());
        let ran = site.run("verify", &[&id, "--work-dir", &work_dir, "--pg-bin-dir", &bin]);
        refused(&ran, 1, &[&work_dir, "outside of any cluster"]);
    }
    refused(&restore(&data, &[]), 1, &[&data, "is not empty", "--in-place"]);
    refused(&restore(&to, &["--target-time", &before_all]), 3, &["before the end of backup", &id]);
    refused(&restore(&to, &["--target-time", "2099-01-01 00:00:00+00"]), 3, &["2099-01-01", "in the future"]);
    refused(&restore(&to, &["--target-time", "tomorrow"]), 3, &["tomorrow"]);
    refused(&restore(&to, &["--target-lsn", "0/1"]), 3, &["0/1", "before the end of backup"]);
    refused(&restore(&to, &["--target-lsn", "FF/0"]), 3, &["FF/0", "beyond the archive"]);
    refused(&restore(&to, &["--target-lsn", "here"]), 3, &["here"]);
    refused(&restore(&to, &["--target-tli", "7"]), 3, &["timeline 7"]);
    refused(&site.run("restore", &["20200101T000000", &to]), 1, &["20200101T000000"]);
    refused(&site.run("restore", &["nosuchname", &to]), 1, &["nosuchname"]);
    refused(&site.run("restore", &[&id, &to]), 1, &["tablespace", "not empty", "--tablespace"]);
    let one = target.with_extension("one").display().to_string();
    let same = ["--tablespace", &format!("hot:{one}"), "--tablespace", &format!("cold:{one}")];
    refused(&site.run("restore", &[&[id.as_str(), to.as_str()], same.as_slice()].concat()), 3, &["hot", "cold", &one]);
    refused(&restore(&to, &["--tablespace", "nosuch:/x"]), 3, &["nosuch"]);
    refused(&restore(&data, &["--in-place"]), 1, &[&data, "a server is running"]);

    let foreign = Cluster::builder(&installation).start();
    foreign.stop(Stop::Fast);
    let other = foreign.data().display().to_string();
    refused(&restore(&other, &["--in-place"]), 1, &[&other, "another cluster", "system identifier"]);
    foreign.start();
    let no_cluster = site.fs().volume("papers");
    std::fs::write(no_cluster.join("letter"), "dear").expect("the file is written");
    let no_cluster = no_cluster.display().to_string();
    refused(&restore(&no_cluster, &["--in-place"]), 1, &[&no_cluster, "not a PostgreSQL data directory"]);
    assert!(!target.exists() && !Path::new(&one).exists());
    assert_eq!(Traces::of(&site), traces);

    let wrong = ["--pg-bin-dir", "/usr/bin"];
    refused(
        &site.run("verify", &[&[id.as_str()], wrong.as_slice()].concat()),
        1,
        &[&format!("no PostgreSQL {} found", installation.version()), "/usr/bin", "--pg-bin-dir"],
    );
    assert_eq!(Traces::of(&site), traces);
}

#[test]
fn a_clock_that_goes_backwards_is_noticed_and_the_same_second_is_no_trouble() {
    let Some(site) = small(Kind::Btrfs) else { return };
    let arguments = site.args("backup", &["--immediate-checkpoint"]);
    let children: Vec<_> = (0..3)
        .map(|_| {
            let mut command = site.snap.command(&arguments);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run")
        })
        .collect();
    let mut ids: Vec<String> = children
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().expect("the child is ours");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        })
        .collect();
    ids.sort();
    assert_eq!(site.listed(), ids);
    ids.dedup();
    assert_eq!(ids.len(), 3, "two backups have one id");

    // A backup that another host, or this one yesterday, has made tomorrow.
    let from = site.object(&format!("base/{}/backup.info", ids[0]));
    let info = std::fs::read_to_string(&from).expect("it can be read");
    let year = info.lines().find_map(|line| line.strip_prefix("begin_time=")).expect("it has a begin")[..4].to_owned();
    let future = "20990101T000000";
    let to = site.object(&format!("base/{future}/backup.info"));
    user::make_dir(to.parent().expect("it has a directory"));
    std::fs::write(&to, info.replace(&format!("_time={year}"), "_time=2099")).expect("it can be written");
    user::give(&to);
    refused_backup(&site, &[], 1, &[future, "in the future of this host's clock", "one of the clocks is wrong"]);
}

fn segment(site: &Site, name: &str, content: &[u8]) -> PathBuf {
    let path = site.place().join(name);
    std::fs::write(&path, content).expect("the file is written");
    user::give(&path);
    path
}

#[test]
fn wal_that_is_missing_wrong_or_of_somebody_else() {
    let Some(site) = small(Kind::Btrfs) else { return };
    site.backup(&[]);
    site.cluster.archive_wal();
    let key = site.objects("wals").into_iter().find(|key| !key.contains(".backup")).expect("a segment is archived");
    let name = key.rsplit('/').next().expect("a name").to_owned();
    let before = Traces::of(&site);
    let destination = site.place().join("RECOVERYXLOG");
    let to = destination.display().to_string();
    refused(&site.run("wal-restore", &["00000001000000FF000000FF", &to]), 1, &["00000001000000FF000000FF"]);
    refused(&site.run("wal-restore", &["00000002.history", &to]), 1, &["00000002.history"]);
    refused(&site.run("wal-restore", &["../../etc/passwd", &to]), 3, &["../../etc/passwd"]);
    refused(&site.run("wal-restore", &[&name, "/nowhere/RECOVERYXLOG"]), 4, &["/nowhere"]);
    assert!(!destination.exists());

    let archive = |path: &Path| site.run("wal-archive", &[&path.display().to_string()]);
    refused(&archive(&segment(&site, "notes.txt", b"x")), 3, &["notes.txt"]);
    refused(&archive(&site.place().join(&name)), 1, &[&name]);
    let good = std::fs::read(site.object(&key)).expect("the segment can be read");
    let mut other = good.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    refused(&archive(&segment(&site, &name, &other)), 1, &[&name, "other content"]);
    refused(&archive(&segment(&site, &name, &good[..good.len() / 2])), 4, &[&name]);
    refused(&archive(&segment(&site, &name, b"not a segment")), 4, &[&name]);
    // The same content again is success: PostgreSQL asks again after a crash.
    site.ok("wal-archive", &[&segment(&site, &name, &good).display().to_string()]);

    // Another cluster that archives under the same server name.
    let foreign = Cluster::builder(site.cluster.installation()).start();
    foreign.stop(Stop::Fast);
    let wal = foreign.data().join("pg_wal").join(&name);
    let bytes = std::fs::read(&wal).unwrap_or_else(|_| {
        let any = std::fs::read_dir(foreign.data().join("pg_wal")).expect("it has WAL").flatten();
        let first = any.map(|entry| entry.path()).find(|path| path.is_file()).expect("it has a segment");
        std::fs::read(first).expect("it can be read")
    });
    refused(&archive(&segment(&site, &name, &bytes)), 1, &["is the cluster", "--new-system-id"]);
    foreign.start();
    assert_eq!(Traces::of(&site), before);
}

#[test]
fn what_is_kept_or_needed_is_not_deleted() {
    let Some(site) = small(Kind::Btrfs) else { return };
    let (kept, other) = (site.backup(&[]), site.backup(&[]));
    site.ok("keep", &[&kept, "--target", "standalone"]);
    let before = Traces::of(&site);
    refused(&site.run("delete", &["--backup-id", &kept]), 1, &[&kept, "is kept", "keep --release"]);
    refused(
        &site.run("delete", &["--backup-id", &other, "--minimum-redundancy", "2"]),
        1,
        &["minimum redundancy is 2"],
    );
    refused(&site.run("delete", &["--backup-id", "20200101T000000"]), 1, &["20200101T000000"]);
    for policy in ["REDUNDANCY 0", "RECOVERY WINDOW OF 0 WEEKS"] {
        refused(&site.run("delete", &["-r", policy, "-m", "1"]), 3, &["keeps nothing"]);
    }
    let nowhere = site.place().join("nowhere").display().to_string();
    refused(&site.snap.run(["delete", &nowhere, SERVER, "-r", "REDUNDANCY 1"]), 1, &[&nowhere, "mounted"]);
    let ran = site.snap.run(["list", &nowhere, SERVER]).expect_success();
    assert!(ran.stderr.contains("there is no directory") && ran.stderr.contains("no backups"), "{}", ran.stderr);
    refused(&site.run("keep", &["20200101T000000", "--target", "full"]), 1, &["20200101T000000"]);
    assert_eq!(Traces::of(&site), before);
    site.ok("delete", &["--backup-id", &other]);
    assert_eq!(site.listed(), [kept]);
}

/// Sends SIGINT when `when` is true, and says how the backup ended and how long after.
#[track_caller]
fn interrupted(site: &Site, rest: &[&str], when: impl Fn() -> bool) {
    let mut command = site.snap.command(site.args("backup", rest));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("barman-snap can be run");
    wait_for("the moment to interrupt", Duration::from_secs(20), || when().then_some(()));
    run(Command::new("kill").args(["-INT", &child.id().to_string()]));
    let (output, time) = timed(|| child.wait_with_output().expect("the child is ours"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(output.stdout.is_empty());
    let errors: Vec<&str> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(errors.len() == 1 && errors[0].contains("cancelled"), "{stderr}");
    assert!(time < Duration::from_secs(10), "{time:?} until it gave way");
    assert_eq!(site.objects("base"), Vec::<String>::new());
    assert_eq!(Traces::of(site).snapshots, Vec::<String>::new());
    assert_eq!(site.ok("recover", &[]).text(), "nothing to recover");
    assert_eq!(site.ok("gc", &[]).text(), "nothing to remove");
}

#[test]
fn an_interrupt_leaves_a_clean_slate_whenever_it_comes() {
    let installation = need!(Installation::newest());
    let site = need!(Site::plan(&installation, Kind::Ext4).start());
    fill(&site.cluster, 30);
    let starting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_backup_start%' AND state = 'active' \
                    AND pid <> pg_backend_pid()";
    // During the checkpoint that is spread over minutes; during the copy.
    interrupted(&site, &[], || site.cluster.sql(starting) == "1");
    site.cluster.sql("CHECKPOINT");
    interrupted(&site, &["--immediate-checkpoint"], || site.snapshots().iter().any(|name| !name.ends_with(".json")));
    let id = site.backup(&[]);
    let restored = site.restore(&id, "after", &["--target-immediate"]);
    wait_until_promoted(&restored);
}
