//! What stands in the way of a snapshot, or of its deletion, seen before either is begun: permissions that an unprivileged user
//! was not given, pools that cannot be written, space that is reserved; holds and clones. Reading what the commands say is pure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::command;
use super::zfs::{Zfs, dataset, pool};
use crate::error::{Error, ErrorKind, Result};
use crate::host::MountTable;
use crate::provider::{Ticket, Volume};

/// What `zfs allow` has to give: to make a snapshot with properties of ours in one call, and to delete it.
pub(super) const NEEDED: [&str; 4] = ["snapshot", "destroy", "mount", "userprop"];

/// What of it deleting alone takes.
const TO_DELETE: [&str; 2] = ["destroy", "mount"];

/// How long it may take to say who we are.
const PATIENCE: Duration = Duration::from_secs(60);

/// The names that permissions are given to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Who {
    user: String,
    groups: Vec<String>,
}

impl Zfs {
    /// Refuses a volume of which no snapshot can be made, or deleted afterwards.
    pub(super) fn check_possible(&self, volume: &Volume) -> Result<()> {
        let name = dataset(volume)?;
        self.check_pool(pool(name))?;
        self.check_space(name)?;
        if !rustix::process::geteuid().is_root() {
            self.check_limit(name)?;
        }
        self.check_allowed(name, &NEEDED)
    }

    /// Refuses what this user was not given on a dataset. Root needs nothing.
    fn check_allowed(&self, name: &str, needed: &[&'static str]) -> Result<()> {
        if rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let who = Who { user: said_by_id("-un")?, groups: said_by_id("-Gn")?.split(' ').map(str::to_owned).collect() };
        let missing = missing(&self.run(&["allow", name])?, name, &who, needed);
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::PermissionDenied,
            format!("user {} has no ZFS permission {} on {name}", who.user, missing.join(", ")),
        )
        .with_hint(format!("zfs allow -u {} {} {name}", who.user, needed.join(","))))
    }

    fn check_pool(&self, pool: &str) -> Result<()> {
        let Ok(out) = self.zpool(&["get", "-H", "-o", "property,value", "readonly,health", pool]) else {
            return Ok(());
        };
        match unwritable(&out) {
            None => Ok(()),
            Some(state) => Err(Error::precondition(format!("no snapshot can be made: the pool {pool} is {state}"))
                .with_hint(format!("see zpool status {pool}"))),
        }
    }

    /// A snapshot keeps what is in the dataset beside its reservation, and needs space for that at once.
    fn check_space(&self, name: &str) -> Result<()> {
        let properties = "refreservation,usedbydataset,available";
        let out = self.run(&["get", "-H", "-p", "-o", "property,value", properties, name])?;
        let value = |wanted: &str| {
            let found = out.lines().filter_map(|line| line.split_once('\t')).find(|(property, _)| *property == wanted);
            found.and_then(|(_, value)| value.parse::<u64>().ok())
        };
        let (Some(reserved), Some(used), Some(available)) =
            (value("refreservation"), value("usedbydataset"), value("available"))
        else {
            return Ok(());
        };
        match lacking(reserved, used, available) {
            None => Ok(()),
            Some(lack) => Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "a snapshot of {name} needs {} MiB more than is free, for its refreservation",
                    lack.div_ceil(1 << 20)
                ),
            )
            .with_hint(format!("make room, or see zfs get refreservation,quota,available {name}"))),
        }
    }

    /// Root is not held to limits.
    fn check_limit(&self, name: &str) -> Result<()> {
        let above = name.match_indices('/').map(|(at, _)| &name[..at]);
        for holder in above.chain([name]) {
            let out =
                self.run(&["get", "-H", "-p", "-o", "property,value", "snapshot_limit,snapshot_count", holder])?;
            if let Some(limit) = limit_reached(&out) {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!("{holder} has {limit} snapshots, which is its snapshot_limit"),
                )
                .with_hint(format!("delete some, or zfs set snapshot_limit=… {holder}")));
            }
        }
        Ok(())
    }

    /// Refuses to delete snapshots, none of which is deleted yet, if one is held, or a clone needs it, or it is not ours.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] that names each of them, and what to do; [`ErrorKind::PermissionDenied`].
    pub(super) fn check_delete(&self, tickets: &[&Ticket]) -> Result<()> {
        let (mut reasons, mut help) = (Vec::new(), Vec::new());
        let mounts = MountTable::current()?;
        for ticket in tickets {
            let Some(snapshot) = self.seek(ticket)? else { continue };
            let out = match self.run(&["get", "-H", "-o", "property,value", "userrefs,clones", &snapshot]) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                out => out?,
            };
            self.check_allowed(snapshot.split('@').next().unwrap_or(&snapshot), &TO_DELETE)?;
            let (held, clones) = in_the_way(&out);
            if held {
                let tags = tags(&self.run(&["holds", "-H", &snapshot])?);
                reasons.push(format!("snapshot {snapshot} is held ({})", tags.join(", ")));
                help.extend(tags.iter().map(|tag| format!("zfs release {tag} {snapshot}")));
            }
            for at in mounted_by_hand(&mounts, &snapshot) {
                reasons.push(format!("snapshot {snapshot} is mounted at {}", at.display()));
                help.push(format!("umount {}", at.display()));
            }
            if !clones.is_empty() {
                reasons.push(format!("snapshot {snapshot} has the clone {}", clones.join(", ")));
                help.extend(
                    clones.iter().map(|clone| format!("zfs destroy {clone} (or zfs promote {clone} to keep it)")),
                );
            }
        }
        if reasons.is_empty() {
            return Ok(());
        }
        Err(Error::precondition(reasons.join("; ")).with_hint(format!("nothing was deleted; {}", help.join("; "))))
    }
}

