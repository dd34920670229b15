//! A command of the system, with a limit: one that hangs (on a pool without its disks, say) must not keep a backup waiting.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

/// How often it is looked whether the command has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// Runs a command and collects what it says; `None` if it has not ended after `limit`. Then it is killed, and what it has done is
/// not known.
pub(super) fn output(command: &mut Command, limit: Duration) -> std::io::Result<Option<Output>> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // Each on a thread of its own, so that a full pipe does not stop the command. A grandchild that keeps a pipe open keeps only
    // the thread.
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let Some(status) = ended(&mut child, limit)? else {
        child.kill()?;
        // One that cannot be killed now is reaped when this process ends.
        ended(&mut child, Duration::from_secs(1))?;
        return Ok(None);
    };
    let read = |from: std::sync::mpsc::Receiver<Vec<u8>>| from.recv_timeout(limit).unwrap_or_default();
    Ok(Some(Output { status, stdout: read(stdout), stderr: read(stderr) }))
}

fn ended(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let looks = limit.as_millis() / PAUSE.as_millis();
    for _ in 0..=looks {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::park_timeout(PAUSE);
    }
    Ok(None)
}

fn collect(from: Option<impl Read + Send + 'static>) -> std::sync::mpsc::Receiver<Vec<u8>> {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            let _ = from.read_to_end(&mut bytes);
        }
        let _ = tell.send(bytes);
    });
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_collected_however_much_it_is() {
        let script = "head -c 300000 /dev/zero; echo oops >&2; exit 3";
        let output = output(Command::new("sh").args(["-c", script]), Duration::from_secs(60)).unwrap().unwrap();
        assert_eq!((output.stdout.len(), &*output.stderr, output.status.code()), (300_000, &b"oops\n"[..], Some(3)));
    }

    #[test]
    fn a_command_that_hangs_is_killed() {
        let mut command = Command::new("sleep");
        assert!(output(command.arg("600"), Duration::from_millis(50)).unwrap().is_none());
        assert!(output(&mut Command::new("/absent"), Duration::from_secs(1)).is_err());
    }
}
