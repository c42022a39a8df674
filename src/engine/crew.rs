//! The threads that compute, and how banks are shared out among them.
//!
//! ggml's threads share every operation and wait for each other behind it, hundreds of times a step: a small model
//! computes no longer than that takes. Where several banks have rows, each is rather computed by a thread of its own,
//! and they wait for each other once a step (BENCHMARKS.md).

use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::DecodeError;
use super::bank::Bank;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Crew {
    /// Those beside the thread that drives the engine.
    helpers: Option<ThreadPool>,
    threads: u32,
    together: u32,
}

/// How a step is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Split {
    /// Banks computed at the same time.
    side_by_side: usize,
    /// Threads for each.
    together: u32,
}

impl Crew {
    /// So many threads for so many banks, of which `together` at most compute the same one.
    pub(super) fn new(threads: u32, together: u32, banks: usize) -> Self {
        let helpers = banks.min(threads as usize).saturating_sub(1);
        let build = |helpers| {
            let builder = ThreadPoolBuilder::new().num_threads(helpers);
            let builder = builder.thread_name(|number| format!("bank-{number}"));
            builder.build().inspect_err(
                |error| tracing::warn!(%error, "banks are computed one after the other"),
            )
        };
        Self {
            helpers: (helpers > 0).then(|| build(helpers).ok()).flatten(),
            threads,
            together,
        }
    }

    /// Banks that are computed at the same time, where as many have rows.
    pub(super) fn side_by_side(&self) -> u32 {
        let helpers = self
            .helpers
            .as_ref()
            .map_or(0, ThreadPool::current_num_threads);
        u32::try_from(helpers).unwrap_or(0) + 1
    }

    /// Computes what was added to these banks; if one fails so does all.
    pub(super) fn compute(
        &self,
        mut busy: Vec<&mut Bank<'_>>,
        row_group: usize,
    ) -> Result<(), DecodeError> {
        // The longest is begun first: the last of the list.
        busy.sort_by_key(|bank| bank.missing());
        let rows: Vec<usize> = busy.iter().map(|bank| bank.missing()).collect();
        let split = self.split(&rows);
        let (queue, result) = (Mutex::new(busy), Mutex::new(Ok(())));
        let work = || {
            while let Some(bank) = next(&queue) {
                bank.set_threads(split.together);
                if let Err(error) = bank.decode(row_group) {
                    *lock(&result) = Err(error);
                }
            }
        };
        match &self.helpers {
            Some(helpers) if split.side_by_side > 1 => helpers.in_place_scope(|scope| {
                for _ in 1..split.side_by_side {
                    scope.spawn(|_| work());
                }
                work();
            }),
            _ => work(),
        }
        result.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// How banks with so many rows each, ascending, are best computed.
    fn split(&self, rows: &[usize]) -> Split {
        let helpers = self
            .helpers
            .as_ref()
            .map_or(0, ThreadPool::current_num_threads);
        let side_by_side = rows.len().clamp(1, helpers + 1);
        let (most, all) = (
            rows.last().copied().unwrap_or(0),
            rows.iter().sum::<usize>(),
        );
        // One long prompt beside little else: the other threads would soon have nothing to do.
        let is_lopsided = 4 * most > 3 * all;
        let side_by_side = if is_lopsided && self.together > 1 {
            1
        } else {
            side_by_side
        };
        let each = self.threads / u32::try_from(side_by_side).unwrap_or(1);
        Split {
            side_by_side,
            together: each.clamp(1, self.together.max(1)),
        }
    }
}

/// The lock is held for no longer than this.
fn next<'a, 'm>(queue: &Mutex<Vec<&'a mut Bank<'m>>>) -> Option<&'a mut Bank<'m>> {
    lock(queue).pop()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banks_are_computed_side_by_side_by_as_many_threads_as_there_are() {
        let split = |threads, together, rows: &[usize]| {
            let split = Crew::new(threads, together, 8).split(rows);
            (split.side_by_side, split.together)
        };
        assert_eq!(split(1, 1, &[2, 2]), (1, 1));
        assert_eq!(split(2, 2, &[5]), (1, 2));
        assert_eq!(split(2, 2, &[4, 5]), (2, 1));
        assert_eq!(split(2, 2, &[1, 1, 2]), (2, 1));
        assert_eq!(split(8, 8, &[3, 3, 3]), (3, 2));
        assert_eq!(split(2, 2, &[1, 128]), (1, 2), "a prompt");
        assert_eq!(split(2, 1, &[1, 128]), (2, 1), "a small model");
        assert_eq!(split(4, 1, &[7]), (1, 1));
    }
}
