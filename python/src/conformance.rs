//! The suites that every provider has to pass, for providers written in Python. In builds with the feature `conformance`.

use pyo3::prelude::*;

/// Runs the suites with a `barman_snap.conformance` fixture, whose providers are bridged by `bridge`. Returns pairs of the
/// name of a suite and, if it was skipped, the reason.
#[cfg(feature = "conformance")]
#[pyfunction]
pub(crate) fn run_conformance(
    py: Python<'_>,
    fixture: Py<PyAny>,
    bridge: Py<PyAny>,
) -> PyResult<Vec<(String, Option<String>)>> {
    suites::run(py, fixture, bridge)
}

/// Refuses: this build has no suites.
#[cfg(not(feature = "conformance"))]
#[pyfunction]
pub(crate) fn run_conformance(
    py: Python<'_>,
    fixture: Py<PyAny>,
    bridge: Py<PyAny>,
) -> PyResult<Vec<(String, Option<String>)>> {
    let _ = (fixture, bridge);
    let error = barman_snap::Error::new(barman_snap::ErrorKind::Unsupported, "this build has no conformance suites")
        .with_hint("build the wheel with `maturin build --features conformance`");
    Err(crate::errors::exception(py, &error))
}

#[cfg(feature = "conformance")]
mod suites {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use async_trait::async_trait;
    use barman_snap::clock::{Clock, SystemClock};
    use barman_snap::conformance::{Fixture, Outcome};
    use barman_snap::id::{IdSource, SystemIds, Token};
    use barman_snap::provider::{RestoredVolume, SnapshotProvider, Volume};
    use pyo3::exceptions::PyAssertionError;
    use pyo3::prelude::*;

    use crate::provider::PyProvider;
    use crate::waiting::said;

    /// Between two looks at the state of a snapshot.
    const PAUSE: Duration = Duration::from_millis(2);

    struct PyFixture {
        fixture: Py<PyAny>,
        bridge: Py<PyAny>,
        provider: PyProvider,
        volume_names: Vec<String>,
        clock: SystemClock,
    }

    pub(super) fn run(
        py: Python<'_>,
        fixture: Py<PyAny>,
        bridge: Py<PyAny>,
    ) -> PyResult<Vec<(String, Option<String>)>> {
        let provider = PyProvider::new(py, bridge.call1(py, (fixture.call_method0(py, "provider")?,))?)?;
        let volume_names = fixture.call_method0(py, "volume_names")?.extract(py)?;
        let fixture = PyFixture { fixture, bridge, provider, volume_names, clock: SystemClock::new() };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let report = py.detach(|| {
            let run = || runtime.block_on(barman_snap::conformance::run(&fixture));
            catch_unwind(AssertUnwindSafe(run)).map_err(|panic| said(panic.as_ref()).to_owned())
        });
        let reason = |outcome| match outcome {
            Outcome::Passed => None,
            Outcome::Skipped(why) => Some(why),
        };
        let suites = report.map_err(PyAssertionError::new_err)?.suites;
        Ok(suites.into_iter().map(|(name, outcome)| (name.to_owned(), reason(outcome))).collect())
    }

    impl PyFixture {
        /// Calls a method of the fixture. One that raises ends the suites: it is a defect of the fixture.
        #[allow(clippy::panic, reason = "this is how a suite ends, and `run` catches it")]
        fn call<T>(&self, what: &str, call: impl FnOnce(Python<'_>) -> PyResult<T>) -> T {
            let called = Python::try_attach(|py| call(py).map_err(|raised| raised.to_string()));
            match called {
                Some(Ok(value)) => value,
                Some(Err(raised)) => panic!("the fixture raised an exception in {what}: {raised}"),
                None => panic!("Python has ended"),
            }
        }
    }

    #[async_trait]
    impl Fixture for PyFixture {
        fn provider(&self) -> &dyn SnapshotProvider {
            &self.provider
        }

        fn later(&self) -> Box<dyn SnapshotProvider> {
            Box::new(self.call("later", |py| {
                PyProvider::new(py, self.bridge.call1(py, (self.fixture.call_method0(py, "later")?,))?)
            }))
        }

        fn volume_names(&self) -> Vec<String> {
            self.volume_names.clone()
        }

        async fn write(&self, volume: &Volume, path: &Path, bytes: &[u8]) {
            self.call("write", |py| {
                let path = volume.root.join(path);
                self.fixture.call_method1(py, "write", (path, bytes)).map(drop)
            });
        }

        fn scratch(&self) -> PathBuf {
            self.call("scratch", |py| self.fixture.call_method0(py, "scratch")?.extract(py))
        }

        async fn open(&self, volume: &RestoredVolume) -> Option<PathBuf> {
            let volume = serde_json::to_string(volume).unwrap_or_default();
            self.call("open", |py| self.fixture.call_method1(py, "open", (volume,))?.extract(py))
        }

        async fn close(&self, volume: &RestoredVolume) {
            let volume = serde_json::to_string(volume).unwrap_or_default();
            self.call("close", |py| self.fixture.call_method1(py, "close", (volume,)).map(drop));
        }

        fn token(&self) -> Token {
            SystemIds.token()
        }

        async fn pause(&self) {
            self.clock.sleep(PAUSE).await;
        }
    }
}
