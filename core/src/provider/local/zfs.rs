//! ZFS through its command line.
//!
//! The token and all else that a later process needs are user properties of the snapshot, given in the very call that
//! makes it; there is no record beside it. Several datasets of one pool are cut in one transaction by one call.
//! Reading goes through `.zfs/snapshot`; where that is not to be had (FUSE), through a clone that lives for the copy.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::command;
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::id::Token;
use crate::provider::{CreateRequest, Ticket, Volume};

/// How long a command may take. To destroy a large snapshot takes minutes.
const PATIENCE: Duration = Duration::from_secs(600);
const TOKEN: &str = "org.barman_snap:token";
const MARK: &str = "org.barman_snap:mark";
const BACKUP: &str = "org.barman_snap:backup";

/// A dataset that is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dataset {
    pub(super) name: String,
    pub(super) mount_point: PathBuf,
}

/// A snapshot of ours, as `zfs list` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    dataset: String,
    name: String,
    token: Token,
    mark: String,
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

    /// The dataset of a directory that is known to lie on ZFS.
    pub(super) fn dataset_of(&self, directory: &Path) -> Result<Option<Dataset>> {
        let out =
            self.run(&["list", "-H", "-t", "filesystem", "-o", "name,mountpoint", &directory.display().to_string()])?;
        Ok(out.lines().find_map(parse_dataset))
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

    /// Every snapshot of ours of these volumes.
    pub(super) fn list(&self, volumes: &[Volume], wanted: impl Fn(&Token, &str) -> bool) -> Result<Vec<Ticket>> {
        let mut tickets = Vec::new();
        for volume in volumes {
            let dataset = dataset(volume)?;
            let columns = format!("name,{TOKEN},{MARK}");
            let out = self.run(&["list", "-H", "-t", "snapshot", "-d", "1", "-o", &columns, dataset])?;
            let ours = out.lines().filter_map(parse_snapshot).filter(|listed| listed.dataset == dataset);
            tickets.extend(
                ours.filter(|listed| wanted(&listed.token, &listed.mark))
                    .map(|listed| ticket(volume, dataset, &listed.name, listed.token)),
            );
        }
        Ok(tickets)
    }

    /// Why the snapshots of a dataset cannot be seen from here, if they cannot: its pool may be exported, the dataset renamed.
    pub(super) fn out_of_sight(&self, dataset: &str) -> Result<Option<String>> {
        match self.run(&["list", "-H", "-o", "name", dataset]) {
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Ok(Some(format!("there is no ZFS dataset {dataset} here; is its pool imported, was it renamed?")))
            }
            Err(error) => Err(error),
        }
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
        match self.token_of(&ticket.snapshot)? {
            None => Ok(()),
            Some(token) if token == ticket.token.as_str() => match self.run(&["destroy", &ticket.snapshot]) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            Some(_) => Err(super::not_ours(&ticket.snapshot)),
        }
    }

    /// The directory at which the content of the snapshot can be read as it is, if there is one.
    pub(super) fn readable(&self, ticket: &Ticket) -> Result<Option<PathBuf>> {
        let snapshot = checked(&ticket.snapshot)?;
        let (dataset, name) = snapshot.split_once('@').unwrap_or((snapshot, ""));
        let mount_point = self.run(&["list", "-H", "-o", "mountpoint", dataset])?;
        let direct = Path::new(mount_point.trim()).join(".zfs/snapshot").join(name);
        Ok(direct.read_dir().is_ok().then_some(direct))
    }

    /// Calls `read` with the directory at which the content of the snapshot can be read.
    pub(super) fn with_content<T>(
        &self,
        ticket: &Ticket,
        token: &Token,
        destination: &Path,
        read: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<T> {
        if let Some(direct) = self.readable(ticket)? {
            return read(&direct);
        }
        let snapshot = checked(&ticket.snapshot)?;
        let dataset = snapshot.split_once('@').map_or(snapshot, |(dataset, _)| dataset);
        let place = destination.with_file_name(format!(".barman_snap_clone_{token}"));
        let clone = format!("{dataset}/barman_snap_{token}");
        std::fs::create_dir(&place).map_err(|source| Error::io("make the directory", &place, source))?;
        let mount_option = format!("mountpoint={}", place.display());
        let result = self
            .run(&["clone", "-o", &mount_option, "-o", &format!("{TOKEN}={token}"), snapshot, &clone])
            .and_then(|_| read(&place));
        let undone = self.destroy_clone(&clone, &place);
        result.and_then(|value| undone.map(|()| value))
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
        std::fs::remove_dir(place).map_err(|source| Error::io("remove", place, source))
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let shown = || format!("{} {}", self.command.display(), arguments.join(" "));
        let mut command = Command::new(&self.command);
        let ran = command::output(command.args(arguments).env("LC_ALL", "C"), PATIENCE).map_err(|source| {
            Error::new(ErrorKind::Precondition, format!("cannot run {}", self.command.display()))
                .with_source(source)
                .with_hint("install the ZFS tools, or choose another method for local snapshots")
        })?;
        let output = ran.ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, format!("{} did not end within {} s", shown(), PATIENCE.as_secs()))
                .with_retry(Retry::Unknown)
                .with_hint("see whether the pool hangs: zpool status")
        })?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let said = text(&output.stderr);
        let (kind, retry) = match output.status.code() {
            // Killed: nobody knows how far it came.
            None => (ErrorKind::Provider, Retry::Unknown),
            Some(_) => (meaning(&said), Retry::Never),
        };
        Err(Error::new(kind, format!("{}: {said}", shown())).with_retry(retry))
    }
}

