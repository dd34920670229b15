//! Writing to disk what the operating system still keeps in memory.
//!
//! A snapshot of a disk holds what is on the disk. PostgreSQL sees to that for its data, by `fsync` and by WAL; but not for what a
//! person or a tool has just written to `postgresql.conf`, nor for files that are only written at a shutdown. Without a flush the
//! snapshot has such a file with its new length and zeros in it.
//!
//! A flush cannot be interrupted, and on a disk that hangs it never ends. So each runs on a thread of its own that nobody joins,
//! and who waits for it has a limit and can be cancelled.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::{Either, join_all, select};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result, Retry};

/// Flushes the file systems of these directories, all at once, each one once.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if that takes longer than `patience`; what the file system says.
pub(crate) async fn flush(clock: &dyn Clock, directories: &[PathBuf], patience: Duration) -> Result<()> {
    flush_by(clock, directories, patience, |file| Ok(rustix::fs::syncfs(file)?)).await
}

async fn flush_by(
    clock: &dyn Clock,
    directories: &[PathBuf],
    patience: Duration,
    sync: impl Fn(&File) -> std::io::Result<()> + Clone + Send + 'static,
) -> Result<()> {
    let systems = one_of_each(directories)?;
    let names: Vec<String> = systems.iter().map(|(path, _)| path.display().to_string()).collect();
    let all = join_all(systems.into_iter().map(|(path, file)| on_a_thread(path, file, sync.clone())));
    match select(std::pin::pin!(all), clock.sleep(patience)).await {
        Either::Left((results, _)) => results.into_iter().collect(),
        Either::Right(_) => {
            let message = format!(
                "the file systems of {} were not written to disk within {} s",
                names.join(", "),
                patience.as_secs()
            );
            Err(Error::new(ErrorKind::Unavailable, message).with_retry(Retry::Safe).with_hint(
                "see whether a disk hangs or is overloaded, and how much is dirty (grep Dirty /proc/meminfo)",
            ))
        }
    }
}

/// An open directory of each file system.
fn one_of_each(directories: &[PathBuf]) -> Result<Vec<(PathBuf, File)>> {
    let mut seen = BTreeSet::new();
    let mut systems = Vec::new();
    for path in directories {
        let file = File::open(path).map_err(|error| fail(path, error))?;
        if seen.insert(file.metadata().map_err(|error| fail(path, error))?.dev()) {
            systems.push((path.clone(), file));
        }
    }
    Ok(systems)
}

fn fail(path: &Path, error: std::io::Error) -> Error {
    Error::io("write to disk the file system of", path, error)
}

async fn on_a_thread(
    path: PathBuf,
    file: File,
    sync: impl Fn(&File) -> std::io::Result<()> + Send + 'static,
) -> Result<()> {
    let (tell, told) = oneshot::channel();
    let work = move || drop(tell.send(sync(&file)));
    std::thread::Builder::new().name("barman-snap-flush".into()).spawn(work).map_err(|error| fail(&path, error))?;
    match told.await {
        Ok(result) => result.map_err(|error| fail(&path, error)),
        Err(_) => Err(Error::internal("a thread that flushed a file system stopped")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn each_file_system_is_flushed_once() {
        let temp = tempfile::tempdir().unwrap();
        let directories = ["a", "b"].map(|name| temp.path().join(name));
        directories.iter().for_each(|path| std::fs::create_dir(path).unwrap());
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let sync = move |_: &File| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        flush_by(&SystemClock::new(), &directories, Duration::from_secs(60), sync).await.unwrap();
        assert_eq!(count.load(Ordering::Relaxed), 1);
        let absent = [temp.path().join("absent")];
        let error = flush(&SystemClock::new(), &absent, Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_disk_that_hangs_is_not_waited_for_without_end() {
        let temp = tempfile::tempdir().unwrap();
        let hang = |_: &File| {
            std::thread::park();
            Ok(())
        };
        let patience = Duration::from_millis(50);
        let error = flush_by(&SystemClock::new(), &[temp.path().into()], patience, hang).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.message().contains("not written to disk within"), "{error}");
        let refuse = |_: &File| Err(std::io::Error::from(std::io::ErrorKind::StorageFull));
        let error = flush_by(&SystemClock::new(), &[temp.path().into()], patience, refuse).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
    }
}
