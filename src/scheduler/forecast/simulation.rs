//! When the answers to a request end, as a pure function of what there is to do and how fast it is done.
//!
//! The batch is followed from event to event: a prompt is read, an answer ends, a waiting request joins. In
//! between the rows of a step stay the same, and with them its duration. Everything is a number of tokens
//! that are expected, so these are real numbers.

use std::collections::VecDeque;
use std::time::Duration;

use crate::scheduler::step_latency::StepLatency;

/// Events after which a simulation stops, whatever is left: it is made while requests wait for it.
const MOST_EVENTS: usize = 2000;

/// What a request is expected to take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Work {
    /// Tokens of its prompt that are still to be computed.
    pub(super) unread: f64,
    /// Tokens of its answer that are still to be generated.
    pub(super) answer: f64,
    /// KV cells that it has, or needs to join.
    pub(super) cells: f64,
}

/// What an engine can do at once, and how fast.
#[derive(Debug, Clone)]
pub(super) struct Capacity {
    /// Requests that are computed together at most.
    pub(super) rows: usize,
    /// Rows of one batch.
    pub(super) batch_rows: usize,
    /// See [`crate::engine::Shape::tile_rows`].
    pub(super) tile_rows: usize,
    /// What a step should take while answers are being generated.
    pub(super) target: Duration,
    /// KV cells that are free or can be freed at once.
    pub(super) free_cells: f64,
    /// How long steps take.
    pub(super) latency: StepLatency,
}

/// Seconds until the last of the `own` answers has ended, which come after those that are `running` and
/// `waiting`, each in order. `None` while the engine's speed is not known.
pub(super) fn seconds(
    capacity: &Capacity,
    running: impl Iterator<Item = Work>,
    waiting: impl Iterator<Item = Work>,
    own: &[Work],
) -> Option<f64> {
    let job = |is_own: bool| move |work: Work| Job { work, is_own };
    let mut batch: Vec<Job> = running.map(job(false)).collect();
    let mut queue: VecDeque<Job> = waiting.map(job(false)).collect();
    queue.extend(own.iter().copied().map(job(true)));
    let mut free = capacity.free_cells;
    let mut own_left = own.len();
    let mut seconds = 0.0;
    for _ in 0..MOST_EVENTS {
        join(capacity, &mut batch, &mut queue, &mut free);
        if own_left == 0 || batch.is_empty() {
            break;
        }
        seconds += pass(capacity, &mut batch)?;
        batch.retain(|job| {
            let goes_on = job.work.unread > 0.0 || job.work.answer > 0.0;
            if !goes_on {
                free += job.work.cells;
                own_left -= usize::from(job.is_own);
            }
            goes_on
        });
    }
    Some(seconds)
}

#[derive(Debug, Clone, Copy)]
struct Job {
    work: Work,
    /// Whether it is one of those that are asked about.
    is_own: bool,
}

/// Lets those join for which there are rows and cells, in order.
fn join(capacity: &Capacity, batch: &mut Vec<Job>, queue: &mut VecDeque<Job>, free: &mut f64) {
    while batch.len() < capacity.rows.max(1)
        && let Some(next) = queue.front().copied()
        && (batch.is_empty() || next.work.cells <= *free)
    {
        queue.pop_front();
        *free -= next.work.cells;
        batch.push(next);
    }
}

/// Lets the batch compute until the next event; returns how many seconds that takes.
fn pass(capacity: &Capacity, batch: &mut [Job]) -> Option<f64> {
    let decoding = batch.iter().filter(|job| job.work.unread <= 0.0).count();
    let unread: f64 = batch.iter().map(|job| job.work.unread).sum();
    let latency = &capacity.latency;
    let answers = latency.outputs(decoding)?;
    let decoding_jobs = batch.iter().filter(|job| job.work.unread <= 0.0);
    let shortest = decoding_jobs
        .map(|job| job.work.answer)
        .fold(f64::INFINITY, f64::min);
    if unread <= 0.0 {
        // No event comes within a step.
        let steps = shortest.max(1.0);
        advance(batch, steps, &[]);
        return Some(steps * answers);
    }
    let rows = prompt_rows(capacity, decoding);
    let rates = share(batch, rows);
    let read = batch.iter().zip(&rates).filter(|(_, rate)| **rate > 0.0);
    let first_read = read
        .map(|(job, rate)| job.work.unread / rate)
        .fold(f64::INFINITY, f64::min);
    let steps = shortest.min(first_read).max(1.0);
    let taken: f64 = rates.iter().sum();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // rows of a batch
    let prompts = latency.prefill(taken.ceil() as usize)?;
    advance(batch, steps, &rates);
    Some(steps * (answers + prompts))
}

/// Rows that prompts get in a step beside so many answers, as the planner has it.
#[allow(clippy::cast_precision_loss)] // a batch has thousands of rows at most
fn prompt_rows(capacity: &Capacity, decoding: usize) -> f64 {
    let most = capacity.batch_rows.saturating_sub(decoding).max(1);
    if decoding == 0 {
        return most as f64;
    }
    let (target, tile) = (capacity.target, capacity.tile_rows);
    capacity.latency.prefill_rows(decoding, target, most, tile) as f64
}

