//! What a template may take to be compiled and rendered.

use std::time::Duration;

use serde_json::Value as Json;

use crate::engine::budget::{self, Overrun, WorkBudget};

/// Bytes of stack for a level of what is nested: the engine walks values and expressions by
/// recursion. The tests go as deep as can be.
const STACK_A_LEVEL: usize = 1536;
/// More is refused by small machines.
const MOST_STACK: usize = 1 << 30;
/// For all the rest, among it the engine's own bound of nested macros.
const STACK_BASE: usize = 4 << 20;
/// Longer than anything takes on a machine that is busy with something else.
const TIME: Duration = Duration::from_secs(60);
/// Templates of more bytes are not compiled; those of the models that people run have up to 30 kB.
const LONGEST_SOURCE: usize = 512 << 10;

/// A budget for one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds(WorkBudget);

impl Bounds {
    /// Does the work within the budget.
    pub(super) fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Overrun> {
        budget::within(self.0, work)
    }
}

/// For a template of this source.
pub(super) fn compiling(source: &str) -> Result<Bounds, Overrun> {
    let length = source.len();
    if length > LONGEST_SOURCE {
        return Err(Overrun::Memory);
    }
    Ok(Bounds(WorkBudget {
        live_bytes: (64 << 20) + 256 * length,
        live_blocks: usize::MAX,
        total_bytes: 1 << 30,
        // An operator with its right side takes two bytes, and nests its left side by one.
        stack: (STACK_BASE + STACK_A_LEVEL * length / 2).min(MOST_STACK),
        time: TIME,
    }))
}

/// For a conversation of these messages and tools. Their own values are made before and do not count.
///
/// An honest template holds its output, twice while that grows, and copies of some strings. It must
/// never exceed this, whatever clients send: after that there is no chat until the next start.
pub(super) fn rendering<'v>(given: impl Iterator<Item = &'v Json>) -> Bounds {
    let (count, weight) = given
        .map(weight)
        .fold((1_u64, 0), |(count, sum), one| (count + 1, sum + one));
    // Text that is split has pieces of their own where they are longer than 22 bytes.
    // As few besides that a thread is enough that is there already.
    let live_blocks = (16 << 10) + weight / 24;
    Bounds(WorkBudget {
        live_bytes: (64 << 20) + 16 * weight,
        live_blocks,
        // A template may join each message to all before it.
        total_bytes: (4 << 30) + 4 * count * weight as u64,
        stack: (STACK_BASE + STACK_A_LEVEL * live_blocks).min(MOST_STACK),
        time: TIME,
    })
}

/// Bytes of all strings, and some for each value.
fn weight(value: &Json) -> usize {
    const VALUE: usize = 16;
    VALUE
        + match value {
            Json::String(text) => text.len(),
            Json::Array(values) => values.iter().map(weight).sum(),
            Json::Object(members) => members
                .iter()
                .map(|(key, value)| key.len() + weight(value))
                .sum(),
            Json::Null | Json::Bool(_) | Json::Number(_) => 0,
        }
}