fn said_by_id(option: &str) -> Result<String> {
    let output = command::output(Command::new("id").arg(option).env("LC_ALL", "C"), PATIENCE);
    let output = output.map_err(|source| Error::io("run", "id", source))?;
    match output.filter(|output| output.status.success()) {
        Some(output) => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        // A user without a name: `zfs allow` knows it by its number.
        None => Ok(rustix::process::geteuid().as_raw().to_string()),
    }
}

/// Why nothing can be written to a pool, by `zpool get readonly,health`.
fn unwritable(out: &str) -> Option<String> {
    let mut properties = out.lines().filter_map(|line| line.split_once('\t'));
    properties.find_map(|(property, value)| match (property, value.trim()) {
        ("readonly", "on") => Some("imported read-only".to_owned()),
        ("health", state @ ("SUSPENDED" | "FAULTED" | "UNAVAIL")) => Some(state.to_owned()),
        _ => None,
    })
}

/// The bytes that are missing for a snapshot. What is available counts the part of the reservation that is still unused.
fn lacking(reserved: u64, used: u64, available: u64) -> Option<u64> {
    let unused = reserved.saturating_sub(used);
    let free = available.saturating_sub(unused);
    let needed = reserved.min(used);
    (needed > free).then(|| needed - free)
}

/// Whether a snapshot is held, and the clones that need it, by `zfs get userrefs,clones`.
fn in_the_way(out: &str) -> (bool, Vec<String>) {
    let value = |wanted: &str| {
        let found = out.lines().filter_map(|line| line.split_once('\t')).find(|(property, _)| *property == wanted);
        found.map(|(_, value)| value.trim()).filter(|value| !matches!(*value, "" | "-"))
    };
    let held = value("userrefs").is_some_and(|count| count != "0");
    (held, value("clones").map(|clones| clones.split(',').map(str::to_owned).collect()).unwrap_or_default())
}

