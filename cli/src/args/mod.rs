//! The options. Names and short forms are those of the `barman-cloud-*` tools wherever one exists, `-h` included (there it
//! is the host; help is `--help` only).

mod cloud;
mod wal;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::cloud::CloudArgs;
pub(crate) use self::wal::{CompressionArgs, WalArchiveArgs, WalRestoreArgs};

/// Snapshot backups for PostgreSQL: take, list, restore and prove them.
#[derive(Debug, Parser)]
#[command(
    name = "barman-snap",
    version,
    infer_long_args = true,
    disable_help_flag = true,
    disable_help_subcommand = true,
    propagate_version = false,
    max_term_width = 110,
    after_help = "URL is where the catalog lies: a directory, file:///path, s3://bucket/path, gs://bucket/path, or Azure's \
                  https://account.blob.core.windows.net/container/path. SERVER is the name of the PostgreSQL server in it.

\
                  Exit codes: 0 success; 1 the operation failed or was refused; 2 something could not be reached; \
                  3 wrong options or names; 4 damaged data or a defect; 5 done, but for backups that cannot be deleted now.
One line of `error:` on stderr says why.

\
                  `barman-snap COMMAND --help` tells the options of a command."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Print help
    #[arg(long, global = true, action = ArgAction::HelpShort)]
    help: Option<bool>,
    /// Say more on stderr (repeat for debug)
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Say less on stderr
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) quiet: u8,
    /// Form of the output on stdout
    #[arg(long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[value(alias = "console")]
    Text,
    /// One JSON document
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look at everything that a backup needs, and say what is missing
    Check(CheckArgs),
    /// Describe this host for a backup of its disks from another one; prints JSON, for --host-description there
    DescribeHost(DescribeHostArgs),
    /// Take a backup; prints its id
    Backup(BackupArgs),
    /// List the backups
    List(ListArgs),
    /// Show one backup
    Show(ShowArgs),
    /// Keep a backup beyond the retention policy, or release it
    Keep(KeepArgs),
    /// Delete a backup, or those that a retention policy does not need
    Delete(DeleteArgs),
    /// Restore a backup to a directory, ready to be started
    Restore(RestoreArgs),
    /// Restore to a throw-away place, start it, look at every page, and record the proof
    Verify(VerifyArgs),
    /// Bring sessions that were left by their process to their end
    Recover(RecoverArgs),
    /// Find snapshots that belong to nobody; removes them with --apply
    Gc(GcArgs),
    /// Store one WAL file (for archive_command)
    WalArchive(WalArchiveArgs),
    /// Fetch one WAL file (for restore_command)
    WalRestore(WalRestoreArgs),
}

/// The catalog.
#[derive(Debug, Args)]
pub(crate) struct CatalogArgs {
    /// Where the catalog lies
    pub(crate) url: String,
    /// Name of the PostgreSQL server in the catalog
    pub(crate) server: String,
}

/// How to reach the object store.
#[derive(Debug, Args)]
#[command(next_help_heading = "Object store")]
pub(crate) struct StoreArgs {
    /// Endpoint of an S3-compatible store
    #[arg(global = true, long, value_name = "URL")]
    pub(crate) endpoint_url: Option<String>,
    /// Profile in the AWS configuration files, for bucket and snapshots
    #[arg(global = true, short = 'P', long, alias = "profile", value_name = "NAME")]
    pub(crate) aws_profile: Option<String>,
    /// Region of the bucket, and of the instance with the snapshots
    #[arg(global = true, long, value_name = "REGION")]
    pub(crate) aws_region: Option<String>,
    /// Seconds to wait for an answer of the store
    #[arg(global = true, long, value_name = "SECONDS")]
    pub(crate) read_timeout: Option<u64>,
    /// How the bucket is named in requests
    #[arg(global = true, long, value_name = "STYLE", value_parser = ["auto", "virtual", "path"])]
    pub(crate) addressing_style: Option<String>,
    /// Kind of Azure credential, for container and snapshots
    #[arg(global = true, long, alias = "credential", value_name = "KIND", value_parser = ["azure-cli", "managed-identity", "default"])]
    pub(crate) azure_credential: Option<String>,
}

/// How to reach PostgreSQL. What is not given comes from the PG* variables, the service file and the password file.
#[derive(Debug, Args)]
#[command(next_help_heading = "PostgreSQL")]
pub(crate) struct ConnectionArgs {
    /// Host, or directory of the socket
    #[arg(short = 'h', long)]
    pub(crate) host: Option<String>,
    /// Port
    #[arg(short, long)]
    pub(crate) port: Option<String>,
    /// User
    #[arg(short = 'U', long)]
    pub(crate) user: Option<String>,
    /// Database, connection string or URI
    #[arg(short, long)]
    pub(crate) dbname: Option<String>,
}

