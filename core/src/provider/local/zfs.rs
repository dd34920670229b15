//! ZFS through its command line.
//!
//! The token and all else that a later process needs are user properties of the snapshot, given in the very call that
//! makes it; there is no record beside it. Several datasets of one pool are cut in one transaction by one call.
//! Reading goes through `.zfs/snapshot`; where that is not to be had, through a private mount of the snapshot (root), or a
//! clone that lives for the copy (FUSE).
//!
//! A dataset is known by its GUID beside its name, and a snapshot by its token: [`seek`](super::zfs_seek) finds them under
//! another name, and tells gone from not to be seen. What may be done is in [`permits`](super::zfs_permits), what the
//! command says in [`said`](super::zfs_said).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::zfs_said::{failure, no_command};
use super::{command, discovery, place};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::host::{Mount, MountTable};
use crate::id::{BackupId, Token};
use crate::provider::{CreateRequest, Ticket, Volume};

/// How long a command may take. To destroy a large snapshot takes minutes.
const PATIENCE: Duration = Duration::from_secs(600);
pub(super) const TOKEN: &str = "org.barman_snap:token";
const MARK: &str = "org.barman_snap:mark";
const BACKUP: &str = "org.barman_snap:backup";

/// Attribute of a volume and of a ticket: the GUID of the dataset, which stays when it is renamed.
pub(super) const DATASET_GUID: &str = "dataset_guid";
/// Attribute of a volume and of a ticket: the GUID of the pool.
pub(super) const POOL_GUID: &str = "pool_guid";
/// Attribute of a volume and of a ticket: the directory of the dataset that the root of the volume is. Absent if that is its
/// top; otherwise the volume was seen through a bind mount.
const INSIDE: &str = "inside";
/// What a ticket has from its volume.
const OF_VOLUME: [&str; 3] = [DATASET_GUID, POOL_GUID, INSIDE];

/// Where the commands are looked for when the path of the process does not have them: that of a service or of an unprivileged
/// user often lacks the directories of the administrator.
const SYSTEM_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// A dataset, as it is seen through one of its mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dataset {
    /// Where it, or a directory of it, is mounted.
    pub(super) mount_point: PathBuf,
    /// What is recorded of it with the volume.
    pub(super) attributes: BTreeMap<String, String>,
}

/// The command.
#[derive(Clone, Debug)]
pub(super) struct Zfs {
    command: PathBuf,
}

impl Zfs {
    pub(super) fn new(command: &Path) -> Self {
        Self { command: command.to_owned() }
    }

    /// The dataset of a directory that is known to lie on a mounted ZFS. The kernel says which it is, also where ZFS does not
    /// know the mount: `mountpoint=legacy`, bind mounts.
    pub(super) fn dataset_of(&self, mount: &Mount, directory: &Path) -> Result<Option<Dataset>> {
        let (name, mount_point, inside) = if mount.fs_type == "zfs" {
            (mount.source.clone(), mount.mount_point.clone(), inside(&mount.fs_root))
        } else {
            let directory = directory.display().to_string();
            let out = self.run(&["list", "-H", "-t", "filesystem", "-o", "name,mountpoint", &directory])?;
            let Some((name, mount_point)) = out.lines().find_map(parse_dataset) else { return Ok(None) };
            (name, mount_point, None)
        };
        // A snapshot that is mounted is no dataset, and nothing that a backup can be taken of.
        if name.contains('@') {
            return Ok(None);
        }
        let guid = self.run(&["get", "-H", "-o", "value", "guid", &name])?.trim().to_owned();
        // Without it, more has to count as not to be seen; that is all.
        let pool_guid = self.zpool(&["get", "-H", "-o", "value", "guid", pool(&name)]).ok();
        let known = [
            (discovery::DATASET, Some(name)),
            (DATASET_GUID, Some(guid)),
            (POOL_GUID, pool_guid.map(|guid| guid.trim().to_owned())),
            (INSIDE, inside),
        ];
        let attributes = known.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect();
        Ok(Some(Dataset { mount_point, attributes }))
    }

