//! One file per command: from its options to calls of the engine, and from the result to text.

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod delete;
pub(crate) mod describe_host;
pub(crate) mod gc;
pub(crate) mod keep;
pub(crate) mod list;
pub(crate) mod recover;
pub(crate) mod restore;
pub(crate) mod show;
pub(crate) mod verify;
pub(crate) mod wal;
