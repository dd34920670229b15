//! Python values that are not plain: paths as text, options, and JSON. Python's own `json` reads and writes them.

use std::path::PathBuf;

use barman_snap::Error;
use barman_snap::options::from_json;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::errors::exception;

/// A path, `str` or `os.PathLike`, as text.
pub(crate) fn path_text(py: Python<'_>, name: &str, path: PathBuf) -> PyResult<String> {
    path.into_os_string()
        .into_string()
        .map_err(|path| exception(py, &Error::invalid(format!("{name} is not UTF-8: {}", path.display()))))
}

/// Options that came as a dictionary.
pub(crate) fn options<T: DeserializeOwned + Default>(options: &Bound<'_, PyDict>) -> PyResult<T> {
    let py = options.py();
    let text: String = py.import("json")?.call_method1("dumps", (options,))?.extract()?;
    from_json(Some(&text)).map_err(|error| exception(py, &error))
}

/// What the engine serializes.
pub(crate) fn python(py: Python<'_>, value: &impl Serialize) -> PyResult<Py<PyAny>> {
    let text = serde_json::to_string(value)
        .map_err(|error| exception(py, &Error::internal("cannot write JSON").with_source(error)))?;
    Ok(py.import("json")?.call_method1("loads", (text,))?.unbind())
}
