//! `describe-host`: what this host tells of its disks, for a backup that is driven from another one.

use barman_snap::Result;
use barman_snap::host::devices::HostDescription;
use barman_snap::postgres::BackupControl;

use crate::args::DescribeHostArgs;
use crate::exit::Exit;
use crate::{output, setup};

pub(crate) async fn run(args: DescribeHostArgs) -> Result<Exit> {
    let mut control = match args.connection.is_given() {
        true => Some(setup::connect(&args.connection).await?),
        false => None,
    };
    let server = control.as_mut().map(|control| control.as_mut() as &mut dyn BackupControl);
    let description = HostDescription::with_server(server, &args.path).await?;
    if let Some(mut control) = control {
        control.close().await;
    }
    // JSON in every --format: it is made to be read by this program.
    output::write(&description.to_json()?)?;
    Ok(Exit::Success)
}
