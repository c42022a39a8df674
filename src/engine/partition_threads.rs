//! The threads that compute, and how KV partitions are distributed among them.
//!
//! ggml's threads split every operation and wait for each other after it, hundreds of times a step;
//! with a small model the waiting takes as long as the computing. So where several partitions have rows,
//! each is computed by one thread, and the threads wait for each other once a step (BENCHMARKS.md).

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::sync::Mutex;

use super::DecodeError;
use super::partition::Partition;

/// The number of decode rows whose computation takes as long as reading the weights: measured between
/// one or two (6 M parameters) and seven (13 M; `cargo bench --bench engine`).
pub const ROWS_PER_WEIGHT_READ: f64 = 4.0;

/// How many threads compute partitions, and how they are divided among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadLayout {
    /// Partitions that can be computed at the same time, by one thread each.
    pub parallel_partitions: u32,
    /// Threads that compute one partition together when partitions are computed one after the other.
    pub threads_per_partition: u32,
}

impl ThreadLayout {
    /// Only the thread that calls the engine.
    pub const ONE: Self = Self {
        parallel_partitions: 1,
        threads_per_partition: 1,
    };

    /// Returns by which factor `threads_per_partition` threads are faster than one. Measured: two are 1.5
    /// times as fast (13 M parameters, BENCHMARKS.md); each further thread is assumed to add another half.
    #[must_use]
    pub fn speed_up(self) -> f64 {
        f64::from(self.threads_per_partition + 1) / 2.0
    }

    /// Returns how long a step takes; `partitions` has the time that each would take one thread.
    #[must_use]
    pub fn step(self, partitions: &[f64]) -> f64 {
        self.in_parallel(partitions)
            .min(self.sequential(partitions))
    }

    /// Returns the one-thread time of a single partition whose step would take as long as this step.
    #[must_use]
    pub fn single_partition_equivalent(self, partitions: &[f64]) -> f64 {
        self.step(partitions) * self.speed_up()
    }

    /// Returns the time of a step with one thread per partition: the longest partition is assigned first,
    /// each to the thread that has least to do.
    fn in_parallel(self, partitions: &[f64]) -> f64 {
        let mut partitions = partitions.to_vec();
        partitions.sort_by(|a, b| b.total_cmp(a));
        let mut threads = vec![0.0_f64; self.parallel_partitions.max(1) as usize];
        for partition in partitions {
            if let Some(least) = threads.iter_mut().min_by(|a, b| a.total_cmp(b)) {
                *least += partition;
            }
        }
        threads.into_iter().fold(0.0, f64::max)
    }

    /// Returns the time of a step in which all threads compute one partition after the other.
    fn sequential(self, partitions: &[f64]) -> f64 {
        partitions.iter().sum::<f64>() / self.speed_up()
    }

    /// Whether one thread per partition is at least as fast; `rows` has the rows of each partition.
    #[allow(clippy::cast_precision_loss)] // a batch has thousands of rows at most
    fn run_better_in_parallel(self, rows: &[usize]) -> bool {
        let partitions: Vec<f64> = (rows.iter())
            .map(|rows| ROWS_PER_WEIGHT_READ + *rows as f64)
            .collect();
        partitions.len() > 1 && self.in_parallel(&partitions) <= self.sequential(&partitions)
    }
}

/// The worker threads of one engine, which compute its partitions.
#[derive(Debug)]
pub(super) struct PartitionThreads {
    /// How many there may be, the caller's included.
    most: u32,
    /// The threads besides the one that calls the engine.
    helpers: Option<ThreadPool>,
    threads_per_partition: u32,
}

impl PartitionThreads {
    /// Starts `threads` threads, the caller's included, but no more than there are partitions. At most
    /// `threads_per_partition` compute the same partition.
    pub(super) fn new(threads: u32, threads_per_partition: u32, partitions: usize) -> Self {
        let mut all = Self {
            most: threads,
            helpers: None,
            threads_per_partition,
        };
        all.serve(partitions);
        all
    }

    /// Starts more threads where so many partitions could use them.
    pub(super) fn serve(&mut self, partitions: usize) {
        let helpers = partitions.min(self.most as usize).saturating_sub(1);
        let running = self.helpers.as_ref();
        if helpers <= running.map_or(0, ThreadPool::current_num_threads) {
            return;
        }
        let builder = ThreadPoolBuilder::new().num_threads(helpers);
        let builder = builder.thread_name(|number| format!("bank-{number}"));
        match builder.build() {
            Ok(pool) => self.helpers = Some(pool),
            Err(error) => tracing::warn!(%error, "banks are computed with fewer threads"),
        }
    }

