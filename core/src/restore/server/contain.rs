//! A private server that can write nowhere but to its own place.
//!
//! What it replays is somebody's WAL, and what it loads may be somebody's library: a `CREATE TABLESPACE`, a link, a `COPY TO` would
//! reach the original beside it. Where we are root it is started in a mount namespace of its own, in which everything else is
//! read-only; the kernel says no, whatever the server does. It runs as another user, and so cannot change that.
//!
//! What is unmounted outside meanwhile is unmounted in there as well, where the mounts of the host are shared, as systemd makes them;
//! elsewhere its device stays busy until the server ends. Therefore not with volumes that this verification has to detach.
//!
//! The invariant: either all of it could be done, which was tried out, or none of it is, and [`Containment::is_on`] says which. `unshare`
//! and `mount` of util-linux do it, in a shell, because what runs between fork and exec in a process with threads cannot be
//! safe Rust.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::binaries::{private, setpriv};
use crate::restore::plan::Owner;

/// `<places> -- <command>`: makes everything but the places read-only, and becomes the command.
///
/// A place stays writable by being a mount of its own, with all that is mounted in it. Shared memory is private: that of the original,
/// which may run as the same user, is out of reach as well. What the kernel makes up is left alone: it is nobody's data, and not
/// everywhere may it be changed.
const READ_ONLY: &str = r#"
places=/dev/shm
while [ "$1" != -- ]; do
    mount --rbind -- "$1" "$1" || exit 97
    places="$places
$1"
    shift
done
shift
mounts=$(cat /proc/self/mountinfo) || exit 97
case $places in
    *"
/dev/shm/"*) ;;
    *) mount -t tmpfs -o mode=1777,nosuid,nodev barman-snap /dev/shm || exit 97 ;;
esac
while read -r _ _ _ _ at _ rest; do
    kind=${rest#*- }
    case ${kind%% *} in
        proc | sysfs | devpts | devtmpfs | mqueue | cgroup | cgroup2 | securityfs | debugfs | tracefs | bpf | pstore | autofs |         binfmt_misc | configfs | efivarfs | fusectl | hugetlbfs | rpc_pipefs | nsfs | selinuxfs) continue ;;
    esac
    at=$(printf '%b.' "$at")
    at=${at%.}
    while IFS= read -r place; do
        case $at in "$place" | "$place"/*) continue 2 ;; esac
    done <<END
$places
END
    # What another mount hides cannot be reached.
    mount -o remount,bind,ro -- "$at" 2>/dev/null || ! mountpoint -q -- "$at" || ! [ -w "$at" ] || exit 97
done <<END
$mounts
END
exec "$@""#;

/// How a private server is kept in.
#[derive(Clone, Debug)]
pub(super) struct Containment {
    /// What comes before a command; empty if it is not kept in.
    words: Vec<PathBuf>,
}

impl Containment {
    /// Tries it out.
    ///
    /// `places`: where the server may write; `None` to leave it.
    pub(super) async fn of(places: Option<&[PathBuf]>, user: Option<Owner>, pgdata: &Path) -> Self {
        let none = Self { words: Vec::new() };
        let (Some(places), Some(_), Some(_)) = (places, user, setpriv()) else { return none };
        // A name with a line break cannot be told from two.
        if places.iter().any(|place| place.as_os_str().as_encoded_bytes().contains(&b'\n')) {
            return none;
        }
        let tool =
            |name: &str| ["/usr/bin", "/bin"].iter().map(|at| Path::new(at).join(name)).find(|path| path.is_file());
        let Some(unshare) = tool("unshare") else { return none };
        let mut words = vec![unshare];
        words.extend(["--mount", "--propagation", "slave", "--", "/bin/sh", "-c", READ_ONLY, "sh"].map(PathBuf::from));
        words.extend(places.iter().cloned());
        words.push("--".into());
        let contained = Self { words };
        let mut probe = contained.command(Path::new("/bin/true"), pgdata);
        let worked = probe.stdout(Stdio::null()).stderr(Stdio::piped()).output().await;
        match worked {
            Ok(output) if output.status.success() => contained,
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                tracing::info!(status = %output.status, said, "the server cannot be given a mount namespace of its own");
                none
            }
            Err(error) => {
                tracing::info!(%error, "the server cannot be given a mount namespace of its own");
                none
            }
        }
    }

    pub(super) fn is_on(&self) -> bool {
        !self.words.is_empty()
    }

    /// `program` as ourselves, kept in; whoever runs it adds its arguments, among them as whom it goes on.
    pub(super) fn command(&self, program: &Path, pgdata: &Path) -> Command {
        let mut words = self.words.iter().map(PathBuf::as_path).chain(std::iter::once(program));
        let first = words.next().unwrap_or(program);
        let mut command = private(Command::new(first), None, pgdata);
        command.args(words);
        command
    }
}
