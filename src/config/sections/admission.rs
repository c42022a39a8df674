use std::time::Duration;

use crate::config::declare::section;
use crate::config::setting::{milliseconds_or_none, whole};

/// A day.
const LONGEST_DEADLINE: i64 = 86_400_000;

section! {
    /// Which requests are let in.
    pub struct AdmissionSettings in ["admission"] {
        /// Requests that may wait for their turn; further ones are told to retry later.
        ///
        /// 0 refuses whatever cannot start at once.
        pub max_waiting: u32 = whole(0..=100_000, "requests", 64),
        /// Time for an answer of a request without x-deadline-ms, in milliseconds; 0 is no limit.
        pub deadline as "deadline_ms": Option<Duration> = milliseconds_or_none(LONGEST_DEADLINE),
        /// The same for requests of the tier priority; 0 is as `deadline_ms`.
        pub priority_deadline as "priority_deadline_ms": Option<Duration> = milliseconds_or_none(LONGEST_DEADLINE),
        /// The same for requests of the tier flex; 0 is as `deadline_ms`.
        pub flex_deadline as "flex_deadline_ms": Option<Duration> = milliseconds_or_none(LONGEST_DEADLINE),
    }
}
