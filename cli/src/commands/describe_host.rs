//! `describe-host`: what this host tells of its disks, for a backup that is driven from another one.

use barman_snap::Result;
use barman_snap::host::devices::HostDescription;

use crate::args::DescribeHostArgs;
use crate::exit::Exit;
use crate::{output, setup};

pub(crate) async fn run(args: DescribeHostArgs) -> Result<Exit> {
    let facts = match args.connection.is_given() {
        true => {
            let mut control = setup::connect(&args.connection).await?;
            let facts = control.facts().await?;
            control.close().await;
            Some(facts)
        }
        false => None,
    };
    // JSON in every --format: it is made to be read by this program.
    output::write(&HostDescription::with_server(facts.as_ref(), &args.path)?.to_json()?)?;
    Ok(Exit::Success)
}
