//! The plan of a restore: everything that will be done, decided before anything is done.
//!
//! Pure: facts in, a [`RestorePlan`] or one clear refusal out; no I/O, no clock. [`provision`](mod@super::provision) carries a
//! plan out dully and decides nothing. `--dry-run` prints it.
//!
//! # The invariants
//! * Nothing is written outside the target directory and the new places of the tablespaces.
//! * Nothing that is there is deleted. A restore in place *renames* the old directories ([`SetAside`]) and says so; the
//!   user removes them, after having saved from the old `pg_wal` what was not archived yet.
//! * No link of the plan leads to a tablespace of the original that is still in use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::config::ConfigPlan;
use super::devices::{self, DeviceFacts, DevicePlan};
use super::host::HostFacts;
use super::left_out;
use super::pieces::{Piece, cut_pieces};
use super::refusals;
use super::settings::{CLONE_NOTE, Purpose, Setting, WalSource};
use super::settings::{clone_settings, no_background_workers, recovery_settings};
use super::tablespaces::{PlacedTablespace, TablespaceMapping, normal, place, render_map, unknown};
use super::target::{Ancestry, RecoveryTarget, TargetAction};
use super::timelines;
use super::unwanted;
use super::waldir::{self, PlannedWal};
use crate::catalog::Chosen;
use crate::error::{Error, Result};
use crate::id::{BackupId, Token};
use crate::model::{BackupInfo, EngineRecord};

/// A user and a group by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// What the user wants of volumes; for a provider that restores to devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceWishes {
    /// The instance that volumes are attached to; it has to be this host. `None`: found out.
    pub instance: Option<String>,
    /// The volumes have been made, attached and mounted by the user.
    pub mounted: bool,
}

/// What the user wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// The new data directory, absolute.
    pub target: PathBuf,
    /// The target is the data directory of this very cluster, and its content shall be replaced.
    pub in_place: bool,
    /// Where tablespaces go that do not go where they were.
    pub tablespaces: Vec<TablespaceMapping>,
    /// Where the WAL goes: an absent or empty directory. `None`: into the data directory, or in place where it was.
    pub waldir: Option<PathBuf>,
    /// How far to recover.
    pub recovery: RecoveryTarget,
    /// Where the server gets its WAL from.
    pub wal: WalSource,
    /// What the server is for. `None`: a clone if the original is seen to run on this host, else a replacement.
    pub purpose: Option<Purpose>,
    /// Write the configuration files that lay outside the data directory into it even where they are still there.
    pub with_config: bool,
    /// Who shall own all files; only root may ask for it. Otherwise owners stay as they are in the snapshot.
    pub owner: Option<Owner>,
    /// For a provider that restores to devices: which instance, and whether the user has mounted the volumes.
    pub devices: Option<DeviceWishes>,
    /// The token of this restore: volumes made for it carry it, and it makes the names of directories set aside unique.
    pub token: Token,
    /// How the backup was chosen: for the plan and the answer.
    #[serde(default)]
    pub chosen: Option<Chosen>,
}

impl RestoreRequest {
    /// A restore into a new directory, to the end of the WAL, with nothing special.
    pub fn new(target: impl Into<PathBuf>, wal: WalSource, token: Token) -> Self {
        Self {
            target: target.into(),
            in_place: false,
            tablespaces: Vec::new(),
            waldir: None,
            recovery: RecoveryTarget::default(),
            wal,
            purpose: None,
            with_config: false,
            owner: None,
            devices: None,
            token,
            chosen: None,
        }
    }
}

/// What is known of the WAL archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArchiveFacts {
    /// The names of all archived segments from the begin of the backup on, without suffix; `None` when nobody looked (the
    /// WAL is kept by another tool, or the user gives a `restore_command`).
    pub segments: Option<BTreeSet<String>>,
    /// When each of these segments, and each history (`00000002.history`), was stored, by the clock of the store.
    pub stored: BTreeMap<String, DateTime<Utc>>,
    /// The timelines that have a history file, and their ancestors.
    pub ancestry: Ancestry,
}

/// Everything a plan is made of.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    /// The backup.
    pub backup_id: &'a BackupId,
    /// Its metadata, with `backup_label` filled in (snapshot backups of stock tools keep it in an object of its own).
    pub info: &'a BackupInfo,
    /// Our record about it.
    pub record: &'a EngineRecord,
    /// What the user wants.
    pub request: &'a RestoreRequest,
    /// What is on this host at [`places_to_look_at`].
    pub host: &'a HostFacts,
    /// What is in the archive.
    pub archive: &'a ArchiveFacts,
    /// What is known of the instance, for a provider that restores to devices; `None` for one that fills directories.
    pub devices: Option<&'a DeviceFacts>,
    /// Now.
    pub now: DateTime<Utc>,
}

