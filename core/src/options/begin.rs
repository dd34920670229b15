//! To connect and begin a backup, in such a way that it can be cancelled at any moment and nothing is left.

use super::connect_options;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::{BackupControl, PostgresControl};
use crate::session::{BackupRequest, BackupSession, CancelToken};

/// Connects as [`connect_options`] says, plans a backup and claims its id.
///
/// Connecting is given up when `cancel` is fired. What comes after is not: dropped half-way, it could leave a journal that
/// says nothing. A session that was begun in spite of a cancellation is undone before this returns.
///
/// # Errors
/// As [`PostgresControl::connect`] and [`Engine::backup`]; [`Cancelled`](ErrorKind::Cancelled).
pub async fn begin(
    engine: &Engine,
    connection: Option<&str>,
    request: &BackupRequest,
    cancel: &CancelToken,
) -> Result<BackupSession> {
    let options = connect_options(connection);
    let control: Box<dyn BackupControl> = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(cancelled()),
        control = PostgresControl::connect(&options) => Box::new(control?),
    };
    let mut session = engine.backup(control, request).await?;
    if !cancel.is_cancelled() {
        return Ok(session);
    }
    session.cancel_token().cancel();
    Err(session.run().await.err().unwrap_or_else(cancelled))
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "the backup was cancelled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn cancelled_before_it_connects_it_touches_nothing() {
        let place = tempfile::tempdir().unwrap();
        let catalog = place.path().join("catalog");
        let engine = Engine::builder(catalog.to_str().unwrap(), &Default::default(), "pg1").await.unwrap().build();
        let cancel = CancelToken::new();
        cancel.cancel();
        let begun = begin(&engine, Some("host=/nowhere"), &BackupRequest::default(), &cancel).await;
        assert_eq!(begun.unwrap_err().kind(), ErrorKind::Cancelled);
        assert!(!catalog.exists());
    }
}
