//! Time in backup mode with many disks of a cloud, against `barman-cloud-backup`.
//!
//! The clouds are the fakes of `tests/clouds`, with real bytes: a snapshot is cut one second after it was asked for, and
//! has been copied away twenty seconds later. What is measured is therefore not how fast a cloud is, but what of its time
//! a backup spends in backup mode, and how that grows with the number of disks. Ours should be the cut of the slowest disk.
//! The time is that between the `begin_time` and the `end_time` of `backup.info`, which both programs take from the server.
//!
//! On Azure the total of the stock tool is shorter, because it does not wait until a snapshot has been copied away: a backup
//! of its that is DONE may still be lost with its disks.

use std::process::Command;
use std::time::Duration;

use barman_snap_tests::cli::BarmanSnap;
use barman_snap_tests::cloud::{Api, Cloud, CloudSet, GuestFs, INSTANCE, Mounted, Peer};
use barman_snap_tests::command::run;
use barman_snap_tests::pg::{Cluster, Installation};
use barman_snap_tests::scratch::Scratch;
use barman_snap_tests::site::SERVER;
use barman_snap_tests::skip::Missing;
use barman_snap_tests::user;
use serde_json::{Value, json};

use crate::measure::measured;
use crate::report::{Report, Series};

/// The subscription of the fake of Azure.
const SUBSCRIPTION: &str = "00000000-1111-2222-3333-444444444444";
/// How many disks a cluster lies on.
const DISKS: [usize; 4] = [1, 4, 16, 32];
/// The stock tool waits for the copies in backup mode, and on some clouds for one after the other: with more it takes long.
const PEER_UP_TO: usize = 4;
/// From the request of a snapshot to its cut.
const CUT_MS: u64 = 1_000;
/// From the cut until the copy is complete.
const READY_MS: u64 = 20_000;

/// Measures all clouds.
pub(crate) fn measure(report: &mut Report, postgres: &Installation, runs: usize) {
    for cloud in [Cloud::Aws, Cloud::Gcp, Cloud::Azure] {
        for disks in DISKS {
            eprintln!("clouds: {} with {disks} disks", cloud.name());
            let machine = match Machine::start(postgres, cloud, disks) {
                Ok(machine) => machine,
                Err(missing) => {
                    eprintln!("skipped: needs {}: {}", missing.need, missing.reason);
                    return;
                }
            };
            let mut ours = Series::of("barman-snap");
            let mut peers = Vec::new();
            for _ in 0..runs {
                machine.our_backup(&mut ours);
            }
            if disks <= PEER_UP_TO
                && let Ok(peer) = Peer::on(&machine.set, cloud)
            {
                let mut theirs = Series::of("barman-cloud-backup");
                for _ in 0..runs {
                    machine.their_backup(&peer, &mut theirs);
                }
                peers.push(theirs);
            }
            let plural = if disks == 1 { "" } else { "s" };
            report.add(format!("backup, {}, {disks} disk{plural}", cloud.name()), ours, peers);
        }
    }
}

/// A server whose data directory and tablespaces lie on a disk each. The fields are dropped in this order.
struct Machine {
    cluster: Cluster,
    snap: BarmanSnap,
    _mounts: Vec<Mounted>,
    api: Api,
    disks: Vec<String>,
    _place: Scratch,
    set: CloudSet,
}

