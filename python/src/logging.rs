//! What the engine logs, for Python's `logging`. Nothing is set up until `barman_snap.enable_logging` asks for it.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Where it goes. There is one for each process, as there is one `logging`.
struct Sink {
    // Python's number of the lowest level that is wanted; 255: none.
    level: AtomicU8,
    function: RwLock<Option<Arc<Py<PyAny>>>>,
}

const OFF: u8 = u8::MAX;

static SINK: Sink = Sink { level: AtomicU8::new(OFF), function: RwLock::new(None) };

/// Calls `sink(level, target, message)` for what the engine logs at this level (of Python) or above; `None` ends that.
#[pyfunction]
pub(crate) fn set_log_sink(sink: Option<Py<PyAny>>, level: u8) -> PyResult<()> {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    SINK.level.store(if sink.is_some() { level } else { OFF }, Ordering::Relaxed);
    let before = {
        let mut function = SINK.function.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *function, sink.map(Arc::new))
    };
    // Not dropped under the lock: that may run code of Python.
    drop(before);
    if level != OFF && !*INSTALLED.get_or_init(|| tracing::subscriber::set_global_default(Bridge).is_ok()) {
        return Err(PyRuntimeError::new_err("this process logs what Rust says already, in another way"));
    }
    Ok(())
}

/// A subscriber that keeps no spans: the engine's events name the backup themselves.
struct Bridge;

fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 40,
        Level::WARN => 30,
        Level::INFO => 20,
        Level::DEBUG => 10,
        Level::TRACE => 5,
    }
}

impl Subscriber for Bridge {
    /// Of the libraries below the engine only warnings are of interest.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let wanted = number(*metadata.level()) >= SINK.level.load(Ordering::Relaxed);
        wanted && (metadata.target().starts_with("barman_snap") || *metadata.level() <= Level::WARN)
    }

    fn register_callsite(&self, _: &'static Metadata<'static>) -> tracing::subscriber::Interest {
        // The level may change.
        tracing::subscriber::Interest::sometimes()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let function = SINK.function.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(function) = function else { return };
        let mut text = Text::default();
        event.record(&mut text);
        let metadata = event.metadata();
        let call = |py: Python<'_>| function.call1(py, (number(*metadata.level()), metadata.target(), text.whole()));
        // A handler that raises must not end a backup; `logging` itself swallows such exceptions.
        Python::try_attach(|py| call(py).map(drop).unwrap_or_else(|raised| raised.write_unraisable(py, None)));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The message, then the fields as `name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn whole(&self) -> String {
        let whole = format!("{}{}", self.message, self.fields);
        barman_snap::redact::log_line(&whole).into_owned()
    }
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            name => _ = write!(self.fields, " {name}={value:?}"),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
