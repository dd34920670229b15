//! Parts for tests of the engine and of programs that embed it: a clock that is set by hand, seeded ids, a scripted
//! PostgreSQL, a provider in memory, fault plans.
//!
//! They are for rehearsing failures that cannot be had from real parts on demand. They prove nothing about PostgreSQL or a
//! cloud; the tests in `tests/` do that with the real ones.

pub mod clock;
pub mod faults;
pub mod ids;
pub mod memory;
pub mod postgres;

pub use clock::ManualClock;
pub use faults::{OneFault, Recorder};
pub use ids::SeededIds;
pub use memory::{Call, Delay, FaultHook, MemoryOptions, MemoryProvider, Moment};
pub use postgres::ScriptedPostgres;
