//! A program that embeds the engine moves its futures between threads: all of them are `Send`. The compiler is the test.

use barman_snap::catalog::delete::{DeletePlan, DeleteRequest};
use barman_snap::catalog::{Catalog, Keep};
use barman_snap::engine::RecoverRequest;
use barman_snap::engine::restore::RestoreListener;
use barman_snap::id::BackupId;
use barman_snap::postgres::BackupControl;
use barman_snap::restore::{RestorePlan, RestoreRequest, VerifyOptions, WalSource};
use barman_snap::session::gc::{GcLimits, GcPlan};
use barman_snap::session::{BackupRequest, BackupSession, CancelToken};
use barman_snap::wal::WalArchive;
use barman_snap::{Engine, Error};

fn is_send<T: Send>(_: T) {}

#[allow(dead_code, clippy::too_many_arguments, reason = "only compiled")]
fn the_futures_of_the_engine(
    engine: &Engine,
    id: &BackupId,
    control: Box<dyn BackupControl>,
    checked: Result<Box<dyn BackupControl>, Error>,
    backup: &BackupRequest,
    restore: (&RestoreRequest, &RestorePlan, &RestoreListener, &CancelToken),
    verify: (&WalSource, &VerifyOptions),
    delete: (&DeleteRequest, &DeletePlan),
    gc: &GcPlan,
) {
    is_send(engine.check(checked, backup));
    is_send(engine.backup(control, backup));
    is_send(engine.sessions());
    is_send(engine.recover(&RecoverRequest::default()));
    is_send(engine.adopt(id));
    is_send(engine.plan_gc(&GcLimits::default()));
    is_send(engine.apply_gc(gc));
    is_send(engine.plan_restore(id, restore.0));
    is_send(engine.restore(restore.1, restore.3, restore.2));
    is_send(engine.verify(id, verify.0, verify.1, restore.3, restore.2));
    is_send(engine.proofs(id));
    is_send(engine.plan_delete(delete.0));
    is_send(engine.delete(delete.1));
}

#[allow(dead_code, reason = "only compiled")]
fn the_futures_of_a_session(session: &mut BackupSession) {
    is_send(session.next_step());
    is_send(session.run());
}

#[allow(dead_code, reason = "only compiled")]
fn the_futures_of_the_catalog(catalog: &Catalog, archive: &WalArchive, id: &BackupId, path: &std::path::Path) {
    is_send(catalog.list());
    is_send(catalog.entry(id));
    is_send(catalog.set_keep(id, Keep::Full));
    is_send(catalog.release_keep(id));
    is_send(archive.archive(path));
    is_send(archive.fetch("x", path, false));
}

#[test]
fn it_compiles() {}
