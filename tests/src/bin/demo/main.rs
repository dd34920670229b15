//! `make demo`: the whole story on a PostgreSQL made for it — two backups under load, a third one killed in the middle,
//! recovery, a restore to a point in time, and the proof of it.
//!
//! What is printed is what happened: every command is the one that is run, its output is its own, every number was
//! measured, and every claim is checked before it is made. If one does not hold, the program says so and fails.
//!
//! It runs as two processes. This one only waits: when it is interrupted, or when the other one dies in whatever way, it
//! sees to it that nothing is left behind. The other one tells the story.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "to be read by a person is what it is for")]

mod screen;
mod stage;
mod story;
mod warden;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => warden::watch(),
        [warden::STORY] => story::tell(),
        _ => {
            eprintln!("usage: demo (it has no options; NO_COLOR=1 turns colours off)");
            ExitCode::from(3)
        }
    }
}
