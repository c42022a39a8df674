//! For those who run the box: its page, its health, its metrics.

pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod page;
