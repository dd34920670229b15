//! The process that waits for the story to end, and cleans up when it did not do so itself.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use barman_snap_tests::scratch;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};

/// The argument that makes this program tell the story.
pub(crate) const STORY: &str = "--story";

/// Lets another process tell the story. The first SIGINT, SIGTERM or SIGHUP lets it stop in order, the second one ends it.
pub(crate) fn watch() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("cannot start: {error}")),
    };
    let (code, story) =
        runtime.block_on(wait()).unwrap_or_else(|error| (failed(&format!("cannot run the story: {error}")), None));
    // All that the story makes lies in directories that bear its process id; what it left of them goes now.
    scratch::sweep();
    match story.map(scratch::made_by).unwrap_or_default().as_slice() {
        [] => code,
        left => failed(&format!("these are left and have to be removed by hand: {left:?}")),
    }
}

/// The exit code, and the process that told the story.
async fn wait() -> std::io::Result<(ExitCode, Option<u32>)> {
    let mut command = Command::new(std::env::current_exe()?);
    // A group of its own: Ctrl-C reaches this process only, not every server and client at once.
    command.arg(STORY).process_group(0);
    let mut interrupts = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    let [Ok(interrupt), Ok(terminate), Ok(hangup)] = &mut interrupts else {
        return Ok((failed("cannot watch for signals"), None));
    };
    let mut story = tokio::process::Command::from(command).spawn()?;
    let id = story.id();
    let pid = id.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let mut asked = false;
    loop {
        tokio::select! {
            ended = story.wait() => {
                let code = ended?.code().and_then(|code| u8::try_from(code).ok());
                return Ok((ExitCode::from(code.unwrap_or(130)), id));
            }
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        // It may have ended just now; then there is nobody to tell.
        if let Some(pid) = pid {
            let _ = if asked { kill_process_group(pid, Signal::KILL) } else { kill_process(pid, Signal::TERM) };
        }
        asked = true;
    }
}

fn failed(why: &str) -> ExitCode {
    eprintln!("demo: {why}");
    ExitCode::FAILURE
}