/// Where a snapshot is mounted other than below `.zfs`, where the kernel mounts and unmounts it by itself.
fn mounted_by_hand(mounts: &MountTable, snapshot: &str) -> Vec<PathBuf> {
    let by_itself = |place: &Path| place.components().any(|part| part.as_os_str() == ".zfs");
    let of_it = mounts.iter().filter(|mount| mount.fs_type == "zfs" && mount.source == snapshot);
    of_it.map(|mount| mount.mount_point.clone()).filter(|place| !by_itself(place)).collect()
}

/// The limit of snapshots, if it is reached, by `zfs get -p snapshot_limit,snapshot_count`.
fn limit_reached(out: &str) -> Option<u64> {
    let value = |wanted: &str| {
        let found = out.lines().filter_map(|line| line.split_once('\t')).find(|(property, _)| *property == wanted);
        found.and_then(|(_, value)| value.trim().parse::<u64>().ok())
    };
    // "none", and the greatest number there is, are no limit.
    let limit = value("snapshot_limit").filter(|limit| *limit != u64::MAX)?;
    value("snapshot_count").filter(|count| *count >= limit).map(|_| limit)
}

/// The tags of holds, by `zfs holds -H`.
fn tags(out: &str) -> Vec<String> {
    out.lines().filter_map(|line| line.split('\t').nth(1)).map(str::to_owned).collect()
}