    /// Cuts all volumes of a request at one instant.
    pub(super) fn create(&self, request: &CreateRequest) -> Result<()> {
        let properties =
            [(TOKEN, request.token.to_string()), (MARK, request.mark.clone()), (BACKUP, request.backup_id.to_string())];
        let mut arguments = vec!["snapshot".to_owned()];
        for (name, value) in properties {
            arguments.extend(["-o".to_owned(), format!("{name}={value}")]);
        }
        for snapshot in &request.volumes {
            arguments.push(format!("{}@{}", dataset(&snapshot.volume)?, snapshot.name));
        }
        // Whoever starts it and loses it does not know whether it happened; what it says itself is certain.
        self.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    }

    /// Every snapshot of ours of these volumes, among them those of datasets that have another name by now.
    ///
    /// # Errors
    /// `strict`: if one of the datasets cannot be seen from here. Otherwise that one is passed over.
    pub(super) fn list(
        &self,
        volumes: &[Volume],
        strict: bool,
        wanted: impl Fn(&Token, &str) -> bool,
    ) -> Result<Vec<Ticket>> {
        let names = volumes.iter().map(dataset).collect::<Result<BTreeSet<&str>>>()?;
        // One call where all is as it was: this is asked in backup mode, too. If one is not there, each is looked for.
        let names: Vec<&str> = names.into_iter().collect();
        let all = if names.is_empty() { String::new() } else { self.listing(&names).unwrap_or_default() };
        let mut tickets = Vec::new();
        for volume in volumes {
            let name = dataset(volume)?;
            if is_there(&all, name, volume.attributes.get(DATASET_GUID)) {
                tickets.extend(of_volume(&all, name, volume, &wanted));
                continue;
            }
            let name = match self.where_is(volume) {
                Ok(Ok(Some(name))) => name,
                // It was destroyed, and its snapshots with it.
                Ok(Ok(None)) => continue,
                Ok(Err(why)) if strict => return Err(Error::precondition(why)),
                Ok(Err(why)) => {
                    tracing::warn!(volume = %volume.id, "cannot look for snapshots: {why}");
                    continue;
                }
                Err(error) if strict => return Err(error),
                Err(error) => {
                    tracing::warn!(volume = %volume.id, error = %error.chain(), "cannot look for snapshots");
                    continue;
                }
            };
            tickets.extend(of_volume(&self.listing(&[&name])?, &name, volume, &wanted));
        }
        Ok(tickets)
    }

    /// Datasets and their snapshots, with all that is known of them here.
    fn listing(&self, names: &[&str]) -> Result<String> {
        let columns = format!("name,guid,{TOKEN},{MARK}");
        let arguments = ["list", "-H", "-t", "filesystem,snapshot", "-d", "1", "-o", &columns];
        self.run(&[&arguments, names].concat())
    }