impl ConnectionArgs {
    /// Whether any of them was given.
    pub(crate) fn is_given(&self) -> bool {
        [&self.host, &self.port, &self.user, &self.dbname].into_iter().any(Option::is_some)
    }
}

/// What is to be snapshotted, and by what.
#[derive(Debug, Args)]
#[command(next_help_heading = "Snapshots")]
pub(crate) struct SnapshotArgs {
    /// Instance with the volumes: a name, on AWS also an id; the local provider needs none
    #[arg(long, value_name = "INSTANCE")]
    pub(crate) snapshot_instance: Option<String>,
    /// A volume of the cluster (repeat for several); without it, those that hold the cluster are found
    #[arg(long, value_name = "DISK")]
    pub(crate) snapshot_disk: Vec<String>,
    /// Leave out this tablespace: it needs no volume, and is restored empty (repeat for several)
    #[arg(long, value_name = "NAME")]
    pub(crate) exclude_tablespace: Vec<String>,
    // Last, because the headings of the clouds hold for all that follows.
    #[command(flatten)]
    pub(crate) provider: ProviderArgs,
}

/// What takes and holds the snapshots.
#[derive(Debug, Args)]
#[command(next_help_heading = "Snapshots")]
pub(crate) struct ProviderArgs {
    /// What takes the snapshots; by default local, or with an instance the cloud that the catalog is in
    #[arg(long, value_enum, value_name = "PROVIDER")]
    pub(crate) snapshot_provider: Option<ProviderName>,
    #[command(flatten)]
    pub(crate) local: LocalArgs,
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
}

/// Options of the local provider.
#[derive(Debug, Args)]
#[command(next_help_heading = "Snapshots")]
pub(crate) struct LocalArgs {
    /// How local snapshots are taken; by default whatever each volume allows
    #[arg(long, value_name = "METHOD", value_parser = ["auto", "btrfs", "zfs", "reflink", "copy"], default_value = "auto")]
    pub(crate) snapshot_method: String,
    /// Directory for local snapshots, on the same file system as the volume
    #[arg(long, value_name = "DIR")]
    pub(crate) snapshot_directory: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProviderName {
    Local,
    Aws,
    Gcp,
    Azure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Consistency {
    Auto,
    Group,
    Independent,
}

impl Consistency {
    /// As a request has it.
    pub(crate) fn group(self) -> Option<bool> {
        match self {
            Self::Auto => None,
            Self::Group => Some(true),
            Self::Independent => Some(false),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
    /// The WAL is kept by another tool
    #[arg(long)]
    pub(crate) wal_external: bool,
    /// Tag that the snapshots shall have: KEY,VALUE (repeat for several)
    #[arg(long, value_name = "KEY,VALUE", value_parser = tag)]
    pub(crate) tag: Vec<(String, String)>,
    /// Cut all volumes at one instant (group), each by itself (independent), or together where that is possible (auto)
    #[arg(long, value_enum, default_value_t = Consistency::Auto)]
    pub(crate) consistency: Consistency,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) snapshot: SnapshotArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeHostArgs {
    /// A data directory, or another one whose real place shall be known (repeat for several); with a connection, those of
    /// the server are found
    #[arg(long, value_name = "DIR")]
    pub(crate) path: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
    /// Name of the backup
    #[arg(short, long)]
    pub(crate) name: Option<String>,
    /// Ask PostgreSQL for an immediate checkpoint instead of a spread one
    #[arg(long)]
    pub(crate) immediate_checkpoint: bool,
    /// Tag for the snapshots: KEY,VALUE (repeat for several)
    #[arg(long, value_name = "KEY,VALUE", value_parser = tag)]
    pub(crate) tag: Vec<(String, String)>,
    /// The WAL is kept by another tool: do not look for it, and say so in the metadata
    #[arg(long)]
    pub(crate) wal_external: bool,
    /// Of a standby: database, connection string or URI of its primary, which is asked to end the last WAL segment
    #[arg(long, value_name = "CONNINFO")]
    pub(crate) primary_dbname: Option<String>,
    /// Seconds to wait for the archiver to store the last segment
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) wal_timeout: u64,
    /// Seconds to wait until all snapshots are cut; 0: as long as it takes
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) cut_timeout: u64,
    /// Seconds to wait until all snapshots can be restored from; 0: as long as it takes
    #[arg(long, alias = "aws-await-snapshots-timeout", value_name = "SECONDS", default_value_t = 0)]
    pub(crate) ready_timeout: u64,
    /// Cut all volumes at one instant (group), each by itself (independent), or together where that is possible (auto)
    #[arg(long, value_enum, default_value_t = Consistency::Auto)]
    pub(crate) consistency: Consistency,
    /// The system identifier of the cluster, if it has replaced the one whose catalog this was (pg_upgrade, initdb): once
    #[arg(long, value_name = "ID")]
    pub(crate) new_system_id: Option<String>,
    /// Print the plan and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) snapshot: SnapshotArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
    /// Id or name of a backup, or first, last
    pub(crate) backup_id: String,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub(crate) struct KeepArgs {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
    /// Id or name of a backup, or first, last
    pub(crate) backup_id: String,
    /// Keep it with all WAL since (full) or with its own WAL only (standalone)
    #[arg(long, value_name = "TARGET", value_parser = ["full", "standalone"], group = "what")]
    pub(crate) target: Option<String>,
    /// Release it
    #[arg(short, long, group = "what")]
    pub(crate) release: bool,
    /// Say whether it is kept
    #[arg(short, long, group = "what")]
    pub(crate) status: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("which").required(true)))]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
    /// Id or name of a backup, or first, last
    #[arg(short, long, group = "which")]
    pub(crate) backup_id: Option<String>,
    /// REDUNDANCY n, or RECOVERY WINDOW OF n DAYS|WEEKS|MONTHS
    #[arg(short, long, group = "which", value_name = "POLICY")]
    pub(crate) retention_policy: Option<String>,
    /// Never leave fewer complete backups than this
    #[arg(short, long, default_value_t = 0, value_name = "N")]
    pub(crate) minimum_redundancy: u32,
    /// Take snapshots that cannot be seen from here for gone: their host, disk or account no longer exists
    #[arg(long)]
    pub(crate) snapshots_gone: bool,
    /// Print what would be deleted and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) provider: ProviderArgs,
}

