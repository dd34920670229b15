//! Measuring one program, and the arithmetic of several measurements.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use barman_snap_tests::command::Ran;
use barman_snap_tests::wait;

/// A program that was measured while it ran.
pub(crate) struct Measured {
    /// From before it was started until it had ended.
    pub(crate) wall: Duration,
    /// The most memory that it had at once, in KiB. Of its children nothing.
    pub(crate) peak_kib: u64,
    /// What it said.
    pub(crate) ran: Ran,
}

/// Runs a program to its end, which must be a good one.
///
/// Its memory is the kernel's own high-water mark (`VmHWM`), read every two milliseconds until there is nothing to read.
/// `ru_maxrss` would be exact to the end, but counts the memory of *this* process up to the exec.
#[track_caller]
pub(crate) fn measured(command: &mut Command) -> Measured {
    let line = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = AtomicBool::new(false);
    let ((output, peak_kib), wall) = wait::timed(|| {
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
        let status = format!("/proc/{}/status", child.id());
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| watch(&status, &ended));
            let output = child.wait_with_output();
            ended.store(true, Ordering::Relaxed);
            (output, watcher.join().unwrap_or_default())
        })
    });
    let output = output.unwrap_or_else(|error| panic!("cannot wait for {line}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let ran = Ran { line, status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr) };
    Measured { wall, peak_kib, ran: ran.expect_success() }
}

fn watch(status: &str, ended: &AtomicBool) -> u64 {
    let mut peak = 0;
    while !ended.load(Ordering::Relaxed) {
        let text = std::fs::read_to_string(status).unwrap_or_default();
        peak = peak.max(high_water(&text).unwrap_or(0));
        wait::pass(Duration::from_millis(2));
    }
    peak
}

fn high_water(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
}

/// The median, the smallest and the greatest of some times; nothing of none.
pub(crate) fn spread(times: &[Duration]) -> Option<[Duration; 3]> {
    let mut sorted = times.to_vec();
    sorted.sort();
    Some([*sorted.get(sorted.len() / 2)?, *sorted.first()?, *sorted.last()?])
}

/// How many times as long the peer took: the median over the runs, each of which had its turn right after the peer's.
pub(crate) fn ratio(ours: &[Duration], peer: &[Duration]) -> Option<f64> {
    let mut ratios: Vec<f64> = ours
        .iter()
        .zip(peer)
        .filter(|(ours, _)| !ours.is_zero())
        .map(|(ours, peer)| peer.as_secs_f64() / ours.as_secs_f64())
        .collect();
    ratios.sort_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    #[test]
    fn a_ratio_is_that_of_the_runs_and_not_of_the_medians() {
        // The medians are 20 and 30, but no run had that ratio.
        assert_eq!(ratio(&[ms(10), ms(20), ms(40)], &[ms(30), ms(20), ms(80)]), Some(2.0));
        assert_eq!(ratio(&[ms(0)], &[ms(30)]), None);
        assert_eq!(spread(&[ms(3), ms(1), ms(2)]), Some([ms(2), ms(1), ms(3)]));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn the_memory_of_a_program_is_that_of_the_program() {
        assert_eq!(high_water("Name:\tx\nVmHWM:\t    1234 kB\nVmRSS:\t 1 kB\n"), Some(1234));
        let measured = measured(Command::new("sleep").arg("0.1"));
        assert!(measured.peak_kib > 100 && measured.wall >= ms(100));
    }
}