    /// The token of a snapshot; `None` if there is no such snapshot.
    pub(super) fn token_of(&self, snapshot: &str) -> Result<Option<String>> {
        match self.run(&["get", "-H", "-o", "value", TOKEN, checked(snapshot)?]) {
            Ok(out) => Ok(Some(out.trim().to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a snapshot that bears the token. Gone already is success.
    pub(super) fn delete(&self, ticket: &Ticket) -> Result<()> {
        let Some(snapshot) = self.seek(ticket)? else { return Ok(()) };
        match self.run(&["destroy", &snapshot]) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The directory at which the content of the snapshot can be read as it is, if there is one.
    pub(super) fn readable(&self, ticket: &Ticket) -> Result<Option<PathBuf>> {
        let Some(snapshot) = self.seek(ticket)? else { return Err(gone(ticket)) };
        self.readable_at(&snapshot, ticket)
    }

    fn readable_at(&self, snapshot: &str, ticket: &Ticket) -> Result<Option<PathBuf>> {
        let (dataset, name) = snapshot.split_once('@').unwrap_or((snapshot, ""));
        let mounts = MountTable::current()?;
        let mut tops: Vec<PathBuf> = tops_of(&mounts, dataset);
        if tops.is_empty() && mounts.iter().any(|mount| mount.fs_type == "fuse.zfs") {
            tops.push(self.run(&["list", "-H", "-o", "mountpoint", dataset])?.trim().into());
        }
        let mut places = tops.into_iter().map(|top| top.join(".zfs/snapshot").join(name));
        Ok(places.find(|place| place.read_dir().is_ok()).map(|place| place.join(below(ticket))))
    }

    /// Calls `read` with the directory at which the content of the snapshot can be read.
    pub(super) fn with_content<T>(
        &self,
        ticket: &Ticket,
        token: &Token,
        destination: &Path,
        read: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<T> {
        let Some(snapshot) = self.seek(ticket)? else { return Err(gone(ticket)) };
        if let Some(direct) = self.readable_at(&snapshot, ticket)? {
            return read(&direct);
        }
        let dataset = snapshot.split_once('@').map_or(snapshot.as_str(), |(dataset, _)| dataset);
        self.check_key(dataset)?;
        let place = destination.with_file_name(format!(".barman_snap_clone_{token}"));
        std::fs::create_dir(&place).map_err(|source| Error::io("make the directory", &place, source))?;
        if self.mount(&snapshot, &place).is_ok() {
            let result = read(&place.join(below(ticket)));
            let undone = unmount(&place).and_then(|()| remove_dir(&place));
            return result.and_then(|value| undone.map(|()| value));
        }
        let clone = format!("{dataset}/barman_snap_{token}");
        let mount_option = format!("mountpoint={}", place.display());
        let result = self
            .run(&["clone", "-o", &mount_option, "-o", &format!("{TOKEN}={token}"), &snapshot, &clone])
            .and_then(|_| read(&place.join(below(ticket))));
        let undone = self.destroy_clone(&clone, &place);
        result.and_then(|value| undone.map(|()| value))
    }

    /// Refuses what is encrypted with a key that is not here.
    fn check_key(&self, dataset: &str) -> Result<()> {
        let out = self.run(&["get", "-H", "-o", "value", "keystatus,encryptionroot", dataset]).unwrap_or_default();
        match out.split_once('\n') {
            Some(("unavailable", root)) => {
                Err(Error::precondition(format!("the encryption key of {dataset} is not loaded"))
                    .with_hint(format!("zfs load-key {root}")))
            }
            _ => Ok(()),
        }
    }

    /// Mounts a snapshot where nobody else looks.
    fn mount(&self, snapshot: &str, place: &Path) -> Result<()> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "zfs", "-o", "ro,nosuid,nodev", snapshot]).arg(place).env("LC_ALL", "C");
        match command::output(&mut mount, PATIENCE) {
            Ok(Some(output)) if output.status.success() => Ok(()),
            Ok(Some(output)) => Err(failure("mount", &String::from_utf8_lossy(&output.stderr), snapshot)),
            Ok(None) => Err(late("mount")),
            Err(source) => Err(Error::io("run", "mount", source)),
        }
    }

    fn destroy_clone(&self, clone: &str, place: &Path) -> Result<()> {
        // FUSE lets go of a mount a little after it says so; the first call then says that it is busy.
        let mut result = self.run(&["destroy", clone]);
        for _ in 0..20 {
            match &result {
                Err(error) if error.kind() != ErrorKind::NotFound => result = self.run(&["destroy", clone]),
                _ => break,
            }
        }
        if let Err(error) = result
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error.with_hint(format!("zfs destroy {clone}; rmdir {}", place.display())));
        }
        remove_dir(place)
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Result<String> {
        self.call(&self.command, arguments)
    }

    /// `zpool`, which lies beside `zfs`.
    pub(super) fn zpool(&self, arguments: &[&str]) -> Result<String> {
        self.call(&self.command.with_file_name("zpool"), arguments)
    }

    fn call(&self, program: &Path, arguments: &[&str]) -> Result<String> {
        let mut tried = output_of(program, arguments);
        if program.components().count() == 1 {
            for directory in SYSTEM_DIRECTORIES {
                match &tried {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        tried = output_of(&Path::new(directory).join(program), arguments);
                    }
                    _ => break,
                }
            }
        }
        let verb = format!("{} {}", program.display(), arguments.first().unwrap_or(&""));
        let output = tried.map_err(|source| no_command(program).with_source(source))?.ok_or_else(|| late(&verb))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
        }
        let error = failure(&verb, &String::from_utf8_lossy(&output.stderr), arguments.last().unwrap_or(&""));
        // Killed: it is not known how far it came.
        Err(if output.status.code().is_none() { error.with_retry(Retry::Unknown) } else { error })
    }
}

