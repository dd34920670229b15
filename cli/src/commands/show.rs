//! `show`: one backup, in the blocks of `barman-cloud-backup-show`, with what has been proven of it.

use barman_snap::catalog::CatalogEntry;
use barman_snap::model::{BackupInfo, EngineRecord};
use barman_snap::restore::Proof;
use barman_snap::restore::proof::Outcome;
use barman_snap::{Error, Result, options};
use serde_json::{Value, json};

use crate::args::{Common, Format, ShowArgs};
use crate::exit::Exit;
use crate::{output, setup};

pub(crate) async fn run(common: &Common, args: ShowArgs) -> Result<Exit> {
    let engine = setup::engine(common, &args.catalog, None).await?.build();
    if common.format == Format::Json {
        let object = options::show(&engine, &args.backup_id).await?;
        // The key is what the metadata says, as in the stock tool.
        let server = object["server_name"].as_str().unwrap_or(&args.catalog.server).to_owned();
        output::print(common.format, &json!({ server: object }), |_| String::new())?;
        return Ok(Exit::Success);
    }
    let id = engine.catalog().resolve(&args.backup_id).await?;
    let entry = engine.catalog().entry(&id).await?;
    let proofs = engine.proofs(&id).await?;
    match &entry.info {
        Ok(info) => output::write(&text(&entry, info, &proofs)?)?,
        Err(error) => return Err(Error::corrupt(format!("backup {id} cannot be read: {}", error.chain()))),
    }
    Ok(Exit::Success)
}

/// Rows of a block; rows without a value are left out.
struct Block(String);

impl Block {
    fn title(&mut self, title: &str) -> &mut Self {
        self.0.push_str(&format!("\n  {title}:\n"));
        self
    }

    fn row(&mut self, label: &str, value: Option<impl ToString>) -> &mut Self {
        if let Some(value) = value {
            self.0.push_str(&format!("    {label:<21}: {}\n", value.to_string()));
        }
        self
    }
}

fn text(entry: &CatalogEntry, info: &BackupInfo, proofs: &[Value]) -> Result<String> {
    let record = info.engine_record()?;
    let mut out = Block(format!("Backup {}:\n", entry.id));
    let top =
        |label: &str, value: Option<String>| value.map(|value| format!("  {label:<23}: {value}\n")).unwrap_or_default();
    for line in [
        top("Backup Name", info.backup_name.clone()),
        top("Server Name", info.server_name.clone()),
        top("System Id", info.systemid.clone()),
        top("Status", Some(info.status.as_str().to_owned())),
        top("Keep", entry.keep.map(|keep| keep.as_str().to_owned())),
        top("PostgreSQL Version", info.version.map(|version| version.to_string())),
        top("PGDATA directory", info.pgdata.clone()),
        top("Estimated Cluster Size", info.cluster_size.map(output::bytes)),
        top("Error", info.error.clone()),
    ] {
        out.0.push_str(&line);
    }
    out.title("Server information")
        .row("Checksums", info.data_checksums.as_ref())
        .row("WAL summarizer", info.summarize_wal.as_ref());
    snapshots(&mut out, info, record.as_ref())?;
    if let Some(tablespaces) = &info.tablespaces {
        out.title("Tablespaces");
        for tablespace in tablespaces {
            out.row(&tablespace.name, Some(format!("{} (oid: {})", tablespace.location, tablespace.oid)));
        }
    }
    base(&mut out, info, record.as_ref());
    proven(&mut out, proofs);
    Ok(out.0)
}

fn snapshots(out: &mut Block, info: &BackupInfo, record: Option<&EngineRecord>) -> Result<()> {
    if let Some(record) = record {
        out.title("Snapshot information").row("provider", Some(&record.provider));
        out.row("consistency", Some(if record.from_standby { "taken from a standby" } else { "taken from a primary" }));
        for snapshot in &record.snapshots {
            out.0.push('\n');
            out.row("snapshot", Some(&snapshot.ticket.snapshot))
                .row("volume", Some(&snapshot.ticket.volume))
                .row("method", Some(&snapshot.ticket.method))
                .row("Mount point", Some(&snapshot.mount_point))
                .row("Mount options", Some(&snapshot.mount_options));
        }
    } else if let Some(cloud) = info.snapshots()? {
        out.title("Snapshot information").row("provider", Some(cloud.provider_info.provider()));
        for snapshot in &cloud.snapshots {
            out.0.push('\n');
            out.row("snapshot", snapshot.details.identifier())
                .row("Mount point", snapshot.mount_point.as_ref())
                .row("Mount options", snapshot.mount_options.as_ref());
        }
    }
    Ok(())
}

fn base(out: &mut Block, info: &BackupInfo, record: Option<&EngineRecord>) {
    let seconds = |value: f64| format!("{value:.3} s");
    let timing = |key: &str| record.and_then(|record| record.timings.get(key)).copied().map(seconds);
    let time = |value: Option<chrono::DateTime<chrono::FixedOffset>>| {
        value.map(|time| time.format("%Y-%m-%d %H:%M:%S%.6f%:z").to_string())
    };
    out.title("Base backup information")
        .row("Timeline", info.timeline.map(|timeline| timeline.0))
        .row("Begin WAL", info.begin_wal.as_ref())
        .row("End WAL", info.end_wal.as_ref())
        .row("Begin time", time(info.begin_time))
        .row("End time", time(info.end_time))
        .row("Time in backup mode", timing("backup_mode_s"))
        .row("Time of the cut", timing("cut_s"))
        .row("Bytes copied", record.and_then(|record| record.bytes_copied).map(output::bytes))
        .row("Begin Offset", info.begin_offset)
        .row("End Offset", info.end_offset)
        .row("Begin LSN", info.begin_xlog)
        .row("End LSN", info.end_xlog);
    if record.is_some_and(|record| record.wal_external) {
        out.row("WAL", Some("kept by another tool"));
    }
}

fn proven(out: &mut Block, proofs: &[Value]) {
    out.title("Proofs");
    if proofs.is_empty() {
        out.0.push_str("    none yet; `barman-snap verify` makes one\n");
    }
    for proof in proofs {
        // One of a later version may not be readable as a whole; when it was made can be.
        let text = |key: &str| proof.get(key).and_then(Value::as_str).map(str::to_owned);
        let at = text("finished_at").unwrap_or_else(|| "at an unknown time".to_owned());
        out.row(&at, Some(verdict(proof)));
    }
}

/// What a proof says: that it passed, or what failed and why.
fn verdict(proof: &Value) -> String {
    let Ok(proof) = serde_json::from_value::<Proof>(proof.clone()) else {
        return match proof.get("passed").and_then(Value::as_bool) {
            Some(true) => "passed".to_owned(),
            Some(false) => "FAILED".to_owned(),
            None => "cannot be read by this version".to_owned(),
        };
    };
    let of = |outcome| proof.checks.iter().filter(move |check| check.outcome == outcome);
    let failed: Vec<_> = of(Outcome::Failed).map(|check| format!("{}: {}", check.name, check.detail)).collect();
    match (proof.passed, failed.as_slice()) {
        (true, _) => format!("passed, {} checks{}, {}", of(Outcome::Passed).count(), proof.left_out(), proof.target),
        (false, failed) => format!("FAILED, {}", failed.join("; ")),
    }
}
