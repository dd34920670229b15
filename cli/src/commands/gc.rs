//! `gc`: prints its plan; carries it out with `--apply`.

use barman_snap::Result;
use barman_snap::session::gc::GcLimits;
use chrono::Duration;

use crate::args::{Common, GcArgs};
use crate::exit::Exit;
use crate::{output, setup};

pub(crate) async fn run(common: &Common, args: GcArgs) -> Result<Exit> {
    let engine = setup::engine(common, &args.catalog, Some(&args.provider)).await?.build();
    let limits = GcLimits {
        keep_undone: Duration::days(args.keep_undone.into()),
        volumes_older_than: Duration::days(args.volumes_older_than.into()),
    };
    let plan = engine.plan_gc(&limits).await?;
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
    Ok(if plan.unreachable.is_empty() { Exit::Success } else { Exit::LeftOut })
}