fn output_of(program: &Path, arguments: &[&str]) -> std::io::Result<Option<std::process::Output>> {
    command::output(Command::new(program).args(arguments).env("LC_ALL", "C"), PATIENCE)
}

fn late(verb: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{verb} did not end within {} s", PATIENCE.as_secs()))
        .with_retry(Retry::Unknown)
        .with_hint("see whether the pool hangs: zpool status")
}

fn unmount(place: &Path) -> Result<()> {
    rustix::mount::unmount(place, rustix::mount::UnmountFlags::empty())
        .map_err(|error| Error::io("unmount", place, error.into()))
}

fn remove_dir(place: &Path) -> Result<()> {
    std::fs::remove_dir(place).map_err(|source| Error::io("remove", place, source))
}

pub(super) fn gone(ticket: &Ticket) -> Error {
    Error::not_found(format!("no such snapshot: {}", ticket.snapshot))
}

/// The places where the top of a dataset is mounted and can be reached.
fn tops_of(mounts: &MountTable, dataset: &str) -> Vec<PathBuf> {
    let is_top = |mount: &&Mount| {
        let of_dataset = mount.fs_type == "zfs" && mount.source == dataset && mount.fs_root == Path::new("/");
        of_dataset && mounts.of_path(&mount.mount_point) == Some(*mount)
    };
    mounts.iter().filter(is_top).map(|mount| mount.mount_point.clone()).collect()
}

/// The directory that a mount shows, unless it is the top of the file system.
fn inside(fs_root: &Path) -> Option<String> {
    let inside = fs_root.strip_prefix("/").unwrap_or(fs_root).to_str()?;
    (!inside.is_empty()).then(|| inside.to_owned())
}

/// Where the root of the volume is in the snapshot; no further up than its top, whatever the catalog says.
fn below(ticket: &Ticket) -> PathBuf {
    let inside = Path::new(ticket.attributes.get(INSIDE).map_or("", String::as_str));
    inside.components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect()
}

/// Whether a snapshot is that of `volume`, and not of another one on the same dataset: two bind mounts may show it. Their names,
/// as they are minted, begin differently. One that looks otherwise was renamed by somebody, and is taken for everybody's.
fn is_of(volume: &Volume, snapshot: &str) -> bool {
    let parts = |name: &str| name.len().checked_sub(15).and_then(|at| name.split_at_checked(at)).map(owned);
    let any = BackupId::at(chrono::NaiveDateTime::default());
    match parts(snapshot) {
        Some((stem, id)) if BackupId::looks_like(&id.to_uppercase()) => {
            parts(&place::snapshot_name(&volume.id, &any)).is_some_and(|(own, _)| own == stem)
        }
        _ => true,
    }
}

fn owned((stem, id): (&str, &str)) -> (String, String) {
    (stem.to_owned(), id.to_owned())
}

/// The pool of a dataset.
pub(super) fn pool(dataset: &str) -> &str {
    dataset.split(['/', '@']).next().unwrap_or(dataset)
}

