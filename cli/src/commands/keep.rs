//! `keep`: beyond every retention policy, or released, or which of the two.

use barman_snap::Result;
use barman_snap::catalog::Keep;
use serde_json::json;

use crate::args::{Common, Format, KeepArgs};
use crate::exit::Exit;
use crate::{output, setup};

pub(crate) async fn run(common: &Common, args: KeepArgs) -> Result<Exit> {
    let engine = setup::engine(common, &args.catalog, None).await?.build();
    let catalog = engine.catalog();
    let id = catalog.resolve(&args.backup_id).await?;
    // An id is taken as it is; that there is such a backup is for the catalog to say.
    catalog.entry(&id).await?;
    match args.target.as_deref() {
        Some("full") => catalog.set_keep(&id, Keep::Full).await?,
        Some(_) => catalog.set_keep(&id, Keep::Standalone).await?,
        None if args.release => catalog.release_keep(&id).await?,
        None => {}
    }
    if args.status || common.format == Format::Json {
        let keep = catalog.keep(&id).await?.map_or("nokeep", Keep::as_str);
        output::print(common.format, &json!({ "backup_id": id, "keep": keep }), |_| format!("Keep: {keep}"))?;
    }
    Ok(Exit::Success)
}
