//! A `/dev` of its own for a test.
//!
//! Device names are global to a machine: two sets of clouds cannot both have a `/dev/xvdf` or a `lun0`. So a test that
//! attaches disks runs itself once more, in a mount namespace of its own whose `/dev` has only what it needs. All mounts
//! and names of the test vanish with the namespace, also when it is killed.

use std::process::{Command, Stdio};

use crate::user;

const INSIDE: &str = "BARMAN_SNAP_OWN_DEV";

// The new /dev is made aside and then moved: until then the old one is needed. `cp -a` copies nodes as nodes.
const SCRIPT: &str = r#"
place=$(mktemp -d)
mount -t tmpfs -o mode=755 dev "$place"
for name in null zero full random urandom tty ptmx fuse fd stdin stdout stderr loop-control btrfs-control; do
    if [ -e /dev/$name ]; then cp -a /dev/$name "$place"; fi
done
for number in $(seq 0 255); do mknod -m 660 "$place/loop$number" b 7 $number; done
mkdir "$place/pts" "$place/shm"
mount --bind /dev/pts "$place/pts"
mount -t tmpfs -o mode=1777 shm "$place/shm"
mount --move "$place" /dev
rmdir "$place"
exec "$@"
"#;

/// Whether the caller has a `/dev` of its own and shall go on. Else the test has been run in one, and is over; a failure
/// there is a panic here. Use [`own_dev!`](crate::own_dev).
#[track_caller]
pub fn enter(test: &str) -> bool {
    // Without root nothing is attached, and the test is about to say so.
    if std::env::var_os(INSIDE).is_some() || !user::is_root() {
        return true;
    }
    let program = std::env::current_exe().expect("a test knows its program");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", SCRIPT, "sh"]).arg(program);
    command.args(["--exact", test, "--nocapture", "--include-ignored"]).env(INSIDE, "1");
    let done = command.stdin(Stdio::null()).output().expect("unshare is part of util-linux");
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    eprintln!("{out}{err}");
    assert!(done.status.success(), "{test} failed in a /dev of its own, see above");
    // A misspelt name would run nothing and succeed.
    assert!(out.contains("test result: ok. 1 passed"), "there is no test {test}: {out}");
    false
}

/// Gives the test in which it stands a `/dev` of its own. What follows it runs only there.
#[macro_export]
macro_rules! own_dev {
    () => {
        fn here() {}
        let path = std::any::type_name_of_val(&here);
        // `binary::module::test::here`
        let test = path.strip_suffix("::here").and_then(|path| path.split_once("::")).expect("it is a path").1;
        if !$crate::cloud::own_dev::enter(test) {
            return;
        }
    };
}