/// The dataset of a volume, as it was called when the backup was planned.
pub(super) fn dataset(volume: &Volume) -> Result<&str> {
    volume
        .attributes
        .get(discovery::DATASET)
        .map(String::as_str)
        .ok_or_else(|| Error::internal(format!("no dataset is known of the volume {}", volume.id)))
}

/// The ticket of a snapshot of `volume`.
pub(super) fn ticket(volume: &Volume, dataset: &str, name: &str, token: Token) -> Ticket {
    let mut attributes = super::here::attributes(None);
    let known = OF_VOLUME.iter().filter_map(|&key| Some((key.to_owned(), volume.attributes.get(key)?.clone())));
    attributes.extend(known);
    Ticket {
        snapshot: format!("{dataset}@{name}"),
        name: name.to_owned(),
        volume: volume.id.clone(),
        root: volume.root.clone(),
        method: super::Method::Zfs.to_string(),
        token,
        attributes,
    }
}

/// A snapshot's name that the command cannot take for an option, a dataset or a range of snapshots.
pub(super) fn checked(snapshot: &str) -> Result<&str> {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | ':' | '/' | '@' | ' ');
    let is_one = snapshot.split('@').count() == 2 && !snapshot.starts_with('-') && snapshot.chars().all(harmless);
    is_one.then_some(snapshot).ok_or_else(|| Error::invalid(format!("not a ZFS snapshot: {snapshot:?}")))
}

fn parse_dataset(line: &str) -> Option<(String, PathBuf)> {
    let (name, mount_point) = line.split_once('\t')?;
    // "none", "legacy" and "-" are no paths.
    mount_point.starts_with('/').then(|| (name.to_owned(), mount_point.into()))
}

/// A snapshot of ours, as `zfs list` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    dataset: String,
    name: String,
    token: Token,
    mark: String,
}

/// Whether a dataset is listed, and is the same one as before where that is known.
fn is_there(listing: &str, dataset: &str, guid: Option<&String>) -> bool {
    let mut lines = listing.lines().map(|line| line.split('\t'));
    lines.any(|mut columns| {
        columns.next() == Some(dataset) && guid.is_none_or(|guid| columns.next() == Some(guid.as_str()))
    })
}

/// The tickets of the snapshots of a volume that are wanted.
fn of_volume(listing: &str, dataset: &str, volume: &Volume, wanted: &impl Fn(&Token, &str) -> bool) -> Vec<Ticket> {
    let ours = listing.lines().filter_map(parse_snapshot).filter(|listed| listed.dataset == dataset);
    let ours = ours.filter(|listed| wanted(&listed.token, &listed.mark) && is_of(volume, &listed.name));
    ours.map(|listed| ticket(volume, dataset, &listed.name, listed.token)).collect()
}

