//! `wal-archive` and `wal-restore`: one file each, for `archive_command` and `restore_command`.

use barman_snap::Result;
use barman_snap::model::Compression;
use barman_snap::wal::{Archived, Level, WalArchive};

use crate::args::{Common, CompressionArgs, WalArchiveArgs, WalRestoreArgs};
use crate::exit::Exit;
use crate::{output, setup};

pub(crate) async fn archive(common: &Common, args: WalArchiveArgs) -> Result<Exit> {
    let engine = setup::engine(common, &args.catalog, None).await?.build();
    let mut archive = WalArchive::new(engine.catalog());
    if let Some(codec) = codec(&args.compression) {
        let level = args.compression.compression_level.as_deref().map_or(Ok(Level::default()), str::parse)?;
        archive = archive.with_compression(codec, level)?;
    }
    if let Some(id) = args.new_system_id {
        archive = archive.with_new_system_id(id);
    }
    let archived = archive.archive(&args.wal_path).await?;
    if common.verbose > 0 {
        output::note(match archived {
            Archived::Stored => "stored",
            Archived::AlreadyThere => "already there, with the same content",
        });
    }
    Ok(Exit::Success)
}

fn codec(args: &CompressionArgs) -> Option<Compression> {
    [
        (args.gzip, Compression::Gzip),
        (args.bzip2, Compression::Bzip2),
        (args.xz, Compression::Xz),
        (args.snappy, Compression::Snappy),
        (args.zstd, Compression::Zstd),
        (args.lz4, Compression::Lz4),
    ]
    .into_iter()
    .find_map(|(given, codec)| given.then_some(codec))
}

pub(crate) async fn restore(common: &Common, args: WalRestoreArgs) -> Result<Exit> {
    let engine = setup::engine(common, &args.catalog, None).await?.build();
    let archive = WalArchive::new(engine.catalog()).with_new_tablespaces(args.new_tablespaces.parse()?);
    let fetched = archive.fetch(&args.wal_name, &args.wal_dest, false).await?;
    // Into the log of the server: the only place where its owner learns of it.
    for one in fetched.contained.iter().filter(|_| common.quiet == 0) {
        output::note(&format!(
            "tablespace {} of {:?}, created at {}: made in the data directory, as pg_tblspc/{}",
            one.oid, one.location, one.position, one.oid
        ));
    }
    if common.verbose > 0 {
        output::note(&format!("delivered {} from {}", output::bytes(fetched.size), fetched.key));
    }
    Ok(Exit::Success)
}