/// A directory that is replaced: the new one is built beside it, complete, and only then the two change names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// Its name now.
    pub from: PathBuf,
    /// Its name afterwards, in the same directory.
    pub to: PathBuf,
    /// Where the new one is built, in the same directory.
    pub building: PathBuf,
}

impl SetAside {
    /// The names of `path` in the restore whose token begins like this.
    pub(super) fn of(path: &Path, token: &str) -> Self {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self {
            from: path.to_owned(),
            to: path.with_file_name(format!("{name}.before-restore-{token}")),
            building: path.with_file_name(format!("{name}.restoring-{token}")),
        }
    }
}

/// A file that is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    /// Its name, relative to the target.
    pub name: String,
    /// Its whole content.
    pub content: String,
}

/// What will be done, in this order. See the [module documentation](self).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePlan {
    /// The backup.
    pub backup_id: BackupId,
    /// The provider that has its snapshots.
    pub provider: String,
    /// The token of this restore.
    pub token: Token,
    /// The new data directory.
    pub target: PathBuf,
    /// The major version of PostgreSQL.
    pub major: u32,
    /// Directories renamed out of the way; only in place.
    pub set_aside: Vec<SetAside>,
    /// What is taken from which snapshot, and where it goes.
    pub pieces: Vec<Piece>,
    /// Instead of pieces: the volumes that are made of snapshots, and where they are mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<DevicePlan>,
    /// Directories in the target that exist and are empty afterwards. A link is replaced by a directory of its own.
    pub empty: Vec<String>,
    /// Directories in the target that are emptied if they exist.
    pub empty_if_there: Vec<String>,
    /// Directories in the target that are made if they are missing.
    pub make: Vec<String>,
    /// Files in the target that are removed if they exist.
    pub remove: Vec<String>,
    /// Where `pg_wal` lies, if outside of the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<PlannedWal>,
    /// All links in `pg_tblspc` afterwards.
    pub tablespaces: Vec<PlacedTablespace>,
    /// Files that are written.
    pub write: Vec<PlannedFile>,
    /// What the server is for.
    pub purpose: Purpose,
    /// Why, if nobody has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// What that means: what is switched off, and how to switch it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What is known of the configuration beforehand; what leads out of the directory is changed where it is found.
    pub config: ConfigPlan,
    /// What will be changed in the configuration, as far as that can be seen beforehand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configuration: Vec<String>,
    /// What goes to the end of `postgresql.auto.conf`.
    pub settings: Vec<Setting>,
    /// What goes there as well if libraries are preloaded that may have background workers of their own: of a clone. Empty
    /// where the user wants to look at the server during recovery.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_workers: Vec<Setting>,
    /// Who will own everything; `None` leaves owners as they are in the snapshot.
    pub owner: Option<Owner>,
    /// How far the server will recover.
    pub recovery: RecoveryTarget,
    /// The archive lacks a segment in the middle of what it has, and recovery ends there; also among the warnings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<String>,
    /// The system identifier that the data directory must have, if the backup says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_id: Option<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// How the backup was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Chosen>,
}

impl RestorePlan {
    /// Where `path` is built: the same path, except below a directory that is replaced in the end.
    pub fn building_place(&self, path: &Path) -> PathBuf {
        let inside = |one: &SetAside| {
            path.strip_prefix(&one.from).ok().map(|rest| one.building.components().chain(rest.components()).collect())
        };
        self.set_aside.iter().find_map(inside).unwrap_or_else(|| path.to_owned())
    }
}

/// The paths that [`host::look`](super::host::look) must look at before a plan can be made.
pub fn places_to_look_at(info: &BackupInfo, request: &RestoreRequest) -> Result<Vec<PathBuf>> {
    let pgdata = refusals::pgdata(info)?;
    let placed = place(tablespaces(info), &request.tablespaces, &pgdata, &normal(&request.target))?;
    let mut paths = vec![normal(&request.target), pgdata];
    paths.extend(request.waldir.as_deref().map(normal));
    paths.extend(request.wal.directory());
    paths.extend(placed.into_iter().flat_map(|one| [one.location, one.original]));
    Ok(paths)
}

