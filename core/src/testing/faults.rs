//! Fault plans.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Retry};
use crate::session::fault::{Fault, FaultPlan, Place};
use crate::session::step::Step;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mishap {
    /// The step fails; nothing happened.
    ErrorBefore,
    /// The effect happened, then the step fails for good.
    ErrorAfter,
    /// The effect happened, its reply is lost.
    ReplyLost,
    /// The process dies before the intent is written.
    KilledBeforeIntent,
    /// The process dies between intent and effect.
    KilledBefore,
    /// The process dies between effect and result.
    KilledAfter,
    /// The process dies right after the result is written.
    KilledAfterResult,
    /// The journal cannot be written any more.
    JournalCut,
}

impl Mishap {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::ErrorBefore,
        Self::ErrorAfter,
        Self::ReplyLost,
        Self::KilledBeforeIntent,
        Self::KilledBefore,
        Self::KilledAfter,
        Self::KilledAfterResult,
        Self::JournalCut,
    ];

    fn place(self) -> Place {
        match self {
            Self::ErrorBefore | Self::KilledBefore => Place::BeforeEffect,
            Self::ErrorAfter | Self::ReplyLost | Self::KilledAfter => Place::AfterEffect,
            Self::KilledBeforeIntent => Place::BeforeIntent,
            Self::KilledAfterResult => Place::AfterResult,
            Self::JournalCut => Place::InJournal,
        }
    }

    fn fault(self) -> Fault {
        let error = |kind, retry| Fault::Error(Error::new(kind, format!("{self:?} (fault plan)")).with_retry(retry));
        match self {
            Self::ErrorBefore | Self::ErrorAfter => error(ErrorKind::Internal, Retry::Never),
            Self::ReplyLost => error(ErrorKind::Unavailable, Retry::Unknown),
            Self::JournalCut => error(ErrorKind::Storage, Retry::Never),
            _ => Fault::Kill,
        }
    }
}

/// One mishap at one step, once.
#[derive(Debug)]
pub struct OneFault {
    step: Step,
    mishap: Mishap,
    struck: AtomicBool,
}

impl OneFault {
    /// Strikes the first time that `step` comes by.
    pub fn new(step: Step, mishap: Mishap) -> Self {
        Self { step, mishap, struck: AtomicBool::new(false) }
    }

    /// Whether it has struck.
    pub fn has_struck(&self) -> bool {
        self.struck.load(Ordering::SeqCst)
    }
}

impl FaultPlan for OneFault {
    fn strike(&self, step: Step, place: Place) -> Option<Fault> {
        let here = step == self.step && place == self.mishap.place();
        (here && !self.struck.swap(true, Ordering::SeqCst)).then(|| self.mishap.fault())
    }
}

/// Does nothing but remember which steps came by.
#[derive(Debug, Default)]
pub struct Recorder(Mutex<Vec<Step>>);

impl Recorder {
    /// The steps, in order.
    pub fn steps(&self) -> Vec<Step> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl FaultPlan for Recorder {
    fn strike(&self, step: Step, place: Place) -> Option<Fault> {
        if place == Place::BeforeIntent {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(step);
        }
        None
    }
}
