//! `gc`: prints its plan; carries it out with `--apply`.

use barman_snap::Result;

use crate::args::{Common, GcArgs};
use crate::exit::Exit;
use crate::{output, setup};

pub(crate) async fn run(common: &Common, args: GcArgs) -> Result<Exit> {
    let engine = setup::engine(common, &args.catalog, Some(&args.provider)).await?.build();
    let plan = engine.plan_gc(chrono::Duration::days(i64::from(args.keep_undone))).await?;
    output::print(common.format, &plan, |plan| {
        let mut text = plan.to_string();
        if !plan.is_empty() {
            text.push_str(if args.apply { "removing all of this\n" } else { "nothing was removed; --apply does it\n" });
        }
        text
    })?;
    if args.apply {
        engine.apply_gc(&plan).await?;
    }
    Ok(Exit::Success)
}