/// Divides `rows` among the prompts: half for the oldest, the rest for the shortest first.
fn share(batch: &[Job], rows: f64) -> Vec<f64> {
    let mut rates = vec![0.0; batch.len()];
    let mut prompts: Vec<usize> = (0..batch.len())
        .filter(|job| batch[*job].work.unread > 0.0)
        .collect();
    let mut left = rows;
    if let Some(&oldest) = prompts.first() {
        rates[oldest] = batch[oldest].work.unread.min(rows / 2.0);
        left -= rates[oldest];
    }
    prompts.sort_by(|a, b| batch[*a].work.unread.total_cmp(&batch[*b].work.unread));
    for job in prompts {
        let more = (batch[job].work.unread - rates[job]).min(left);
        rates[job] += more;
        left -= more;
    }
    rates
}

/// Computes so many steps, in each of which the prompts get on by `rates`, or none does.
fn advance(batch: &mut [Job], steps: f64, rates: &[f64]) {
    for (index, Job { work, .. }) in batch.iter_mut().enumerate() {
        if work.unread <= 0.0 {
            work.answer -= steps;
            continue;
        }
        work.unread -= steps * rates.get(index).copied().unwrap_or(0.0);
        if work.unread <= 1e-6 {
            work.unread = 0.0;
            // The step that reads the end of a prompt brings the first token.
            work.answer -= 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLIS_A_ROW: u64 = 10;
    /// Of a step with any number of answers.
    const MILLIS_A_STEP: u64 = 20;

    /// Reads a token in a tenth of a millisecond.
    fn capacity(rows: usize) -> Capacity {
        let mut latency = StepLatency::default();
        for _ in 0..50 {
            for outputs in [1, 2, 4, 8, 16] {
                // Twice: the first step of another shape is not counted.
                latency.observe(outputs, 0, Duration::from_millis(MILLIS_A_STEP));
                latency.observe(outputs, 0, Duration::from_millis(MILLIS_A_STEP));
            }
            latency.observe(0, 100, Duration::from_millis(MILLIS_A_ROW));
            latency.observe(0, 400, Duration::from_millis(4 * MILLIS_A_ROW));
        }
        Capacity {
            rows,
            batch_rows: 512,
            tile_rows: 0,
            target: Duration::from_millis(100),
            free_cells: 10_000.0,
            latency,
        }
    }

    fn work(unread: f64, answer: f64) -> Work {
        Work {
            unread,
            answer,
            cells: unread + answer,
        }
    }

    fn takes(capacity: &Capacity, running: &[Work], waiting: &[Work], own: Work) -> f64 {
        let (running, waiting) = (running.iter().copied(), waiting.iter().copied());
        seconds(capacity, running, waiting, &[own]).expect("the speed is known")
    }

    fn near(seconds: f64, expected: f64) {
        assert!(
            (seconds / expected - 1.0).abs() < 0.1,
            "{seconds} s, not {expected}"
        );
    }

    #[test]
    fn nothing_is_said_before_a_step_was_measured() {
        let unknown = Capacity {
            latency: StepLatency::default(),
            ..capacity(4)
        };
        let nobody = || std::iter::empty::<Work>();
        assert_eq!(
            seconds(&unknown, nobody(), nobody(), &[work(10.0, 10.0)]),
            None
        );
    }

    #[test]
    fn alone_it_takes_its_prompt_and_a_step_for_each_further_token() {
        near(
            takes(&capacity(4), &[], &[], work(400.0, 51.0)),
            0.04 + 50.0 * 0.02,
        );
        near(takes(&capacity(4), &[], &[], work(400.0, 0.0)), 0.04);
    }

    #[test]
    fn it_waits_until_a_row_is_free() {
        let running = [work(0.0, 100.0), work(0.0, 40.0)];
        near(
            takes(&capacity(2), &running, &[], work(1.0, 51.0)),
            91.0 * 0.02,
        );
        near(
            takes(&capacity(3), &running, &[], work(1.0, 51.0)),
            51.0 * 0.02,
        );
        let waiting = [work(1.0, 11.0)];
        near(
            takes(&capacity(2), &running, &waiting, work(1.0, 51.0)),
            102.0 * 0.02,
        );
    }

    #[test]
    fn it_waits_until_cells_are_free() {
        let mut small = capacity(8);
        small.free_cells = 100.0;
        let running = [Work {
            cells: 300.0,
            ..work(0.0, 60.0)
        }];
        near(
            takes(&small, &running, &[], work(100.0, 101.0)),
            0.02 * 160.0 + 0.01,
        );
        near(
            takes(&small, &[], &[], work(100.0, 101.0)),
            0.02 * 100.0 + 0.01,
        );
    }

    #[test]
    fn a_long_prompt_is_read_in_chunks_beside_the_answers() {
        // 80 ms of each step are left for prompts, which is 800 tokens: more than a batch has.
        near(
            takes(&capacity(4), &[work(0.0, 1000.0)], &[], work(5110.0, 0.0)),
            10.0 * 0.071,
        );
    }

    #[test]
    fn all_answers_of_a_request_count() {
        let nobody = || std::iter::empty::<Work>();
        let own = [work(1.0, 21.0); 3];
        let found = seconds(&capacity(1), nobody(), nobody(), &own).expect("known");
        near(found, 3.0 * 21.0 * 0.02);
    }

    #[test]
    fn a_simulation_ends_however_much_there_is() {
        let crowd = vec![work(1000.0, 1000.0); 50_000];
        let found = takes(&capacity(8), &[], &crowd, work(1.0, 1.0));
        assert!(found.is_finite() && found > 1000.0);
    }
}