/// Which of the needed permissions nobody has given on `dataset`, by `zfs allow`. Its sections are the dataset and those above it.
fn missing(text: &str, dataset: &str, who: &Who, needed: &[&'static str]) -> Vec<&'static str> {
    let (mut given, mut sets): (BTreeSet<String>, Vec<(String, Vec<String>)>) = Default::default();
    let (mut at, mut counts, mut is_set) = (String::new(), false, false);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("---- Permissions on ") {
            at = rest.trim_end_matches('-').trim_end().to_owned();
            (counts, is_set) = (false, false);
        } else if !line.starts_with(char::is_whitespace) {
            is_set = line.starts_with("Permission sets:");
            counts = match line.trim_end() {
                "Local permissions:" => at == dataset,
                "Local+Descendent permissions:" => true,
                "Descendent permissions:" => at != dataset,
                _ => false,
            };
        } else if is_set {
            let (name, permissions) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
            sets.push((name.to_owned(), permissions.split(',').map(str::to_owned).collect()));
        } else if counts && let Some(permissions) = permissions_for(line.trim(), who) {
            given.extend(permissions.split(',').map(str::to_owned));
        }
    }
    // A set may hold other sets; each is opened once.
    let mut open: Vec<String> = given.iter().filter(|name| name.starts_with('@')).cloned().collect();
    while let Some(name) = open.pop() {
        for permission in sets.iter().filter(|(set, _)| *set == name).flat_map(|(_, permissions)| permissions) {
            if given.insert(permission.clone()) && permission.starts_with('@') {
                open.push(permission.clone());
            }
        }
    }
    needed.iter().copied().filter(|needed| !given.contains(*needed)).collect()
}

/// `user postgres destroy,mount`, `group dba snapshot`, `everyone snapshot`: the permissions, if they are ours. A name may have
/// spaces in it, permissions have none.
fn permissions_for<'a>(line: &'a str, who: &Who) -> Option<&'a str> {
    let (to, permissions) = line.rsplit_once(' ')?;
    let ours = match to.split_once(' ') {
        Some(("user", name)) => name.trim() == who.user,
        Some(("group", name)) => who.groups.iter().any(|group| group == name.trim()),
        _ => to == "everyone",
    };
    ours.then_some(permissions)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As ZFS 2.1 says it.
    const ALLOWED: &str = "\
---- Permissions on tank/pg/data -------------------------------------
Local permissions:
\tuser postgres snapshot
---- Permissions on tank/pg ------------------------------------------
Permission sets:
\t@backup destroy,@more
\t@more mount
Create time permissions:
\tsnapshot,userprop
Local permissions:
\tuser postgres userprop
Descendent permissions:
\tgroup dba @backup
Local+Descendent permissions:
\tuser other userprop
\teveryone hold
";

    fn who(user: &str, groups: &[&str]) -> Who {
        Who { user: user.into(), groups: groups.iter().map(|&group| group.to_owned()).collect() }
    }

    #[test]
    fn permissions_come_from_the_dataset_from_above_by_groups_and_by_sets() {
        let on = |dataset: &str, who: &Who| missing(ALLOWED, dataset, who, &NEEDED);
        assert_eq!(on("tank/pg/data", &who("postgres", &["postgres", "dba"])), ["userprop"]);
        assert_eq!(on("tank/pg/data", &who("postgres", &[])), ["destroy", "mount", "userprop"]);
        assert_eq!(on("tank/pg", &who("postgres", &["dba"])), ["snapshot", "destroy", "mount"]);
        assert_eq!(on("tank/pg/data", &who("nobody", &[])), NEEDED);
        assert_eq!(missing("", "tank", &who("postgres", &[]), &NEEDED), NEEDED);
        let all =
            "---- Permissions on tank ---\nLocal+Descendent permissions:\n\teveryone destroy,mount,snapshot,userprop\n";
        assert_eq!(missing(all, "tank", &who("x", &[]), &NEEDED), Vec::<&str>::new());
    }

    #[test]
    fn holds_and_clones_are_named() {
        assert_eq!(in_the_way("userrefs\t0\nclones\t"), (false, Vec::new()));
        assert_eq!(in_the_way("userrefs\t0\nclones\t-"), (false, Vec::new()));
        assert_eq!(
            in_the_way("userrefs\t2\nclones\ttank/a,tank/b c"),
            (true, vec!["tank/a".into(), "tank/b c".into()])
        );
        assert_eq!(tags("tank/pg@a\tkeep it\tFri Nov 27 15:36 2026\ntank/pg@a\tb\tx"), ["keep it", "b"]);
    }

    #[test]
    fn a_mount_by_hand_is_in_the_way_and_one_of_the_kernels_is_not() {
        let mounts = MountTable::parse(
            b"22 1 254:0 / / rw - ext4 /dev/vda rw\n31 22 0:28 / /tank/pg rw - zfs tank/pg rw\n\
              36 31 0:31 / /tank/pg/.zfs/snapshot/v rw,relatime - zfs tank/pg@v ro\n38 22 0:33 / /p ro - zfs tank/pg@v ro\n",
        )
        .unwrap();
        assert_eq!(mounted_by_hand(&mounts, "tank/pg@v"), [PathBuf::from("/p")]);
        assert!(mounted_by_hand(&mounts, "tank/pg").contains(&PathBuf::from("/tank/pg")));
    }

    #[test]
    fn a_limit_counts_when_it_is_reached() {
        assert_eq!(limit_reached("snapshot_limit\tnone\nsnapshot_count\tnone"), None);
        assert_eq!(limit_reached("snapshot_limit\t18446744073709551615\nsnapshot_count\t4"), None);
        assert_eq!(limit_reached("snapshot_limit\t3\nsnapshot_count\t2"), None);
        assert_eq!(limit_reached("snapshot_limit\t3\nsnapshot_count\t3"), Some(3));
    }

    #[test]
    fn a_pool_that_cannot_be_written_is_known_before() {
        assert_eq!(unwritable("readonly\toff\nhealth\tONLINE"), None);
        assert_eq!(unwritable("readonly\toff\nhealth\tDEGRADED"), None);
        assert!(unwritable("readonly\ton\nhealth\tONLINE").is_some());
        assert_eq!(unwritable("readonly\toff\nhealth\tSUSPENDED").as_deref(), Some("SUSPENDED"));
    }

    #[test]
    fn a_reservation_needs_space_for_what_is_in_the_dataset() {
        assert_eq!(lacking(0, 500, 0), None, "without a reservation a snapshot needs nothing");
        assert_eq!(lacking(100, 40, 160), None, "100 are free beside the unused 60 of the reservation");
        assert_eq!(lacking(100, 40, 90), Some(10));
        assert_eq!(lacking(100, 400, 99), Some(1));
    }
}