/// What a message of the command means. It has one exit code for everything.
fn meaning(said: &str) -> ErrorKind {
    let says = |words: &str| said.contains(words);
    match () {
        () if says("does not exist") || says("could not find") => ErrorKind::NotFound,
        () if says("already exists") => ErrorKind::Conflict,
        () if says("permission denied") || says("Permission denied") => ErrorKind::PermissionDenied,
        () if says("out of space") || says("no space") => ErrorKind::Exhausted,
        () => ErrorKind::Provider,
    }
}

/// The pool of a dataset.
pub(super) fn pool(dataset: &str) -> &str {
    dataset.split('/').next().unwrap_or(dataset)
}

/// The dataset of a volume.
pub(super) fn dataset(volume: &Volume) -> Result<&str> {
    volume
        .attributes
        .get(super::discovery::DATASET)
        .map(String::as_str)
        .ok_or_else(|| Error::internal(format!("no dataset is known of the volume {}", volume.id)))
}

/// The ticket of a snapshot of `volume`.
pub(super) fn ticket(volume: &Volume, dataset: &str, name: &str, token: Token) -> Ticket {
    Ticket {
        snapshot: format!("{dataset}@{name}"),
        name: name.to_owned(),
        volume: volume.id.clone(),
        root: volume.root.clone(),
        method: super::Method::Zfs.to_string(),
        token,
        attributes: super::here::attributes(None),
    }
}

/// A snapshot's name that the command cannot take for an option, a dataset or a range of snapshots.
fn checked(snapshot: &str) -> Result<&str> {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | ':' | '/' | '@' | ' ');
    let is_one = snapshot.split('@').count() == 2 && !snapshot.starts_with('-') && snapshot.chars().all(harmless);
    is_one.then_some(snapshot).ok_or_else(|| Error::invalid(format!("not a ZFS snapshot: {snapshot:?}")))
}

fn parse_dataset(line: &str) -> Option<Dataset> {
    let (name, mount_point) = line.split_once('\t')?;
    // "none", "legacy" and "-" are no paths.
    mount_point.starts_with('/').then(|| Dataset { name: name.to_owned(), mount_point: mount_point.into() })
}

fn parse_snapshot(line: &str) -> Option<Listed> {
    let mut columns = line.split('\t');
    let (dataset, name) = columns.next()?.split_once('@')?;
    let token = columns.next()?.parse().ok()?;
    let mark = columns.next()?.to_owned();
    Some(Listed { dataset: dataset.to_owned(), name: name.to_owned(), token, mark })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_understood_and_what_is_not_ours_is_left_out() {
        assert_eq!(
            parse_dataset("tank/pg\t/srv/my pg"),
            Some(Dataset { name: "tank/pg".into(), mount_point: "/srv/my pg".into() })
        );
        assert_eq!(parse_dataset("tank\tlegacy"), None);
        let token = Token::from_bits(1);
        let listed = parse_snapshot(&format!("tank/pg@a-1\t{token}\tmain")).unwrap();
        assert_eq!((listed.dataset.as_str(), listed.name.as_str(), listed.mark.as_str()), ("tank/pg", "a-1", "main"));
        assert_eq!(parse_snapshot("tank/pg@daily\t-\t-"), None);
    }

    #[test]
    fn messages_of_the_command_keep_their_meaning() {
        assert_eq!(meaning("cannot open 'p@x': dataset does not exist"), ErrorKind::NotFound);
        assert_eq!(meaning("cannot create snapshot 'p@x': dataset already exists"), ErrorKind::Conflict);
        assert_eq!(meaning("cannot create snapshots : permission denied"), ErrorKind::PermissionDenied);
        assert_eq!(meaning("out of space"), ErrorKind::Exhausted);
        assert_eq!(meaning("something else"), ErrorKind::Provider);
    }

    #[test]
    fn only_the_full_name_of_one_snapshot_is_given_to_the_command() {
        checked("tank/pg@x-1").unwrap();
        for bad in ["tank/pg", "-r@x", "tank@a@b", "tank@a%b", "tank@a,b", ""] {
            assert!(checked(bad).is_err(), "{bad}");
        }
        assert_eq!(pool("tank/pg/data"), "tank");
    }

    #[test]
    fn a_command_that_is_not_there_is_one_clear_line() {
        let error = Zfs::new(Path::new("/no/such/zfs")).token_of("a@b").unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Precondition, "cannot run /no/such/zfs"));
    }
}