/// Makes the plan.
///
/// # Errors
/// `invalid_input` when the request contradicts itself or the backup, `precondition` when this host or the archive is not
/// in a state in which it could work, `corrupt` when the backup lacks what a restore needs.
pub fn plan(input: PlanInput<'_>) -> Result<RestorePlan> {
    let PlanInput { backup_id, info, record, request, host, .. } = input;
    let target = normal(&request.target);
    let pgdata = refusals::pgdata(info)?;
    refusals::backup(&input)?;
    refusals::recovery(&input)?;
    let followed = timelines::follow(&input)?;
    let recovery = RecoveryTarget { timeline: followed.timeline, ..request.recovery.clone() };
    let mut placed = place(tablespaces(info), &request.tablespaces, &pgdata, &target)?;
    left_out::mark(&mut placed, record);
    refusals::places(&input, &target, &placed)?;

    let major = info.version.map_or(0, |version| version / 10_000);
    let wal = waldir::plan(&input, &target, &placed)?;
    let (purpose, because) = refusals::purpose(&input, &pgdata, &target)?;
    let mut settings = settings(request, &recovery, purpose, info.version.unwrap_or(0))?;
    left_out::settings(&mut settings, record);
    let config = config(&input, &pgdata, &target, purpose);
    let mut warnings = warnings(&input, &config, purpose, &placed);
    warnings.extend(followed.warnings);
    let (pieces, devices) = match input.devices {
        None => (cut_pieces(record, host, &pgdata, &target, &placed)?, None),
        Some(facts) => {
            let (devices, said) = devices::layout::plan(&input, facts, &pgdata, &target, &placed)?;
            warnings.extend(said);
            (Vec::new(), Some(devices))
        }
    };
    Ok(RestorePlan {
        backup_id: backup_id.clone(),
        provider: record.provider.clone(),
        token: request.token.clone(),
        set_aside: set_aside(&input, &target, &placed, wal.as_ref()),
        wal,
        pieces,
        devices,
        empty: unwanted::EMPTIED.map(str::to_owned).into(),
        empty_if_there: unwanted::LOGS.map(str::to_owned).into(),
        make: directories_to_make(major),
        remove: unwanted::REMOVED.map(str::to_owned).into(),
        write: files(&input, &placed, purpose)?,
        purpose,
        because,
        note: (purpose == Purpose::Clone).then(|| CLONE_NOTE.to_owned()),
        config,
        configuration: Vec::new(),
        warnings,
        chosen: request.chosen.clone(),
        tablespaces: placed,
        settings,
        no_workers: match (purpose, request.recovery.action) {
            (Purpose::Clone, TargetAction::Promote | TargetAction::Shutdown) => no_background_workers(),
            _ => Vec::new(),
        },
        owner: request.owner,
        recovery,
        gap: followed.gap,
        system_id: info.systemid.clone(),
        target,
        major,
    })
}

fn tablespaces(info: &BackupInfo) -> &[crate::model::Tablespace] {
    info.tablespaces.as_deref().unwrap_or_default()
}

/// In place, whatever has content at a place of ours moves aside under a name that tells what it is.
fn set_aside(
    input: &PlanInput<'_>,
    target: &Path,
    placed: &[PlacedTablespace],
    wal: Option<&PlannedWal>,
) -> Vec<SetAside> {
    use super::host::PlaceKind;
    if !input.request.in_place {
        return Vec::new();
    }
    let token = &input.request.token.as_str()[..8];
    std::iter::once(target)
        .chain(placed.iter().filter(|one| !one.inside).map(|one| one.location.as_path()))
        .filter(|path| input.host.at(path).kind == PlaceKind::Full)
        .map(|path| SetAside::of(path, token))
        .chain(wal.and_then(|wal| wal.renamed(token)))
        .collect()
}

fn settings(
    request: &RestoreRequest,
    recovery: &RecoveryTarget,
    purpose: Purpose,
    version: u32,
) -> Result<Vec<Setting>> {
    let mut settings = recovery_settings(recovery, &request.wal, purpose == Purpose::Standby)?;
    if purpose == Purpose::Clone {
        settings.extend(clone_settings(version / 10_000));
    }
    if knows_tablespaces_in_place(version) {
        // Where recovery becomes consistent, and whenever it is continued behind that, PostgreSQL ends with a PANIC if there is such a
        // directory and this is off (`CheckTablespaceDirectory`). What WAL creates is one, and so is all that came with the backup of
        // a server that was restored before.
        settings.push(Setting::new("allow_in_place_tablespaces", "on"));
    }
    Ok(settings)
}

/// What is known of the configuration. At the very path of the original, a server that replaces it goes on with what lies
/// elsewhere; anywhere else it would share that with the original.
fn config(input: &PlanInput<'_>, pgdata: &Path, target: &Path, purpose: Purpose) -> ConfigPlan {
    let PlanInput { info, record, .. } = input;
    let mut originals = vec![pgdata.to_owned()];
    originals.extend(pgdata.to_str().and_then(|path| record.real_paths.get(path)).map(PathBuf::from));
    let of_old = record.config_files.iter().map(|(path, text)| (normal(Path::new(path)), text.clone().into_bytes()));
    let saved: BTreeMap<_, _> =
        of_old.chain(record.saved_files.iter().map(|file| (normal(&file.path), file.content.clone()))).collect();
    // A link inside of the data directory may lead outside: then its content was saved under its own name.
    let outside = |path: &Option<String>| {
        let path = normal(Path::new(path.as_deref()?));
        (saved.contains_key(&path) || !originals.iter().any(|top| path.starts_with(top))).then_some(path)
    };
    ConfigPlan {
        main: outside(&info.config_file),
        hba: outside(&info.hba_file),
        ident: outside(&info.ident_file),
        keeps_outside: purpose != Purpose::Clone && originals.iter().any(|top| top == target),
        write_saved: input.request.with_config,
        at_least: record.settings.clone(),
        originals,
        saved,
    }
}