fn parse_snapshot(line: &str) -> Option<Listed> {
    let mut columns = line.split('\t');
    let (dataset, name) = columns.next()?.split_once('@')?;
    let _guid = columns.next()?;
    let token = columns.next()?.parse().ok()?;
    let mark = columns.next()?.to_owned();
    Some(Listed { dataset: dataset.to_owned(), name: name.to_owned(), token, mark })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(id: &str, dataset: &str) -> Volume {
        Volume {
            id: id.into(),
            root: id.into(),
            mount_point: id.into(),
            mount_options: String::new(),
            device: dataset.into(),
            method: "zfs".into(),
            attributes: BTreeMap::from([(discovery::DATASET.to_owned(), dataset.to_owned())]),
            file_systems: Vec::new(),
        }
    }

    #[test]
    fn lists_are_understood_and_what_is_not_ours_is_left_out() {
        assert_eq!(parse_dataset("tank/pg\t/srv/my pg"), Some(("tank/pg".into(), "/srv/my pg".into())));
        assert_eq!(parse_dataset("tank\tlegacy"), None);
        let token = Token::from_bits(1);
        let listed = parse_snapshot(&format!("tank/pg@a-1\t5\t{token}\tmain")).unwrap();
        assert_eq!((listed.dataset.as_str(), listed.name.as_str(), listed.mark.as_str()), ("tank/pg", "a-1", "main"));
        assert_eq!(parse_snapshot("tank/pg@daily\t5\t-\t-"), None);
        let listing = "tank/pg\t7\t-\t-\ntank/pg/child\t8\t-\t-\ntank/pg@daily\t9\t-\t-";
        let there = |name: &str, guid: Option<&str>| is_there(listing, name, guid.map(str::to_owned).as_ref());
        assert!(there("tank/pg", None) && there("tank/pg", Some("7")) && there("tank/pg/child", Some("8")));
        assert!(!there("tank/pg", Some("8")) && !there("tank", None));
    }

    #[test]
    fn only_the_full_name_of_one_snapshot_is_given_to_the_command() {
        checked("tank/pg@x-1").unwrap();
        for bad in ["tank/pg", "-r@x", "tank@a@b", "tank@a%b", "tank@a,b", ""] {
            assert!(checked(bad).is_err(), "{bad}");
        }
        assert_eq!((pool("tank/pg/data"), pool("tank"), pool("tank@x")), ("tank", "tank", "tank"));
    }

    #[test]
    fn a_command_that_is_not_there_is_one_clear_line() {
        let error = Zfs::new(Path::new("/no/such/zfs")).token_of("a@b").unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Precondition, "cannot run /no/such/zfs"));
    }

    #[test]
    fn the_top_of_a_dataset_is_found_among_legacy_and_bind_mounts_and_only_where_it_can_be_reached() {
        let mounts = MountTable::parse(
            b"22 1 254:0 / / rw - ext4 /dev/vda rw\n\
              60 22 0:50 /data /srv/pgdata rw - zfs tank/pg rw,xattr\n\
              61 22 0:50 / /mnt/hidden rw - zfs tank/pg rw,xattr\n\
              62 22 0:50 / /mnt/my\\040pg rw - zfs tank/pg rw,xattr\n\
              63 22 0:51 / /tank rw - zfs tank rw,xattr\n\
              64 61 7:1 / /mnt/hidden rw - xfs /dev/loop1 rw\n",
        )
        .unwrap();
        assert_eq!(tops_of(&mounts, "tank/pg"), [PathBuf::from("/mnt/my pg")]);
        assert_eq!(tops_of(&mounts, "tank/pg/child"), Vec::<PathBuf>::new());
        assert_eq!(inside(&mounts.of_path(Path::new("/srv/pgdata/base")).unwrap().fs_root), Some("data".into()));
        assert_eq!(inside(Path::new("/")), None);
    }

    #[test]
    fn a_ticket_leads_to_its_directory_in_the_snapshot_and_never_out_of_it() {
        let mut bound = volume("/srv/pgdata", "tank/pg");
        bound.attributes.insert(INSIDE.into(), "data/15".into());
        bound.attributes.insert(DATASET_GUID.into(), "17".into());
        let mut made = ticket(&bound, "tank/pg", "a-1", Token::from_bits(1));
        assert_eq!((below(&made), made.attributes[DATASET_GUID].as_str()), ("data/15".into(), "17"));
        made.attributes.insert(INSIDE.into(), "/../../etc".into());
        assert_eq!(below(&made), PathBuf::from("etc"));
        assert_eq!(below(&ticket(&volume("/a", "tank"), "tank", "a-1", Token::from_bits(1))), PathBuf::new());
    }

    #[test]
    fn two_volumes_on_one_dataset_have_snapshots_of_their_own() {
        let both = [volume("/srv/data", "tank/pg"), volume("/srv/wal", "tank/pg")];
        let id: BackupId = "20260529T101112".parse().unwrap();
        let names = both.clone().map(|volume| place::snapshot_name(&volume.id, &id));
        for (at, volume) in both.iter().enumerate() {
            assert!(is_of(volume, &names[at]) && !is_of(volume, &names[1 - at]));
            assert!(is_of(volume, "renamed by somebody"));
        }
    }
}
