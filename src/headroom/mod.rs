//! What the gateway has left: watts, degrees, bytes, and the processor's time.
//!
//! [`Monitor`] looks at the sensors and says what is known as a [`ResourceSnapshot`]; it decides nothing.
//! What is not known is left out, never 0: a wrong number is worse than no number.
//!
//! | file | holds |
//! |---|---|
//! | `roots` | where the kernel's files are, and reading one without trusting it |
//! | `reading` | the trait of sensors, and all that they can say |
//! | `sensors` | one file for each kind |
//! | `energy` | counters that wrap; what a second of the engine costs |
//! | `pressure` | headroom and pressure: plain functions of readings |
//! | `sensor_thread` | a sensor on a thread of its own |
//! | `monitor` | asks all sensors, keeps averages, counts what fails |
//! | `metrics`, `gauges` | the metrics |

mod energy;
mod gauges;
mod metrics;
mod monitor;
mod pressure;
mod reading;
pub(crate) mod roots;
mod sensor_thread;
mod sensors;

pub use energy::EnergyRate;
pub(crate) use energy::PowerModel;
pub use metrics::{GovernorStatus, HeadroomMetrics};
pub use monitor::{Monitor, ResourceSnapshot};
pub use pressure::PowerHeadroom;
pub use reading::Resource;

/// Bytes of memory that this process may have: all that there is, or what the tightest control group
/// allows; `None` where it is not known.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bytes, never below 0
pub fn most_memory(settings: &crate::config::GovernorSettings) -> Option<u64> {
    let roots = roots::Roots::of(settings);
    sensors::memory::most(&roots).map(|bytes| bytes as u64)
}

/// Bytes of memory that this process could still get: what the system or the tightest control group has
/// left; `None` where it is not known.
#[must_use]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // bytes, never below 0
pub fn available_memory(settings: &crate::config::GovernorSettings) -> Option<u64> {
    let roots = roots::Roots::of(settings);
    sensors::memory::available(&roots).map(|bytes| bytes as u64)
}

/// Bytes of memory that this process has for itself: neither files nor what others have as well; `None` where it is
/// not known.
#[must_use]
pub fn anonymous_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}
