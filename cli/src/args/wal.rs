//! The options of `wal-archive` and `wal-restore`.

use std::path::PathBuf;

use clap::Args;

use super::CatalogArgs;

#[derive(Debug, Args)]
pub(crate) struct WalArchiveArgs {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
    /// The file (%p)
    pub(crate) wal_path: PathBuf,
    /// The system identifier of the cluster, if it has replaced the one whose archive this was (pg_upgrade, initdb): once
    #[arg(long, value_name = "ID")]
    pub(crate) new_system_id: Option<String>,
    #[command(flatten)]
    pub(crate) compression: CompressionArgs,
}

/// How a WAL file is compressed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Compression (one of them; without any, WAL is stored as it is)", group(clap::ArgGroup::new("codec").multiple(false)))]
pub(crate) struct CompressionArgs {
    /// gzip
    #[arg(short = 'z', long, group = "codec")]
    pub(crate) gzip: bool,
    /// bzip2
    #[arg(short = 'j', long, group = "codec")]
    pub(crate) bzip2: bool,
    /// xz
    #[arg(long, group = "codec")]
    pub(crate) xz: bool,
    /// Snappy framing format
    #[arg(long, group = "codec")]
    pub(crate) snappy: bool,
    /// Zstandard
    #[arg(long, group = "codec")]
    pub(crate) zstd: bool,
    /// LZ4 frame
    #[arg(long, group = "codec")]
    pub(crate) lz4: bool,
    /// low, medium, high or a number
    #[arg(long, value_name = "LEVEL", allow_hyphen_values = true)]
    pub(crate) compression_level: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct WalRestoreArgs {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
    /// Name of the file (%f)
    pub(crate) wal_name: String,
    /// Where to put it (%p)
    pub(crate) wal_dest: PathBuf,
    /// Where tablespaces go that the WAL creates: original, where the original has them; inside, into the data directory of the
    /// server that replays it, which then cannot reach what belongs to the original
    #[arg(long, value_name = "PLACE", value_parser = ["original", "inside"], default_value = "original")]
    pub(crate) new_tablespaces: String,
}
