//! What must be true of a cluster, asked of PostgreSQL's own tools.

use std::collections::BTreeMap;
use std::path::Path;

use crate::command::attempt;
use crate::pg::{Cluster, Installation};

/// For each table of the users, how many rows it has and a sum over all of them that does not depend on their order.
pub type Sums = BTreeMap<String, (u64, String)>;

/// Counts and sums all tables of database `postgres`. Equal sums mean equal rows.
#[track_caller]
pub fn sums(cluster: &Cluster) -> Sums {
    let tables = cluster.sql(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables \
         WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1",
    );
    // The first 60 bits of each row's digest, summed: a row more, less or changed gives another sum.
    let queries = tables.lines().map(|table| {
        format!(
            "SELECT '{table}', count(*), coalesce(sum(('x' || left(md5(t::text), 15))::bit(60)::bigint::numeric), 0) \
             FROM {table} t"
        )
    });
    let query = queries.collect::<Vec<_>>().join(" UNION ALL ");
    let answer = if query.is_empty() { String::new() } else { cluster.sql(&query) };
    answer.lines().map(row).collect()
}

fn row(line: &str) -> (String, (u64, String)) {
    // From the right: the name of a table may hold anything.
    let mut fields = line.rsplitn(3, '|');
    let sum = fields.next().unwrap_or_default().to_owned();
    let count = fields.next().and_then(|count| count.parse().ok()).expect("the second column is a count");
    (fields.next().unwrap_or_default().to_owned(), (count, sum))
}

/// Whether the sums that pgbench keeps three times agree, as they do at every point that a transaction sees.
pub fn pgbench_balanced(cluster: &Cluster) -> Result<(), String> {
    let sums = cluster.sql(
        "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers), \
         (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)",
    );
    let parts: Vec<_> = sums.split('|').collect();
    if parts.iter().all(|part| *part == parts[0]) { Ok(()) } else { Err(format!("pgbench's sums differ: {sums}")) }
}

/// Whether every page of a stopped cluster has the right checksum, by `pg_checksums --check`. Gives the number of pages.
pub fn checksums_ok(installation: &Installation, data: &Path) -> Result<u64, String> {
    let ran = attempt(installation.command("pg_checksums").arg("--check").arg("-D").arg(data));
    if !ran.success() {
        return Err(format!("{}{}", ran.stdout, ran.stderr));
    }
    let pages = ran.stdout.lines().find_map(|line| line.strip_prefix("Blocks scanned:")?.trim().parse().ok());
    pages.ok_or_else(|| format!("pg_checksums says nothing of pages: {}", ran.stdout))
}

/// Whether `pg_amcheck` finds every table and index of a running cluster sound, heap against index included. It puts
/// its extension into the databases.
pub fn amcheck_ok(cluster: &Cluster) -> Result<(), String> {
    let mut command = cluster.command("pg_amcheck");
    let ran = attempt(command.args(["--all", "--install-missing", "--heapallindexed"]));
    if ran.success() { Ok(()) } else { Err(format!("{}{}", ran.stdout, ran.stderr)) }
}

/// Like [`amcheck_ok`], in sessions that no setting disturbs, and only with what every heap and index must fulfil.
pub fn amcheck_calm(cluster: &Cluster) -> Result<(), String> {
    let mut command = cluster.command("pg_amcheck");
    command.args(["--all", "--install-missing"]).env("PGOPTIONS", crate::pg::CALM);
    let ran = attempt(command.arg("--maintenance-db").arg(cluster.database()));
    if ran.success() { Ok(()) } else { Err(format!("pg_amcheck: {}{}", ran.stdout, ran.stderr)) }
}

/// The pages of a stopped cluster whose checksums are wrong, as `pg_checksums` names them; none where it has none. What else
/// it complains of are files that are no relations, which PostgreSQL does not mind.
pub fn bad_checksums(installation: &Installation, data: &Path) -> Vec<String> {
    let ran = attempt(installation.command("pg_checksums").arg("--check").arg("-D").arg(data));
    ran.stderr.lines().filter(|line| line.contains("checksum verification failed in file")).map(str::to_owned).collect()
}
