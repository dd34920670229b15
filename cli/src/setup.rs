//! From options to the parts of the engine: catalog, provider, connection, log, interrupts.

use std::collections::BTreeMap;

use barman_snap::catalog::CatalogUrl;
use barman_snap::catalog::store::{AddressingStyle, AzureCredential};
use barman_snap::engine::EngineBuilder;
use barman_snap::options::EngineOptions;
use barman_snap::postgres::{BackupControl, ConnectOptions, PostgresControl};
use barman_snap::{Error, Result, redact};

use crate::args::{CatalogArgs, Common, ConnectionArgs, LocalArgs, ProviderArgs, ProviderName, SnapshotArgs};

/// An engine for a backup: with an instance, the provider is that of the cloud which the catalog is in, unless named.
pub(crate) async fn backup_engine(
    common: &Common,
    catalog: &CatalogArgs,
    snapshot: &SnapshotArgs,
) -> Result<EngineBuilder> {
    let mut options = snapshot_options(common, &snapshot.provider);
    if options.snapshot_provider.is_none() && snapshot.snapshot_instance.is_some() {
        options.snapshot_provider = Some(fitting_provider(&catalog.url)?.to_owned());
    }
    options.open(&catalog.url, &catalog.server).await
}

/// The provider of the cloud that a catalog is in. Only an instance of that cloud can be meant by `--snapshot-instance`;
/// without one, the volumes are those of this machine.
fn fitting_provider(url: &str) -> Result<&'static str> {
    Ok(match CatalogUrl::parse(url)? {
        CatalogUrl::Local { .. } => "local",
        CatalogUrl::S3 { .. } => "aws",
        CatalogUrl::Gcs { .. } => "gcp",
        CatalogUrl::Azure { .. } => "azure",
    })
}

/// An engine for a catalog; without snapshot options, with the local provider as it is.
pub(crate) async fn engine(
    common: &Common,
    catalog: &CatalogArgs,
    snapshots: Option<&ProviderArgs>,
) -> Result<EngineBuilder> {
    let options = match snapshots {
        Some(args) => snapshot_options(common, args),
        None => store_options(common),
    };
    options.open(&catalog.url, &catalog.server).await
}

fn snapshot_options(common: &Common, args: &ProviderArgs) -> EngineOptions {
    let mut options = store_options(common);
    options.snapshot_provider = args.snapshot_provider.map(|name| {
        match name {
            ProviderName::Local => "local",
            ProviderName::Aws => "aws",
            ProviderName::Gcp => "gcp",
            ProviderName::Azure => "azure",
        }
        .to_owned()
    });
    set_local(&mut options, &args.local);
    (options.aws, options.gcp, options.azure) = args.cloud.options();
    options.host_description.clone_from(&args.cloud.host_description);
    options
}

/// The tags of a command line, each given once.
pub(crate) fn tags(given: &[(String, String)]) -> Result<BTreeMap<String, String>> {
    let mut tags = BTreeMap::new();
    for (key, value) in given {
        if let Some(other) = tags.insert(key.clone(), value.clone()) {
            let message = format!("tag {key:?} is given twice, with {other:?} and {value:?}");
            return Err(Error::invalid(message).with_hint("a snapshot has one value for a key"));
        }
    }
    Ok(tags)
}

/// This program with the options that reach the same store: the beginning of a `restore_command`.
pub(crate) fn restore_program(common: &Common) -> Result<Vec<String>> {
    let program =
        std::env::current_exe().map_err(|error| Error::internal("where is this program?").with_source(error))?;
    let mut words = vec![program.display().to_string()];
    words.extend(store_options(common).store_arguments());
    Ok(words)
}

/// Connects to PostgreSQL.
pub(crate) async fn connect(args: &ConnectionArgs) -> Result<Box<dyn BackupControl>> {
    let options = ConnectOptions {
        host: args.host.clone(),
        port: args.port.clone(),
        user: args.user.clone(),
        dbname_or_dsn: args.dbname.clone(),
    };
    Ok(Box::new(PostgresControl::connect(&options).await?))
}

/// Connects to the server of a connection string.
pub(crate) async fn connect_to(dbname: &str) -> Result<Box<dyn BackupControl>> {
    Ok(Box::new(PostgresControl::connect(&ConnectOptions::new(dbname)).await?))
}

