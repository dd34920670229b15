//! The plan of a restore as a person reads it: `--dry-run`.

use std::fmt;

use super::devices::DevicePlan;
use super::plan::RestorePlan;
use crate::redact;

impl fmt::Display for RestorePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "restore of backup {} (PostgreSQL {}) to {}", self.backup_id, self.major, self.target.display())?;
        if let Some(chosen) = &self.chosen {
            writeln!(f, "{chosen}")?;
        }
        match &self.because {
            Some(because) => writeln!(f, "as a {}, because {because}", self.purpose.as_str())?,
            None => writeln!(f, "as a {}", self.purpose.as_str())?,
        }
        if let Some(note) = &self.note {
            writeln!(f, "{note}")?;
        }
        writeln!(f, "recover {}", self.recovery)?;
        for one in &self.set_aside {
            writeln!(f, "  keep     {} as {}", one.from.display(), one.to.display())?;
        }
        for piece in &self.pieces {
            let part = match piece.subtree.as_os_str().is_empty() {
                true => "all".to_owned(),
                false => piece.subtree.display().to_string(),
            };
            let method = &piece.ticket.method;
            writeln!(f, "  {method:<8} {} ({part}) -> {}", piece.ticket.name, piece.destination.display())?;
        }
        if let Some(devices) = &self.devices {
            show_devices(f, devices)?;
        }
        writeln!(
            f,
            "  empty    {}",
            self.empty.iter().chain(&self.empty_if_there).map(String::as_str).collect::<Vec<_>>().join(", ")
        )?;
        writeln!(
            f,
            "  remove   what belongs to the running original: postmaster.pid, temporary files, relation caches, old signal files"
        )?;
        if let Some(wal) = &self.wal {
            writeln!(f, "  link     pg_wal -> {}", wal.location.display())?;
        }
        for one in self.tablespaces.iter().filter(|one| one.left_out) {
            writeln!(f, "  empty    {}, which was left out of the backup", one.location.display())?;
        }
        for one in &self.tablespaces {
            writeln!(f, "  link     pg_tblspc/{} ({}) -> {}", one.oid, one.name, one.location.display())?;
        }
        for file in &self.write {
            writeln!(f, "  write    {} ({} bytes)", file.name, file.content.len())?;
        }
        for setting in self.settings.iter().filter(|setting| !setting.value.is_empty()) {
            writeln!(f, "  set      {} = {}", setting.name, redact::setting(&setting.name, &setting.value))?;
        }
        for note in &self.configuration {
            writeln!(f, "  config   {note}")?;
        }
        if let Some(owner) = self.owner {
            writeln!(f, "  owner    {}:{}", owner.uid, owner.gid)?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}

fn show_devices(f: &mut fmt::Formatter<'_>, devices: &DevicePlan) -> fmt::Result {
    for volume in &devices.volumes {
        let ticket = &volume.ticket;
        match &volume.attached {
            Some(attached) => writeln!(f, "  use      the volume {attached}, made of {}", ticket.name)?,
            None => {
                let like = if volume.like.is_empty() { String::new() } else { format!(", {}", volume.like) };
                let (name, snapshot, instance) = (&ticket.name, &ticket.snapshot, &devices.instance.name);
                writeln!(f, "  create   a volume of {name} ({snapshot}){like}, attach to {instance}")?;
            }
        }
    }
    for mount in &devices.mounts {
        let of = &devices.volumes[mount.volume].ticket.name;
        let part = if mount.part.is_empty() { String::new() } else { format!(" partition {}", mount.part) };
        let options = if mount.options.is_empty() { "defaults" } else { &mount.options };
        writeln!(f, "  mount    {of}{part} at {} ({options})", mount.mount_point.display())?;
    }
    Ok(())
}
