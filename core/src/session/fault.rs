//! Failure as a parameter: places at which a test may make a session fail or die.
//!
//! A program that embeds the engine never needs this; the default, [`NoFaults`], does nothing.

use std::fmt;

use super::step::Step;
use crate::error::Error;

/// Where in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Before the intent is written.
    BeforeIntent,
    /// After the intent, before the effect.
    BeforeEffect,
    /// After the effect. With [`Fault::Error`] and [`Retry::Unknown`](crate::Retry::Unknown) this is a lost reply.
    AfterEffect,
    /// While the result is written: the entry is lost.
    InJournal,
    /// After the result is written.
    AfterResult,
}

impl Place {
    /// Every place.
    pub const ALL: [Self; 5] =
        [Self::BeforeIntent, Self::BeforeEffect, Self::AfterEffect, Self::InJournal, Self::AfterResult];
}

/// What happens there.
#[derive(Debug)]
pub enum Fault {
    /// The step fails with this error.
    Error(Error),
    /// The process dies: nothing more is done, by nobody.
    Kill,
}

/// Decides whether something happens.
pub trait FaultPlan: Send + Sync + fmt::Debug {
    /// Called at every place of every step.
    fn strike(&self, step: Step, place: Place) -> Option<Fault>;
}

/// Nothing ever happens.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFaults;

impl FaultPlan for NoFaults {
    fn strike(&self, _step: Step, _place: Place) -> Option<Fault> {
        None
    }
}