fn store_options(common: &Common) -> EngineOptions {
    let args = &common.store;
    EngineOptions {
        endpoint_url: args.endpoint_url.clone(),
        aws_profile: args.aws_profile.clone(),
        aws_region: args.aws_region.clone(),
        read_timeout_ms: args.read_timeout.map(|seconds| seconds.saturating_mul(1000)),
        addressing_style: match args.addressing_style.as_deref() {
            Some("virtual") => AddressingStyle::Virtual,
            Some("path") => AddressingStyle::Path,
            _ => AddressingStyle::Auto,
        },
        azure_credential: args.azure_credential.as_deref().map(|kind| match kind {
            "azure-cli" => AzureCredential::AzureCli,
            "managed-identity" => AzureCredential::ManagedIdentity,
            _ => AzureCredential::Default,
        }),
        ..EngineOptions::default()
    }
}

fn set_local(options: &mut EngineOptions, local: &LocalArgs) {
    options.snapshot_method = Some(local.snapshot_method.clone());
    options.snapshot_directory.clone_from(&local.snapshot_directory);
}

/// Log lines go to stderr: warnings by default, less with `-q`, more with `-v`; `BARMAN_SNAP_LOG` overrides (in the syntax
/// of `tracing-subscriber`).
pub(crate) fn log(common: &Common) {
    let level = match (common.quiet, common.verbose) {
        (1.., _) => "off",
        (0, 0) => "warn",
        (0, 1) => "info",
        (0, 2) => "debug",
        (0, _) => "trace",
    };
    let filter = std::env::var("BARMAN_SNAP_LOG").unwrap_or_else(|_| format!("off,barman_snap={level}"));
    let filter =
        tracing_subscriber::EnvFilter::try_new(&filter).unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // A second subscriber cannot be there: this is the program's beginning.
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| RedactedStderr).with_target(false).try_init();
}

/// Standard error for log lines, which come one by one: also those of libraries, whom nobody has taught what a secret is.
struct RedactedStderr;

impl std::io::Write for RedactedStderr {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        std::io::stderr().write_all(redact::log_line(&text).as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Calls `cancel` at the first SIGINT, SIGTERM or SIGHUP (the terminal is gone); the work then ends by itself, leaving nothing behind. The guard ends the
/// watch.
pub(crate) fn on_interrupt(cancel: impl Fn() + Send + 'static) -> Result<InterruptGuard> {
    use tokio::signal::unix::{SignalKind, signal};
    let watch = |kind| signal(kind).map_err(|error| Error::internal("cannot watch for signals").with_source(error));
    let (mut interrupt, mut terminate) = (watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?);
    // `nohup` has it ignored, and a handler would undo that.
    let mut hangup = if ignores(SignalKind::hangup()) { None } else { Some(watch(SignalKind::hangup())?) };
    let task = tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            Some(_) = async { hangup.as_mut()?.recv().await } => {}
        }
        crate::output::note("interrupted: cleaning up");
        cancel();
    });
    Ok(InterruptGuard(task))
}

/// Whether this process was started with a signal ignored: the mask `SigIgn` of proc_pid_status(5).
fn ignores(signal: tokio::signal::unix::SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    mask >> (signal.as_raw_value() - 1) & 1 == 1
}

/// See [`on_interrupt`].
pub(crate) struct InterruptGuard(tokio::task::JoinHandle<()>);

impl Drop for InterruptGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_one_value() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let told = |given: &[(String, String)]| tags(given).map_err(|error| error.chain());
        assert_eq!(told(&[pair("b", "2"), pair("a", "1")]), Ok([pair("a", "1"), pair("b", "2")].into()));
        let twice = told(&[pair("a", "1"), pair("a", "1")]);
        assert!(twice.as_ref().is_err_and(|line| line.contains("\"a\" is given twice")), "{twice:?}");
    }

    #[test]
    fn the_provider_fits_the_url() {
        let urls = [
            ("/srv/catalog", "local"),
            ("s3://bucket/pg", "aws"),
            ("gs://bucket/pg", "gcp"),
            ("https://account.blob.core.windows.net/container/pg", "azure"),
        ];
        for (url, provider) in urls {
            assert_eq!(fitting_provider(url).map_err(|error| error.chain()).as_deref(), Ok(provider), "{url}");
        }
    }
}
