//! `barman-snap`: options in, calls of the engine, text or JSON out. It decides nothing.
//!
//! stdout holds the result and nothing else; progress, warnings and the one line of an error go to stderr.

mod args;
mod commands;
mod exit;
mod output;
mod progress;
mod setup;

use std::process::ExitCode;

use barman_snap::{Error, Result};
use clap::Parser;

use args::{Cli, Command};
use exit::Exit;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error),
    };
    setup::log(&cli.common);
    let format = cli.common.format;
    let fetching = matches!(cli.command, Command::WalRestore(_));
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => exit::report(&error, format, fetching),
    }
}

fn run(cli: Cli) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::internal("cannot start the runtime").with_source(error))?;
    let common = cli.common;
    runtime.block_on(async {
        match cli.command {
            Command::Check(args) => commands::check::run(&common, args).await,
            Command::DescribeHost(args) => commands::describe_host::run(args).await,
            Command::Backup(args) => commands::backup::run(&common, args).await,
            Command::List(args) => commands::list::run(&common, args).await,
            Command::Show(args) => commands::show::run(&common, args).await,
            Command::Keep(args) => commands::keep::run(&common, args).await,
            Command::Delete(args) => commands::delete::run(&common, args).await,
            Command::Restore(args) => commands::restore::run(&common, args).await,
            Command::Verify(args) => commands::verify::run(&common, args).await,
            Command::Recover(args) => commands::recover::run(&common, args).await,
            Command::Gc(args) => commands::gc::run(&common, args).await,
            Command::WalArchive(args) => commands::wal::archive(&common, args).await,
            Command::WalRestore(args) => commands::wal::restore(&common, args).await,
        }
    })
}
