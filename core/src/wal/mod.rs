//! The WAL archive in the catalog: one object for each file that PostgreSQL archives.
//!
//! The story: [`archive`] stores a file that PostgreSQL hands out (`archive_command`), [`restore`] brings one back
//! (`restore_command`), [`check`] says which segments of a backup are missing and supplies them from `pg_wal`. [`codec`] is
//! the compression, [`header`] what the first page of a segment tells of it. [`contain`] keeps the tablespaces that WAL creates
//! inside the data directory into which it is replayed; for that, [`records`] walks from record to record.
//!
//! The invariants:
//! * An object, once stored, is never replaced. The same content again is success, other content is
//!   [`Conflict`](crate::ErrorKind::Conflict): two clusters must not share the name of a server.
//! * What is not a whole segment of the right cluster is refused, on the way in and on the way out.
//! * What is given out is what was stored, byte for byte; but for the paths of new tablespaces where that was asked for.
//! * A partial segment is never given out for a whole one, unless that was asked for.

pub mod archive;
pub mod check;
pub mod codec;
pub mod contain;
pub mod header;
pub mod records;
pub mod restore;

pub use archive::{Archived, WalArchive};
pub use check::Supplied;
pub use codec::Level;
pub use contain::{NewTablespace, NewTablespaces};
pub use restore::Fetched;