/// Older ones do not know the parameter, and would not start.
const fn knows_tablespaces_in_place(version: u32) -> bool {
    matches!(version, 150_000..|140_005..=149_999| 130_008..=139_999)
}

/// What PostgreSQL wants to find inside the emptied directories.
fn directories_to_make(major: u32) -> Vec<String> {
    let mut make = vec!["pg_wal/archive_status".to_owned(), "pg_tblspc".to_owned()];
    if major >= 17 {
        make.push("pg_wal/summaries".to_owned());
    }
    make
}

/// Label and tablespace map byte for byte, and the signal file.
fn files(input: &PlanInput<'_>, placed: &[PlacedTablespace], purpose: Purpose) -> Result<Vec<PlannedFile>> {
    let file = |name: &str, content: String| PlannedFile { name: name.to_owned(), content };
    let label = input.info.backup_label.clone().filter(|label| !label.is_empty()).ok_or_else(|| {
        Error::corrupt(format!("backup {} has no backup_label", input.backup_id))
            .with_hint("without it PostgreSQL would start from the wrong checkpoint and lose data silently")
    })?;
    let mut files = Vec::new();
    if let Some(map) = render_map(input.record.tablespace_map.as_deref(), placed)? {
        files.push(file("tablespace_map", map));
    }
    let signal = if purpose == Purpose::Standby { "standby.signal" } else { "recovery.signal" };
    files.push(file(signal, String::new()));
    // Last: a data directory without its label must not look ready.
    files.push(file("backup_label", label));
    Ok(files)
}

/// How the server gets its WAL, if that is not by way of us: what the WAL creates then is not led inside the data directory.
const fn unguarded(wal: &WalSource) -> Option<&'static str> {
    match wal {
        WalSource::Catalog { .. } => None,
        WalSource::Command(_) => Some("a restore_command of your own"),
        WalSource::None => Some("WAL put into pg_wal by hand"),
    }
}

fn warnings(input: &PlanInput<'_>, config: &ConfigPlan, purpose: Purpose, placed: &[PlacedTablespace]) -> Vec<String> {
    let PlanInput { record, request, .. } = input;
    let mut warnings = Vec::new();
    if let Some(main) = config.main.as_ref().filter(|main| !config.saved.contains_key(*main)) {
        let values: Vec<_> = record.settings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let at_least = if values.is_empty() { String::new() } else { format!(", with at least {}", values.join(", ")) };
        warnings.push(format!(
            "the configuration of the original lay outside its data directory, at {}, and is not in the backup: start the \
             server with a configuration of its own{at_least}",
            main.display()
        ));
    }
    match purpose {
        Purpose::Replacement => warnings.push(
            "this server takes the place of the original: it archives with the archive_command of the original, and its \
             subscriptions go on; if the original lives, restore with --clone"
                .to_owned(),
        ),
        Purpose::Clone | Purpose::Standby => {}
    }
    if record.wal_external {
        warnings.push(
            "the WAL of this backup is kept by another tool: restore_command must fetch it from there".to_owned(),
        );
    }
    warnings.extend(left_out::warnings(record));
    for (oid, location) in unknown(record.tablespace_map.as_deref(), placed) {
        warnings.push(format!(
            "the tablespace map has {oid} at {location}, which the backup does not know: left out; it is a link that was left over, \
             or a tablespace that was created while the backup started and of which only later changes are restored"
        ));
    }
    if let (false, Some(how)) = (purpose == Purpose::Standby, unguarded(&request.wal)) {
        warnings.push(format!(
            "with {how}, a tablespace that was created after the backup goes where the original has it: on the host of the \
             original, into the directory that is in use there; wal-restore --new-tablespaces inside keeps it in the new data \
             directory"
        ));
    }
    for one in placed.iter().filter(|one| one.inside) {
        warnings.push(format!(
            "tablespace {:?} lay inside the data directory and goes to {}",
            one.name,
            one.location.display()
        ));
    }
    if request.in_place {
        warnings.push(format!(
            "what is in {} now is kept beside it under another name, with its pg_wal: save from there what was not \
             archived, then remove it",
            request.target.display()
        ));
    }
    warnings
}
