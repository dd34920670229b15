//! Who drives a session, and whether that process still lives.
//!
//! This decides only whether `recover` may *try*; that two drivers never both win is the journal's business.

use serde::{Deserialize, Serialize};

use crate::host::{host_name, machine_id};

/// A process on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The name of the host, for people.
    pub host: String,
    /// The boot of that host (`/proc/sys/kernel/random/boot_id`); it differs between hosts and after a restart.
    pub boot_id: String,
    /// The process.
    pub pid: u32,
    /// The space of process ids (`/proc/self/ns/pid`): containers of one machine share its boot, not their process ids.
    #[serde(default)]
    pub pid_space: String,
    /// The machine (`/etc/machine-id`); host names repeat.
    #[serde(default)]
    pub machine: String,
    /// When the process started, in clock ticks since boot (`/proc/<pid>/stat`, field 22): process ids are reused.
    pub started: u64,
}

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Liveness {
    /// The process runs on this host.
    Alive,
    /// The process ran on this host, or in an earlier boot of it, and is gone.
    Dead,
    /// It ran on another host; this one cannot tell.
    Elsewhere,
}

impl Owner {
    /// This process.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self {
            host: host_name(),
            boot_id: boot_id(),
            pid,
            pid_space: pid_space(),
            machine: machine_id(),
            started: process_start(pid).unwrap_or(0),
        }
    }

    /// Whether the process lives, as far as this host can tell.
    pub fn liveness(&self) -> Liveness {
        if self.boot_id != boot_id() {
            let same_machine = self.host == host_name() && self.machine == machine_id();
            return if same_machine { Liveness::Dead } else { Liveness::Elsewhere };
        }
        if self.pid_space != pid_space() {
            return Liveness::Elsewhere;
        }
        match process_start(self.pid) {
            Some(started) if started == self.started => Liveness::Alive,
            _ => Liveness::Dead,
        }
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn pid_space() -> String {
    std::fs::read_link("/proc/self/ns/pid").map(|link| link.display().to_string()).unwrap_or_default()
}

/// Field 22 of `/proc/<pid>/stat`; the second field is a command in brackets that may hold anything. A zombie is dead.
fn process_start(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive() {
        assert_eq!(Owner::current().liveness(), Liveness::Alive);
    }

    #[test]
    fn a_reused_process_id_is_dead() {
        let mut owner = Owner::current();
        owner.started += 1;
        assert_eq!(owner.liveness(), Liveness::Dead);
    }

    #[test]
    fn a_child_that_ended_is_dead() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let owner = Owner { pid: child.id(), started: process_start(child.id()).unwrap(), ..Owner::current() };
        assert_eq!(owner.liveness(), Liveness::Alive);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(owner.liveness(), Liveness::Dead);
    }

    #[test]
    fn an_earlier_boot_is_dead_and_another_host_is_elsewhere() {
        let mut owner = Owner::current();
        owner.boot_id = "another".into();
        assert_eq!(owner.liveness(), Liveness::Dead);
        owner.host = "another".into();
        assert_eq!(owner.liveness(), Liveness::Elsewhere);
        let cloned = Owner { boot_id: "another".into(), machine: "another".into(), ..Owner::current() };
        assert_eq!(cloned.liveness(), Liveness::Elsewhere, "host names repeat");
    }

    #[test]
    fn another_container_of_this_machine_is_elsewhere() {
        let owner = Owner { pid_space: "pid:[1]".into(), ..Owner::current() };
        assert_eq!(owner.liveness(), Liveness::Elsewhere);
    }
}
