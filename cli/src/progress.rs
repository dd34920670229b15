//! Progress on stderr: one changing line on a terminal, a line per finished step elsewhere when `-v` asks for it.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use barman_snap::redact;
use barman_snap::session::{Listener, Progress, Step};

use crate::args::Common;

/// A listener that suits where stderr goes and how much the user wants to read.
pub(crate) fn listener(common: &Common) -> Listener {
    if common.quiet > 0 {
        return Listener::default();
    }
    if std::io::stderr().is_terminal() {
        let line = Mutex::new(false);
        return Listener::new(move |progress| on_terminal(&line, progress));
    }
    if common.verbose > 0 {
        return Listener::new(|progress| {
            // A log is read afterwards; what was being waited for is of interest only while it lasts.
            if let Some(text) = describe(progress).filter(|_| !is_passing(progress)) {
                let _ = writeln!(std::io::stderr(), "{text}");
            }
        });
    }
    Listener::default()
}

/// Rewrites one line; a finished step stays, waiting does not.
fn on_terminal(open: &Mutex<bool>, progress: &Progress) {
    let Some(text) = describe(progress) else { return };
    let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
    let mut err = std::io::stderr();
    let clear = if *open { "\r\x1b[2K" } else { "" };
    let stays = !is_passing(progress);
    let end = if stays { "\n" } else { "" };
    let _ = write!(err, "{clear}{text}{end}");
    let _ = err.flush();
    *open = !stays;
}

fn is_passing(progress: &Progress) -> bool {
    matches!(progress, Progress::Waiting { .. } | Progress::StepBegun { .. })
}

fn describe(progress: &Progress) -> Option<String> {
    Some(match progress {
        Progress::Planned { backup_id, volumes } => {
            format!("backup {backup_id}: {volumes} volume{}", if *volumes == 1 { "" } else { "s" })
        }
        Progress::StepBegun { step } => format!("  … {}", words(*step)),
        Progress::StepDone { step, elapsed, .. } => format!("  ✓ {} ({:.3} s)", words(*step), elapsed.as_secs_f64()),
        Progress::Waiting { step, done, of, percent } => {
            let percent = percent.map(|percent| format!(", {percent} %")).unwrap_or_default();
            format!("  … {}: {done} of {of}{percent}", words(*step))
        }
        Progress::Undoing { reason } => format!("  ↩ undoing: {}", redact::text(reason)),
        _ => return None,
    })
}

fn words(step: Step) -> &'static str {
    match step {
        Step::Start => "enter backup mode",
        Step::Announce => "announce in the catalog",
        Step::Snapshot(_) => "take the snapshots",
        Step::AwaitCut(_) => "wait for the cut",
        Step::Stop => "leave backup mode",
        Step::StoreLabel => "store the label",
        Step::Promote => "make the snapshots durable",
        Step::CompleteWal => "complete the WAL",
        Step::AwaitReady => "wait until restorable",
        Step::Secure => "lock and copy the snapshots",
        Step::Publish => "publish",
        Step::DeleteSnapshots => "delete the snapshots",
        Step::ClearCatalog => "clear the catalog",
        Step::CloseUndo => "close the session",
    }
}
