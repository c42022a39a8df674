//! Admits requests: a bounded number per model, and none while the server drains.
//!
//! An admitted request has two things that Drop gives back: its [`AdmissionSlot`], held
//! as long as the engine has work with it, so that a client which reads slowly
//! keeps nobody out; and its [`DrainGuard`], held until the last byte is sent, so
//! that a shutdown can wait for it.

mod client;
mod displacement;
mod drain;
mod gate;
mod principal;
mod send_budget;
mod tier;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use client::ClientId;
pub use drain::{Drain, DrainGuard};
pub use gate::{AdmissionSlot, Gate};
pub use principal::{PrefixGroup, Principal, Tenant, TenantId};
pub use send_budget::{FREE_OUTBOX_BYTES, Outbox, PendingBytes, Reservation, SendBudget};
pub use tier::ServiceTier;

/// Why a request is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// The most requests that may wait are waiting.
    QueueFull,
    /// The server is shutting down.
    Draining,
    /// The model is not loaded yet.
    Loading,
    /// More power is drawn than the budget allows.
    Power,
    /// The gateway is too hot.
    Thermal,
    /// Memory is short.
    Memory,
}

impl RefusalReason {
    /// The error code and metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::Draining => "draining",
            Self::Loading => "loading",
            Self::Power => "power",
            Self::Thermal => "thermal",
            Self::Memory => "memory",
        }
    }
}

/// A refusal and when to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionRefusal {
    /// Why.
    pub reason: RefusalReason,
    /// The time after which a slot is likely to be free.
    pub retry_after: Duration,
}

impl AdmissionRefusal {
    /// For want of memory that others hold: they give it back within seconds.
    #[must_use]
    pub const fn memory() -> Self {
        Self {
            reason: RefusalReason::Memory,
            retry_after: Duration::from_secs(5),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