impl Machine {
    fn start(postgres: &Installation, cloud: Cloud, count: usize) -> Result<Self, Missing> {
        let snap = BarmanSnap::found()?;
        let set = CloudSet::start_for_stock(&[cloud])?;
        let api = set.of(cloud).clone();
        let place = Scratch::new();
        api.create_instance(INSTANCE, &json!({}));
        let disks: Vec<String> = (0..count).map(|number| format!("disk-{number}")).collect();
        let mount = |(number, disk): (usize, &String)| {
            api.create_disk(disk, 1, &json!({}));
            let device = api.attach_as(INSTANCE, disk, &device_name(cloud, number)).paths.swap_remove(0);
            run(Command::new("mkfs.ext4").arg("-q").arg(&device));
            let mounted = Mounted::new(GuestFs::Ext4, &device, &place.path().join(disk));
            user::give(mounted.point());
            mounted
        };
        let mounts: Vec<Mounted> = disks.iter().enumerate().map(mount).collect();
        let archive = format!("{} wal-archive {} {SERVER} %p", snap.path().display(), api.catalog());
        let mut builder = Cluster::builder(postgres)
            .data(mounts[0].point().join("data"))
            .env(api.env().to_vec())
            .archive_command(&archive);
        for (number, mounted) in mounts.iter().enumerate().skip(1) {
            builder = builder.tablespace(&format!("space_{number}"), mounted.point().join("ts"));
        }
        let cluster = builder.start();
        api.settings(&json!({"cut_ms": CUT_MS, "ready_ms": READY_MS}));
        let snap = snap.with_env(api.env().to_vec()).for_cluster(&cluster);
        Ok(Self { cluster, snap, _mounts: mounts, api, disks, _place: place, set })
    }

    fn our_backup(&self, series: &mut Series) {
        let mut command = self.snap.command(["backup", "--immediate-checkpoint", "--snapshot-instance", INSTANCE]);
        command.args(["--snapshot-provider", self.api.cloud().name()]).args(options(&self.api));
        self.add(measured(command.args([self.api.catalog(), SERVER])).wall, series);
    }

    fn their_backup(&self, peer: &Peer, series: &mut Series) {
        let mut options = vec!["--immediate-checkpoint", "--snapshot-instance", INSTANCE];
        options.extend(self.disks.iter().flat_map(|disk| ["--snapshot-disk", disk]));
        self.add(measured(peer.command("backup", &options, &[]).envs(self.cluster.env())).wall, series);
    }

    /// Takes in the newest backup.
    fn add(&self, wall: Duration, series: &mut Series) {
        let show = self.snap.run(["show", "--format", "json", self.api.catalog(), SERVER, "last"]).expect_success();
        let shown: Value = serde_json::from_str(&show.stdout).expect("it is JSON");
        let backup = &shown[SERVER];
        let time = |field: &str| backup[field].as_str().expect("the backup is complete");
        let (begin, end) = (time("begin_time_iso"), time("end_time_iso"));
        let mode = self.cluster.sql(&format!("SELECT extract(epoch FROM timestamptz '{end}' - timestamptz '{begin}')"));
        series.wall.push(wall);
        series.backup_mode.push(Duration::from_secs_f64(mode.parse().expect("it is a number of seconds")));
        series
            .cut
            .extend(backup["copy_stats"]["barman_snap"]["timings"]["cut_s"].as_f64().map(Duration::from_secs_f64));
    }
}

/// What our command line has to be told to find the machine.
fn options(api: &Api) -> Vec<String> {
    let words: &[&str] = match api.cloud() {
        Cloud::Aws => &[],
        Cloud::Gcp => &["--gcp-zone", "europe-west1-b"],
        Cloud::Azure => &["--azure-subscription-id", SUBSCRIPTION, "--azure-resource-group", "rg1", "--azure-endpoint"],
    };
    let endpoint = (api.cloud() == Cloud::Azure).then(|| api.endpoint().to_owned());
    words.iter().map(|word| (*word).to_owned()).chain(endpoint).collect()
}

/// The stock tool finds a disk of AWS only when the API calls it as the kernel does.
fn device_name(cloud: Cloud, number: usize) -> Value {
    let letter = |number: usize| char::from(b'a' + u8::try_from(number % 26).unwrap_or(0));
    match cloud {
        // EBS knows /dev/xvdb to /dev/xvdc, each with a second letter.
        Cloud::Aws => json!(format!("/dev/xvd{}{}", letter(1 + number / 26), letter(number))),
        Cloud::Gcp | Cloud::Azure => Value::Null,
    }
}