    pub(super) fn threads(&self) -> ThreadLayout {
        let helpers = self.helpers.as_ref();
        let helpers = helpers.map_or(0, ThreadPool::current_num_threads);
        ThreadLayout {
            parallel_partitions: u32::try_from(helpers).unwrap_or(0) + 1,
            threads_per_partition: self.threads_per_partition,
        }
    }

    /// Computes the rows that were added to these partitions. If one partition fails, the call does.
    pub(super) fn compute(
        &self,
        mut busy: Vec<&mut Partition<'_>>,
        row_group: usize,
    ) -> Result<(), DecodeError> {
        // The queue is popped from its end, so the partition with most rows is computed first.
        busy.sort_by_key(|partition| partition.missing());
        let rows: Vec<usize> = busy.iter().map(|partition| partition.missing()).collect();
        let in_parallel = self.threads().run_better_in_parallel(&rows);
        // All of them or one, nothing between: OpenMP ends and starts threads when their number changes,
        // but a single thread does not involve it.
        let threads = if in_parallel {
            1
        } else {
            self.threads_per_partition
        };
        let (queue, result) = (Mutex::new(busy), Mutex::new(Ok(())));
        let work = || {
            while let Some(partition) = next(&queue) {
                partition.set_threads(threads);
                if let Err(error) = partition.decode(row_group) {
                    note(&result, error);
                }
            }
        };
        match &self.helpers {
            Some(helpers) if in_parallel => helpers.in_place_scope(|scope| {
                for _ in 1..rows.len().min(helpers.current_num_threads() + 1) {
                    scope.spawn(|_| work());
                }
                work();
            }),
            _ => work(),
        }
        result.into_inner()
    }
}

/// Takes the next partition; the lock is held only for this.
fn next<'a, 'm>(queue: &Mutex<Vec<&'a mut Partition<'m>>>) -> Option<&'a mut Partition<'m>> {
    queue.lock().pop()
}

/// Keeps the error to report: a failure of llama.cpp before a lack of cells, as freeing cells would not
/// help against it.
fn note(result: &Mutex<Result<(), DecodeError>>, error: DecodeError) {
    let mut result = result.lock();
    if !matches!(*result, Err(DecodeError::Failed(_))) {
        *result = Err(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_computed_side_by_side_where_that_takes_no_longer() {
        let in_parallel = |threads: u32, threads_per_partition: u32, rows: &[usize]| {
            let partition_threads = PartitionThreads::new(threads, threads_per_partition, 8);
            partition_threads.threads().run_better_in_parallel(rows)
        };
        assert!(!in_parallel(2, 2, &[5]));
        assert!(in_parallel(2, 2, &[4, 5]) && in_parallel(2, 2, &[1, 1, 2]));
        assert!(
            !in_parallel(2, 2, &[1, 128]),
            "the other would soon be idle"
        );
        assert!(
            in_parallel(2, 1, &[1, 128]),
            "each partition has one in any case"
        );
        assert!(in_parallel(4, 4, &[3, 3, 3]) && !in_parallel(8, 8, &[3, 3, 3]));
        assert!(!in_parallel(8, 8, &[1, 1, 1, 1, 1, 1, 1, 20]));
        assert!(!in_parallel(1, 1, &[7]));
    }

    #[test]
    fn a_step_takes_as_long_as_its_busiest_thread() {
        let two = ThreadLayout {
            parallel_partitions: 2,
            threads_per_partition: 1,
        };
        let both = ThreadLayout {
            threads_per_partition: 2,
            ..two
        };
        let takes = |threads: ThreadLayout, partitions: &[f64], expected: f64| {
            (threads.step(partitions) - expected).abs() < 1e-9
        };
        assert!(takes(two, &[6.0], 6.0) && takes(two, &[6.0, 5.0, 5.0], 10.0));
        assert!(takes(both, &[6.0], 4.0) && takes(both, &[6.0, 6.0], 6.0));
        assert!(takes(ThreadLayout::ONE, &[1.0, 2.0], 3.0));
        for threads in [ThreadLayout::ONE, two, both] {
            assert!((threads.single_partition_equivalent(&[0.0, 7.0, 0.0]) - 7.0).abs() < 1e-9);
        }
    }

    #[test]
    fn what_cannot_be_helped_by_room_is_the_error_that_counts() {
        let all = [
            DecodeError::NoCells,
            DecodeError::Failed(-3),
            DecodeError::NoCells,
        ];
        let result = Mutex::new(Ok(()));
        for error in all {
            note(&result, error);
        }
        assert_eq!(*result.lock(), Err(DecodeError::Failed(-3)));
    }
}
