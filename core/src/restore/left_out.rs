//! Tablespaces that a backup has left out: what a restore makes of them, and what it says.
//!
//! Such a tablespace is there and empty: its directory with the one that bears the version, its link, its line in the
//! `tablespace_map`. More PostgreSQL does not need, neither to start nor to replay WAL of what was in it: a missing file is made
//! anew. But not every page: a record without an image of its page (a vacuum without checksums) finds none, and recovery ends with a
//! PANIC. Only for this recovery it is told to go on ([`IGNORE`]); `verify` looks at what it has passed over.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::pgdata::{Style, empty_directory, make_directory};
use super::plan::RestorePlan;
use super::settings::Setting;
use super::tablespaces::PlacedTablespace;
use crate::error::{Error, ErrorKind, Result};
use crate::host::beneath::Beneath;
use crate::model::{ControlFile, EngineRecord, ExcludedTablespace};

/// The parameter that lets recovery pass over pages that are not there.
const IGNORE: &str = "ignore_invalid_pages";

/// Behind `recovery_end_command`: switches it off again, as the targets are.
const FORGET: &str = "; sed -i -E \"s/^(ignore_invalid_pages) *=.*/\\1 = 'off'/\" postgresql.auto.conf";

/// Says of each placed tablespace whether it was left out.
pub(super) fn mark(placed: &mut [PlacedTablespace], record: &EngineRecord) {
    placed.iter_mut().for_each(|one| one.left_out = record.leaves_out(one.oid));
}

/// Changes the settings of recovery for a backup that has left out something.
pub(super) fn settings(settings: &mut Vec<Setting>, record: &EngineRecord) {
    if record.excluded_tablespaces.is_empty() {
        return;
    }
    settings.iter_mut().filter(|one| one.name == "recovery_end_command").for_each(|one| one.value.push_str(FORGET));
    settings.push(Setting::new(IGNORE, "on"));
}

/// What the user has to know.
pub(super) fn warnings(record: &EngineRecord) -> Vec<String> {
    let mut warnings: Vec<String> = record.excluded_tablespaces.iter().map(ExcludedTablespace::consequences).collect();
    if !warnings.is_empty() {
        warnings.push(format!(
            "recovery runs with {IGNORE} = on, as WAL may refer to pages of what was left out; that would hide missing pages of other \
             tables as well, which verify looks for; the setting is off again at the end of recovery: restart the server once then"
        ));
    }
    warnings
}

/// Makes each of them, empty. Returns how many entries were removed.
///
/// # Errors
/// Those of the file system; `conflict` where something lies that is not of this restore.
pub(super) fn make(plan: &RestorePlan, target: &Beneath, style: &Style) -> Result<u64> {
    let mut removed = 0;
    for one in plan.tablespaces.iter().filter(|one| one.left_out) {
        let location = plan.building_place(&one.location);
        let (parent, name) = Beneath::above(&location)?;
        let name = name.to_str().ok_or_else(|| Error::invalid(format!("not UTF-8: {}", location.display())))?;
        if has_content(&parent, name)? && !one.inside && !is_on_new_volume(plan, &location, &parent, name)? {
            return Err(Error::new(ErrorKind::Conflict, format!("{} is not empty any more", location.display()))
                .with_hint("is another restore running to the same place?"));
        }
        removed += empty_directory(&parent, name, style)?;
        let inside = parent.enter(Path::new(name))?;
        let inside = inside.ok_or_else(|| Error::precondition(format!("there is no {}", location.display())))?;
        make_directory(&inside, &version_directory(target, plan.major)?, style)?;
    }
    Ok(removed)
}

