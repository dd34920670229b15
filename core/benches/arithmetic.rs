//! The pure parts that run often or over much: parsing what stock tools wrote, WAL arithmetic, the decision of recovery.
//!
//! Shown against a peer where there is one: a Python literal against the same value as JSON, read by `serde_json`.
//! `cargo bench -p barman-snap --all-features`
#![allow(missing_docs, reason = "the macros of criterion make public functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark of what does not work is none")]

#[path = "../tests/support_session/mod.rs"]
#[allow(dead_code, reason = "shared with the tests, which need more of it")]
mod support_session;

use std::hint::black_box;

use barman_snap::model::{BackupInfo, Literal, Lsn, Segment, SegmentSize, Timeline};
use barman_snap::session::owner::Liveness;
use barman_snap::session::recover::{CatalogFact, Facts, Wishes, decide};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const INFO: &str = include_str!("../tests/fixtures/backup_info/aws_real_run_pg17.info");

fn parsing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("backup.info");
    group.throughput(Throughput::Bytes(INFO.len() as u64));
    group.bench_function("parse", |bencher| bencher.iter(|| BackupInfo::parse(black_box(INFO)).unwrap()));
    let info = BackupInfo::parse(INFO).unwrap().info;
    group.bench_function("write", |bencher| bencher.iter(|| black_box(&info).to_text().unwrap()));
    group.finish();

    // Thirty volumes, as a large server has them.
    let volume = "{'device': '/dev/sdf', 'mount': {'mount_options': 'rw,noatime', 'mount_point': '/srv/pg data'}, \
                  'size': 1099511627776, 'ratio': 0.25, 'tags': ['a', 'b']}";
    let python = format!("[{}]", vec![volume; 30].join(", "));
    let json = python.replace('\'', "\"");
    let mut group = criterion.benchmark_group("literal of thirty volumes");
    group.throughput(Throughput::Bytes(python.len() as u64));
    group.bench_function("ours", |bencher| bencher.iter(|| Literal::parse(black_box(&python)).unwrap()));
    group.bench_function("serde_json, the same as JSON", |bencher| {
        bencher.iter(|| serde_json::from_str::<serde_json::Value>(black_box(&json)).unwrap());
    });
    group.finish();
}

fn wal(criterion: &mut Criterion) {
    let size = SegmentSize::new(16 << 20).unwrap();
    // A backup during which a terabyte of WAL was written.
    let (begin, stop) = (Lsn(0x28), Lsn(1 << 40));
    let mut group = criterion.benchmark_group("WAL of a terabyte");
    group.bench_function("segments needed", |bencher| {
        bencher.iter(|| Segment::needed(black_box(begin), black_box(stop), Timeline(1), size).count());
    });
    group.bench_function("segments needed, and their names", |bencher| {
        bencher.iter(|| {
            let names = Segment::needed(black_box(begin), black_box(stop), Timeline(1), size);
            names.map(|segment| segment.to_string().len()).sum::<usize>()
        });
    });
    group.finish();
}

fn recovery(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let house = support_session::House::new();
    let state = runtime.block_on(async {
        let session = house.backup(house.engine()).await.unwrap();
        drop(session);
        let (states, _) = house.engine().build().sessions().await.unwrap();
        states.into_iter().next().unwrap()
    });
    let facts = Facts {
        owner: Liveness::Dead,
        silent_s: 600,
        found: vec!["a".into(), "b".into()],
        unseen: None,
        catalog: CatalogFact::Ours,
    };
    criterion.bench_function("decision of recovery", |bencher| {
        bencher.iter(|| decide(black_box(&state), black_box(&facts), Wishes::default()));
    });
}

criterion_group!(benches, parsing, wal, recovery);
criterion_main!(benches);
