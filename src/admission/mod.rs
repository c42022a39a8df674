//! Admits requests: a bounded number per model, and none while the server drains.
//!
//! An admitted request has two things that Drop gives back: its [`AdmissionSlot`], held
//! as long as the engine has work with it, so that a client which reads slowly
//! keeps nobody out; and its [`DrainGuard`], held from the moment its head is read
//! until the last byte is sent, so that a shutdown can wait for it.

mod client;
mod deadline;
mod displacement;
mod drain;
mod estimates;
mod gate;
mod memory_room;
mod principal;
mod quota;
mod send_budget;
mod tier;

use std::time::Duration;

pub use client::{ClientId, client_network};
pub use deadline::{DefaultDeadlines, MissedDeadline, retry_after};
pub use drain::{Drain, DrainGuard};
pub use estimates::{LogMean, Trust, to_duration};
pub use gate::{AdmissionSlot, Gate, GateRefusal};
pub use memory_room::MemoryRoom;
pub use principal::{PrefixGroup, Principal, Tenant, TenantId};
pub use quota::{
    LONGEST_RETRY_AFTER, Quota, QuotaHold, QuotaLimit, QuotaLimits, QuotaRefusal, QuotaStanding,
};
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
    /// Its answer would not be there in time.
    DeadlineUnreachable,
    /// The client's address has as many connections as one may have.
    TooManyConnections,
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
            Self::DeadlineUnreachable => "deadline_unreachable",
            Self::TooManyConnections => "too_many_connections",
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

    /// For a request that came when nobody came in any more. By then whoever supervises this process should
    /// have started the next.
    #[must_use]
    pub const fn draining() -> Self {
        Self {
            reason: RefusalReason::Draining,
            retry_after: Duration::from_secs(5),
        }
    }

    /// For a connection too many from one address.
    #[must_use]
    pub const fn too_many_connections() -> Self {
        Self {
            reason: RefusalReason::TooManyConnections,
            retry_after: Duration::from_secs(5),
        }
    }
}
