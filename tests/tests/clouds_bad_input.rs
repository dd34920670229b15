//! What a person can get wrong in a cloud, and what the cloud can refuse: each gives one clear line on stderr that names the
//! value that mattered and what to do, the documented exit code, and leaves nothing behind: no snapshot, no session in the
//! journal, no server in backup mode.
//!
//! The machine itself is the subject of `bad_input.rs`. One server for each cloud; every line is printed.
#![allow(clippy::print_stdout, reason = "the messages are shown to whoever runs the test with --no-capture")]

use std::time::Duration;

use barman_snap_tests::cloud::{Cloud, CloudSite, DATA_DISK, INSTANCE, TS_DISK, Thing};
use barman_snap_tests::command::Ran;
use barman_snap_tests::own_dev;
use barman_snap_tests::pg::Installation;
use barman_snap_tests::wait::wait_for;
use serde_json::{Value, json};

/// Options of `backup` that cannot work.
struct Case<'a> {
    /// What is wrong, for whoever reads the output.
    what: &'a str,
    options: &'a [&'a str],
    code: i32,
    /// What the line has to hold.
    words: &'a [&'a str],
}

const fn case<'a>(what: &'a str, options: &'a [&'a str], code: i32, words: &'a [&'a str]) -> Case<'a> {
    Case { what, options, code, words }
}

const DISKS: [&str; 4] = ["--snapshot-disk", DATA_DISK, "--snapshot-disk", TS_DISK];

/// What clap refuses has the usage behind it.
fn one_line(ran: &Ran) -> Result<String, String> {
    let lines: Vec<&str> = ran.stderr.lines().collect();
    match lines.as_slice() {
        [line] => Ok((*line).to_owned()),
        [.., last] if last.starts_with("For more information, try") => Ok(lines.join(" ")),
        _ => Err(format!("not one line: {}", ran.stderr)),
    }
}

/// One line that begins with `error:` and has all the words, this exit code, and nothing on stdout.
fn is_refusal(ran: &Ran, code: i32, words: &[&str]) -> Result<(), String> {
    let line = one_line(ran)?;
    if ran.code() != code {
        return Err(format!("exit code {} and not {code}", ran.code()));
    }
    if !line.starts_with("error: ") || !ran.stdout.is_empty() {
        return Err(format!("no error, or more than that: {}", ran.stdout));
    }
    match words.iter().find(|word| !line.contains(**word)) {
        Some(word) => Err(format!("{word:?} is not in it")),
        None => Ok(()),
    }
}

/// What a refused command must not change: disks and snapshots.
type Traces = (Vec<String>, Vec<String>);

/// A site whose commands are refused. All cases are tried before the test fails by what was wrong with them.
struct Refusals {
    site: CloudSite,
    wrong: Vec<String>,
}

impl Refusals {
    fn start(cloud: Cloud) -> Option<Self> {
        match Installation::of(17).and_then(|one| CloudSite::plan(cloud, &one).start()) {
            Ok(site) => Some(Self { site, wrong: Vec::new() }),
            Err(missing) => {
                missing.report();
                None
            }
        }
    }

    /// No session of ours is left in PostgreSQL, so it is not in backup mode.
    #[track_caller]
    fn traces(&self) -> Traces {
        let sessions = "SELECT count(*) FROM pg_stat_activity \
                        WHERE application_name <> 'psql' AND backend_type = 'client backend'";
        wait_for("the session of the refused command to end", Duration::from_secs(10), || {
            (self.site.cluster.sql(sessions) == "0").then_some(())
        });
        (self.site.disks(), self.site.snapshots())
    }

    /// Tries something that has to be refused.
    #[track_caller]
    fn try_out(&mut self, what: &str, code: i32, words: &[&str], run: impl FnOnce(&CloudSite) -> Ran) {
        let before = self.traces();
        let ran = run(&self.site);
        println!("{what}\n  {}  {}", ran.code(), ran.stderr.trim_end());
        if let Err(why) = is_refusal(&ran, code, words) {
            println!("  WRONG: {why}");
            self.wrong.push(format!("{what}: {why}"));
        }
        if self.traces() != before {
            self.wrong.push(format!("{what}: something was left behind"));
        }
    }