/// Where a recovery ends.
#[derive(Debug, Args)]
#[command(next_help_heading = "Recovery target", group(clap::ArgGroup::new("recovery_target").multiple(false)))]
pub(crate) struct TargetArgs {
    /// Up to this time; without a zone: local time of this host
    #[arg(long, value_name = "TIME", group = "recovery_target")]
    pub(crate) target_time: Option<String>,
    /// Up to this WAL position
    #[arg(long, value_name = "LSN", group = "recovery_target")]
    pub(crate) target_lsn: Option<String>,
    /// Up to this transaction
    #[arg(long, value_name = "XID", group = "recovery_target")]
    pub(crate) target_xid: Option<String>,
    /// Up to this restore point
    #[arg(long, value_name = "NAME", group = "recovery_target")]
    pub(crate) target_name: Option<String>,
    /// Only as far as consistency
    #[arg(long, group = "recovery_target")]
    pub(crate) target_immediate: bool,
    /// Along this timeline: a number, current or latest
    #[arg(long, value_name = "TIMELINE")]
    pub(crate) target_tli: Option<String>,
    /// Stop just before the target rather than just after
    #[arg(long)]
    pub(crate) target_exclusive: bool,
    /// What PostgreSQL does at the target; by default it is promoted
    #[arg(long, value_name = "ACTION", value_parser = ["promote", "pause", "shutdown"])]
    pub(crate) target_action: Option<String>,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("purpose").multiple(false)))]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
    /// Id or name of a backup, first, last, or auto: the one that suits the target
    pub(crate) backup_id: String,
    /// Data directory to restore to: absent or empty, unless --in-place
    pub(crate) target_dir: PathBuf,
    /// Put a tablespace somewhere else: NAME:LOCATION (repeat for several)
    #[arg(long, value_name = "NAME:LOCATION")]
    pub(crate) tablespace: Vec<String>,
    /// Put the WAL into this directory, absent or empty, and make pg_wal a link to it; by default in place where it was
    #[arg(long, value_name = "DIR")]
    pub(crate) waldir: Option<PathBuf>,
    /// Replace what is in TARGET_DIR; its server must be stopped, and its system identifier that of the backup
    #[arg(long)]
    pub(crate) in_place: bool,
    /// Command that fetches WAL for the restored server; by default this program with the same catalog
    #[arg(long, value_name = "COMMAND")]
    pub(crate) restore_command: Option<String>,
    /// Write the configuration files that lay outside the data directory into it even if they are still there
    #[arg(long)]
    pub(crate) with_config: bool,
    /// The restored server lives beside the original: it archives nothing, and no background worker of it reaches out. The
    /// default while the original is running on this host
    #[arg(long, alias = "no-archiving", group = "purpose", conflicts_with = "in_place")]
    pub(crate) clone: bool,
    /// The restored server takes the place of the original: it archives where that did. The default otherwise
    #[arg(long, group = "purpose")]
    pub(crate) replace: bool,
    /// The restored server follows another one (standby.signal)
    #[arg(long, group = "purpose")]
    pub(crate) standby: bool,
    /// In a cloud: the instance that new volumes are attached to, which is this host; by default it is found out
    #[arg(long, value_name = "INSTANCE")]
    pub(crate) snapshot_recovery_instance: Option<String>,
    /// In a cloud: the volumes have been made of the snapshots, attached and mounted already; check and prepare them
    #[arg(long, conflicts_with = "in_place")]
    pub(crate) mounted: bool,
    /// Print the plan and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) provider: ProviderArgs,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
    /// Id or name of a backup, first, last
    #[arg(default_value = "last")]
    pub(crate) backup_id: String,
    /// Directory for the throw-away server; by default beside the snapshot
    #[arg(long, value_name = "DIR")]
    pub(crate) work_dir: Option<PathBuf>,
    /// Directory with the programs of the PostgreSQL version of the backup; by default they are looked for
    #[arg(long, value_name = "DIR")]
    pub(crate) pg_bin_dir: Option<PathBuf>,
    /// SQL to run on the restored server (repeat for several)
    #[arg(long, value_name = "SQL")]
    pub(crate) sql: Vec<String>,
    /// Database for --sql
    #[arg(long, value_name = "DATABASE", default_value = "postgres")]
    pub(crate) sql_dbname: String,
    /// Leave out a check: amcheck or checksums (repeat for both); the proof says so
    #[arg(long, value_name = "CHECK", value_parser = ["amcheck", "checksums"])]
    pub(crate) without: Vec<String>,
    /// Replay all WAL in the catalog, not only as far as consistency
    #[arg(long)]
    pub(crate) all_wal: bool,
    /// With --all-wal: along this timeline, a number, current or latest
    #[arg(long, value_name = "TIMELINE", requires = "all_wal")]
    pub(crate) target_tli: Option<String>,
    /// In a cloud: the instance that new volumes are attached to, which is this host; by default it is found out
    #[arg(long, value_name = "INSTANCE")]
    pub(crate) snapshot_recovery_instance: Option<String>,
    /// Seconds until the server must be consistent
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub(crate) timeout: u64,
    #[command(flatten)]
    pub(crate) provider: ProviderArgs,
}

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
    /// This session only
    #[arg(short, long, value_name = "ID")]
    pub(crate) backup_id: Option<String>,
    /// Take over even if the process may still be running; it will be fenced
    #[arg(long)]
    pub(crate) force: bool,
    /// Undo also what could be completed
    #[arg(long)]
    pub(crate) discard: bool,
    /// Take snapshots that cannot be seen from here for gone: their host, disk or account no longer exists
    #[arg(long)]
    pub(crate) snapshots_gone: bool,
    /// Seconds to wait for the archiver to store the last segment
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) wal_timeout: u64,
    /// Print the plan and do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) provider: ProviderArgs,
}

