//! A provider that restores to devices passes the suites: a cloud of loop devices, with real file systems on them.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests: a panic is a failure, a skip says why")]

mod support_disks;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use barman_snap::clock::{Clock, SystemClock};
use barman_snap::conformance::{self, Fixture};
use barman_snap::host::devices::DeviceHint;
use barman_snap::id::{IdSource, SystemIds, Token};
use barman_snap::provider::{RestoredVolume, SnapshotProvider, Volume};
use support_disks::{Disk, LoopCloud, run, text, why_not};

struct Disks {
    cloud: LoopCloud,
    directory: tempfile::TempDir,
}

impl Disks {
    fn mount_point(&self, volume: &RestoredVolume) -> PathBuf {
        self.directory.path().join("opened").join(&volume.id)
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        self.cloud.demolish();
    }
}

#[async_trait]
impl Fixture for Disks {
    fn provider(&self) -> &dyn SnapshotProvider {
        &self.cloud
    }

    fn later(&self) -> Box<dyn SnapshotProvider> {
        Box::new(self.cloud.clone())
    }

    fn volume_names(&self) -> Vec<String> {
        self.cloud.disks.iter().map(|disk| disk.id.clone()).collect()
    }

    async fn write(&self, volume: &Volume, path: &Path, bytes: &[u8]) {
        let path = volume.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn scratch(&self) -> PathBuf {
        self.directory.path().join("scratch").join(SystemIds.token().as_str())
    }

    async fn open(&self, volume: &RestoredVolume) -> Option<PathBuf> {
        let device = volume.hints.iter().find_map(|hint| match hint {
            DeviceHint::Link(link) if link.exists() => Some(link),
            _ => None,
        });
        let at = self.mount_point(volume);
        std::fs::create_dir_all(&at).unwrap();
        let options = if volume.id.contains("xfs") { "nouuid" } else { "defaults" };
        run(&["mount", "-o", options, text(device.unwrap()), text(&at)]);
        Some(at)
    }

    async fn close(&self, volume: &RestoredVolume) {
        run(&["umount", text(&self.mount_point(volume))]);
    }

    fn token(&self) -> Token {
        SystemIds.token()
    }

    async fn pause(&self) {
        SystemClock::new().sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loop_devices_pass() {
    if let Some(why) = why_not() {
        return eprintln!("skipped: {why}");
    }
    for fs_type in ["ext4", "xfs"] {
        let directory = tempfile::Builder::new().prefix("barman-snap-disks-").tempdir_in("/var/tmp").unwrap();
        let disk = |name: &str| {
            let id = format!("{fs_type}-{name}");
            Disk::new(&id, fs_type, directory.path(), &directory.path().join("mounted").join(name))
        };
        let disks = vec![disk("a"), disk("b")];
        let fixture = Disks { cloud: LoopCloud::new(&directory.path().join("cloud"), disks), directory };
        let report = conformance::run(&fixture).await;
        let about_directories = [
            "a_subtree_is_restored_without_what_is_excluded",
            "a_directory_that_is_not_empty_is_refused_and_untouched",
        ];
        assert_eq!(report.skipped().iter().map(|(name, _)| *name).collect::<Vec<_>>(), about_directories, "{report}");
        assert_eq!(fixture.cloud.volumes_left(), [""; 0]);
    }
}