/// Removes what [`make`] has made where nothing was before: directories that are empty.
pub(super) fn unmake(plan: &RestorePlan) {
    for one in plan.tablespaces.iter().filter(|one| one.left_out && !one.inside) {
        let Ok(entries) = fs::read_dir(plan.building_place(&one.location)) else { continue };
        for entry in entries.flatten() {
            // One that is not empty is not of this restore.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn has_content(parent: &Beneath, name: &str) -> Result<bool> {
    let name = Path::new(name);
    match (parent.look(name)?, parent.enter(name)?) {
        (None, _) => Ok(false),
        (Some(_), Some(directory)) => Ok(!directory.names()?.is_empty()),
        (Some(_), None) => Ok(true),
    }
}

/// Whether it lies on a volume that this restore has made, where its content came along: seen by the device, not by a name which
/// may lead through a link to somewhere else.
fn is_on_new_volume(plan: &RestorePlan, location: &Path, parent: &Beneath, name: &str) -> Result<bool> {
    let Some(here) = parent.enter(Path::new(name))? else { return Ok(false) };
    let device = here.stat()?.st_dev;
    for mount in plan.devices.iter().flat_map(|devices| &devices.mounts) {
        let point = &mount.mount_point;
        let mounted = fs::symlink_metadata(point).map_err(|error| Error::io("look at", point, error))?;
        if location.starts_with(point) && device == mounted.dev() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `PG_17_202406281`: as PostgreSQL names its directory in each tablespace.
fn version_directory(target: &Beneath, major: u32) -> Result<String> {
    let control = target.read(Path::new("global/pg_control"), 1 << 16)?;
    let control = control.ok_or_else(|| Error::precondition("there is no global/pg_control"))?;
    Ok(format!("PG_{major}_{}", ControlFile::catalog_version(&control)?))
}

/// The pages that recovery has not found, of files that are not in one of these tablespaces. From lines of the server's log.
pub(super) fn pages_of_others(lines: &[String], excluded: &[u32]) -> Vec<String> {
    let is_out = |file: &str| excluded.iter().any(|oid| file.starts_with(&format!("pg_tblspc/{oid}/")));
    let of = |line: &String| {
        let said = line.split_once("WARNING:").map(|(_, said)| said.trim())?;
        let file = said.strip_prefix("page ")?.split_once(" of relation ")?.1.split(' ').next()?;
        (!is_out(file)).then(|| said.to_owned())
    };
    lines.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Token;

    #[test]
    fn pages_that_are_missing_elsewhere_are_told_from_those_of_what_was_left_out() {
        let lines = [
            "2026-01-01 LOG:  page 1 of relation base/5/1 does not exist",
            "2026-01-01 [1] WARNING:  page 3 of relation base/5/16384 does not exist",
            "WARNING:  page 3 of relation pg_tblspc/16400/PG_15_202209061/5/16390_vm is uninitialized",
            "WARNING:  page 3 of relation pg_tblspc/164001/PG_15_202209061/5/16390 does not exist",
            "WARNING:  WAL contains references to invalid pages",
        ];
        let found = pages_of_others(&lines.map(str::to_owned), &[16_400]);
        assert_eq!(
            found,
            [
                "page 3 of relation base/5/16384 does not exist",
                "page 3 of relation pg_tblspc/164001/PG_15_202209061/5/16390 does not exist"
            ]
        );
    }

    #[test]
    fn the_settings_change_only_for_a_backup_that_has_left_out_something() {
        let mut record = EngineRecord::new("local", Token::from_bits(1));
        let plain = vec![Setting::new("recovery_end_command", "true")];
        let mut changed = plain.clone();
        settings(&mut changed, &record);
        assert_eq!((changed, warnings(&record).len()), (plain.clone(), 0));
        let one = ExcludedTablespace { oid: 16_400, name: "x".into(), databases: Vec::new(), volume: None };
        record.excluded_tablespaces.push(one);
        let mut changed = plain;
        settings(&mut changed, &record);
        assert!(changed[0].value.starts_with("true; sed") && changed[1] == Setting::new(IGNORE, "on"));
        assert_eq!(warnings(&record).len(), 2);
    }
}