#[derive(Debug, Args)]
pub(crate) struct GcArgs {
    #[command(flatten)]
    pub(crate) catalog: CatalogArgs,
    /// Remove what was found
    #[arg(long)]
    pub(crate) apply: bool,
    /// Days for which the journals of undone backups are kept
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub(crate) keep_undone: u32,
    /// Days after which a volume that a restore has made and never attached is garbage. Mind restores that are going on
    #[arg(long, value_name = "DAYS", default_value_t = 1)]
    pub(crate) volumes_older_than: u32,
    #[command(flatten)]
    pub(crate) provider: ProviderArgs,
}

/// `KEY,VALUE`, split at the first comma, both trimmed.
fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once(',') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("a tag looks like KEY,VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[test]
    fn the_options_are_consistent() {
        Cli::command().debug_assert();
    }

    /// The reference page: the help of every command, as it is printed in a terminal of 100 columns.
    fn reference() -> String {
        let mut cli = Cli::command().term_width(100);
        cli.build();
        let mut text = String::from(
            "# The command line\n\nWhat `--help` prints. Generated: `BLESS=1 cargo test -p barman-snap-cli reference`.\n",
        );
        let mut add = |command: &mut clap::Command, title: &str| {
            let help = command.render_help().to_string();
            let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
            text.push_str(&format!("\n## {title}\n\n```text\n{}\n```\n", lines.join("\n").trim_end()));
        };
        add(&mut cli, "barman-snap");
        for command in cli.get_subcommands_mut() {
            let title = command.get_name().to_owned();
            add(command, &title);
        }
        text
    }

    #[test]
    fn the_reference_page_is_what_help_prints() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
        let text = reference();
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap() == text, "docs/cli.md is old; BLESS=1 writes it anew");
    }

    #[test]
    fn h_is_the_host_and_prefixes_are_enough() {
        let cli =
            Cli::try_parse_from(["barman-snap", "backup", "/c", "pg1", "-h", "/run", "--immediate", "--tag", "a, b"]);
        let Command::Backup(backup) = cli.unwrap().command else { panic!() };
        assert_eq!(backup.connection.host.as_deref(), Some("/run"));
        assert!(backup.immediate_checkpoint);
        assert_eq!(backup.tag, [("a".to_owned(), "b".to_owned())]);
    }
}