    /// Tries a backup with these options beside those that find the cloud.
    #[track_caller]
    fn backup(&mut self, found_by: &[String], case: &Case<'_>) {
        self.try_out(case.what, case.code, case.words, |site| {
            let mut args = site.args("backup", &[&["--immediate-checkpoint"], case.options].concat());
            args.extend_from_slice(found_by);
            site.snap.run(args)
        });
    }

    #[track_caller]
    fn backups(&mut self, cases: &[Case<'_>]) {
        let found_by = self.site.options();
        for case in cases {
            self.backup(&found_by, case);
        }
    }

    /// Tries a backup with another value for one of the options that find the cloud.
    #[track_caller]
    fn backup_at(&mut self, option: &str, value: &str, case: &Case<'_>) {
        let mut found_by = self.site.options();
        match found_by.iter().position(|one| one == option) {
            Some(at) => value.clone_into(&mut found_by[at + 1]),
            None => found_by.extend([option.to_owned(), value.to_owned()]),
        }
        self.backup(&found_by, case);
    }

    /// Tries a backup while the cloud has these settings.
    #[track_caller]
    fn backup_while(&mut self, more: &Value, case: &Case<'_>) {
        self.site.api.settings(&json!({ "more": more }));
        self.backups(std::slice::from_ref(case));
        self.site.api.reset();
    }

    /// The catalog is as at the start, too: no backup, no session that waits for its end, no snapshot that belongs to nobody.
    #[track_caller]
    fn is_clean(&self) {
        assert_eq!(self.site.json("list", &[])["backups_list"], json!([]));
        assert_eq!(self.site.ok_in_cloud("recover", &[]).text(), "nothing to recover");
        assert_eq!(self.site.ok_in_cloud("gc", &[]).text(), "nothing to remove");
    }

    #[track_caller]
    fn end(self) {
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
    }
}

/// What is wrong with the names of machines and disks, in any cloud. `root` is the disk that the machine boots from.
fn names_that_are_wrong(refusals: &mut Refusals, root: &str) {
    let api = &refusals.site.api;
    api.create_instance("other", &json!({}));
    for disk in ["loose", "elsewhere", "unmounted"] {
        api.create_disk(disk, 1, &json!({}));
    }
    api.attach("other", "elsewhere");
    api.attach(INSTANCE, "unmounted");
    let instance = ["--snapshot-instance", INSTANCE];
    let with = |disk: &'static str| -> Vec<&str> { [&instance, DISKS.as_slice(), &["--snapshot-disk", disk]].concat() };
    let nobody = [&["--snapshot-instance", "nobody"], DISKS.as_slice()].concat();
    let root_too = [&instance, DISKS.as_slice(), &["--snapshot-disk", root]].concat();
    let half = [&instance, ["--snapshot-disk", DATA_DISK].as_slice()].concat();
    refusals.backups(&[
        case("unknown instance", &nobody, 1, &["nobody"]),
        case("unknown disk", &with("nosuch"), 1, &["nosuch"]),
        case("disk attached to another instance", &with("elsewhere"), 1, &["elsewhere", "other"]),
        case("disk attached to nothing", &with("loose"), 1, &["loose"]),
        case("disk that is not mounted", &with("unmounted"), 1, &["unmounted", "not mounted", "--snapshot-disk"]),
        case("disk that the machine boots from", &root_too, 1, &[root]),
        case("the disk of the tablespace is missing", &half, 1, &["tablespace", "--snapshot-disk"]),
    ]);
}

/// What is wrong with the rest of the request, in any cloud.
fn requests_that_are_wrong(refusals: &mut Refusals) {
    let long = "x".repeat(1000);
    let instance = ["--snapshot-instance", INSTANCE];
    let name = [&instance, ["--name", &long].as_slice()].concat();
    let timed = [&instance, ["--name", "20260101T000000"].as_slice()].concat();
    let key = format!("{long},value");
    let tag = [&instance, ["--tag", &key].as_slice()].concat();
    let twice = [&instance, ["--tag", "a,1", "--tag", "a,2"].as_slice()].concat();
    let many: Vec<String> = (0..70).flat_map(|count| ["--tag".to_owned(), format!("k{count},v")]).collect();
    let many: Vec<&str> = instance.into_iter().chain(many.iter().map(String::as_str)).collect();
    refusals.backups(&[
        case("name of a backup too long", &name, 3, &["255 characters"]),
        case("name that looks like an id", &timed, 3, &["20260101T000000"]),
        case("key of a tag too long", &tag, 3, &["xxx"]),
        case("tag without a value", &["--tag", "novalue"], 3, &["KEY,VALUE"]),
        case("tag given twice", &twice, 3, &["twice", "\"a\""]),
        case("too many tags", &many, 3, &["70"]),
    ]);
}

#[test]
fn aws_is_asked_for_what_cannot_be() {
    own_dev!();
    let Some(mut refusals) = Refusals::start(Cloud::Aws) else { return };
    let is_root = |disk: &Thing| disk.name.is_empty();
    let root = refusals.site.api.world().disks.into_iter().find(is_root).expect("machines have one").id;
    names_that_are_wrong(&mut refusals, &root);
    requests_that_are_wrong(&mut refusals);
    let both = [&["--snapshot-instance", INSTANCE], DISKS.as_slice()].concat();
    let and = |more: &[&'static str]| -> Vec<&str> { both.iter().chain(more).copied().collect() };
    let (mode, days) = ("--aws-snapshot-lock-mode", "--aws-snapshot-lock-duration");
    let (cool, date) = ("--aws-snapshot-lock-cool-off-period", "--aws-snapshot-lock-expiration-date");
    let future = "2099-01-01T00:00:00.000Z";
    refusals.backups(&[
        case("key of a tag that AWS keeps to itself", &and(&["--tag", "AWS:x,y"]), 3, &["AWS:x", "aws:"]),
        case("cool-off in governance mode", &and(&[mode, "governance", days, "1", cool, "1"]), 3, &[cool]),
        case("duration and date", &and(&[mode, "governance", days, "1", date, future]), 3, &[days, date]),
        case("duration without a mode", &and(&[days, "1"]), 3, &[mode]),
        case("mode without an end", &and(&[mode, "governance"]), 3, &[days, date]),
        case("unknown mode", &and(&[mode, "eternal", days, "1"]), 3, &["eternal", "governance", "compliance"]),
        case("duration out of range", &and(&[mode, "governance", days, "36501"]), 3, &["36501", "36500"]),
        case("date without fraction", &and(&[mode, "governance", date, "2099-01-01T00:00:00Z"]), 3, &["2099", ".000Z"]),
        case("date that has passed", &and(&[mode, "governance", date, "2020-01-01T00:00:00.000Z"]), 3, &["2020"]),
        case("key for copies that nobody wants", &and(&["--aws-copy-kms-key-id", "k"]), 3, &["--aws-copy-to"]),
    ]);
    refusals.backup_at(
        "--aws-region",
        "eu-west-1",
        &case("wrong region", &both, 1, &[INSTANCE, "eu-west-1", "--aws-region"]),
    );
    refusals.backup_while(&json!({"token": "expired"}), &case("expired credentials", &both, 1, &["expired"]));
    refusals.backup_while(&json!({"snapshot_quota": 1}), &case("quota", &both, 1, &["quota", "delete"]));
    refusals.site.api.create_instance(INSTANCE, &json!({}));
    refusals.backups(&[case("two instances of that name", &both, 3, &["several", INSTANCE, "i-", "id"])]);
    refusals.is_clean();
    refusals.end();
}

#[test]
fn a_locked_snapshot_of_aws_is_not_deleted() {
    own_dev!();
    let Some(mut refusals) = Refusals::start(Cloud::Aws) else { return };
    let lock = ["--aws-snapshot-lock-mode", "governance", "--aws-snapshot-lock-duration", "1"];
    let id = refusals.site.backup(&[DISKS.as_slice(), &lock].concat());
    refusals.try_out("delete of a backup that is locked", 1, &[&id, "locked", "until"], |site| {
        site.run_in_cloud("delete", &["--backup-id", &id])
    });
    assert_eq!(refusals.site.json("list", &[])["backups_list"][0]["backup_id"], id);
    refusals.end();
}

#[test]
fn gcp_is_asked_for_what_cannot_be() {
    own_dev!();
    let Some(mut refusals) = Refusals::start(Cloud::Gcp) else { return };
    names_that_are_wrong(&mut refusals, INSTANCE);
    requests_that_are_wrong(&mut refusals);
    let both = [&["--snapshot-instance", INSTANCE], DISKS.as_slice()].concat();
    let and = |more: &[&'static str]| -> Vec<&str> { both.iter().chain(more).copied().collect() };
    refusals.backups(&[
        case("label that is no label", &and(&["--tag", "Owner,The DBAs"]), 3, &["Owner"]),
        case("no consistency group", &and(&["--consistency", "group"]), 1, &["--consistency", "group"]),
        case("unknown type", &and(&["--gcp-snapshot-type", "fast"]), 3, &["fast", "standard", "archive"]),
        case("no credentials and no emulator", &and(&["--gcp-anonymous"]), 3, &["--gcp-endpoint"]),
    ]);
    for (what, option, value, words) in [
        ("wrong zone", "--gcp-zone", "europe-west1-c", ["europe-west1-c", "--gcp-zone"]),
        ("unknown project", "--gcp-project", "nosuch-1", ["nosuch-1", "--gcp-project"]),
    ] {
        refusals.backup_at(option, value, &case(what, &both, 1, &words));
    }
    let expired = case("expired credentials", &both, 1, &["expired", "renew"]);
    refusals.backup_at("--gcp-zone", "x-1-a", &case("no such zone", &both, 3, &["x-1-a", "--gcp-zone"]));
    refusals.backup_while(&json!({"token": "expired"}), &expired);
    refusals.backup_while(&json!({"snapshot_quota": 1}), &case("quota", &both, 1, &["SNAPSHOTS", "quota", "delete"]));
    refusals.is_clean();
    refusals.site.backup(&DISKS);
    refusals.site.api.settings(&json!({"min_interval_ms": 3_600_000}));
    let often = case("more than six snapshots of a disk in an hour", &both, 1, &["pg-", "six times an hour"]);
    refusals.backups(&[often]);
    assert_eq!(refusals.site.ok_in_cloud("gc", &[]).text(), "nothing to remove");
    refusals.end();
}

#[test]
fn azure_is_asked_for_what_cannot_be() {
    own_dev!();
    let Some(mut refusals) = Refusals::start(Cloud::Azure) else { return };
    let is_os = |disk: &Thing| !disk.name.starts_with("pg-");
    let root = refusals
        .site
        .api
        .world()
        .disks
        .into_iter()
        .find(is_os)
        .map_or_else(|| "pg1_OsDisk".to_owned(), |disk| disk.name);
    names_that_are_wrong(&mut refusals, &root);
    requests_that_are_wrong(&mut refusals);
    let both = [&["--snapshot-instance", INSTANCE], DISKS.as_slice()].concat();
    let and = |more: &[&'static str]| -> Vec<&str> { both.iter().chain(more).copied().collect() };
    refusals.backups(&[
        case("key of a tag that Azure does not take", &and(&["--tag", "a<b,c"]), 3, &["a<b"]),
        case("disks cut at once", &and(&["--consistency", "group"]), 1, &["--consistency"]),
        case("unknown storage", &and(&["--azure-snapshot-sku", "Ultra"]), 3, &["Ultra", "Standard_ZRS"]),
        case("unknown credential", &and(&["--azure-credential", "password"]), 3, &["password", "managed-identity"]),
    ]);
    for (what, option, value, words) in [
        ("wrong resource group", "--azure-resource-group", "rg2", ["rg2", "--azure-resource-group"]),
        ("unknown resource group", "--azure-resource-group", "nosuch", ["nosuch", "--azure-resource-group"]),
        ("unknown subscription", "--azure-subscription-id", "0-1", ["0-1", "--azure-subscription-id"]),
    ] {
        refusals.backup_at(option, value, &case(what, &both, 1, &words));
    }
    refusals
        .backup_while(&json!({"token": "expired"}), &case("expired credentials", &both, 1, &["expired", "az login"]));
    refusals.backup_while(&json!({"snapshot_quota": 1}), &case("quota", &both, 1, &["quota", "delete"]));
    refusals.is_clean();
    refusals.end();
}
