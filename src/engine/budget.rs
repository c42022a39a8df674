//! Work that may run away with memory, stack or time, done on a thread of its own within a budget.
//!
//! A chat template is a program out of a model's file, and the engine that runs it can be told how
//! many instructions it may take, but not how much memory: `{% set s = s ~ s %}` sixty times over
//! asks for more than there is, and an allocator that fails ends the process. No hook of the engine
//! sees what `~`, `replace` or a captured block make. So the bound is where all of it passes: in the
//! allocator, for the one thread that does the work.
//!
//! An allocator can neither fail (that ends the process) nor unwind. A thread that has used up its
//! budget therefore stops where it is, for good, while whoever waits for it is told at once. What it
//! holds stays lost, so whoever asks for such work must not ask for it again, and the work must hold no
//! lock that others want: it does not log.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::sync::{Mutex, MutexGuard};

/// The resources that a piece of work may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkBudget {
    /// Most bytes that it holds at a time.
    pub live_bytes: usize,
    /// Most allocations that it holds at a time. This also bounds how deep its values nest, so that the
    /// stack suffices to walk them.
    pub live_blocks: usize,
    /// Most bytes that it asks for in all, which bounds the time that it spends copying.
    pub total_bytes: u64,
    /// Bytes of stack; of addresses, not of memory.
    pub stack: usize,
    /// How long the caller waits for it.
    pub time: Duration,
}

/// Why work within a budget gave no result.
#[derive(Debug, thiserror::Error)]
pub enum Overrun {
    /// It asked for more memory than it may have.
    #[error("it takes more memory than a template may")]
    Memory,
    /// It took too long.
    #[error("it does not come to an end")]
    Time,
    /// It panicked.
    #[error("the template engine fails on it")]
    Panicked,
    /// The system gives no thread.
    #[error("the system gives no thread to run it on: {0}")]
    NoThread(io::Error),
}

impl Overrun {
    /// Whether the thread is lost, with all that it holds.
    #[must_use]
    pub fn is_a_loss(&self) -> bool {
        matches!(self, Self::Memory | Self::Time)
    }
}

/// Does `work` within `budget`.
///
/// # Errors
/// [`Overrun`] says which bound was met, or what else went wrong.
pub fn within<T: Send + 'static>(
    budget: WorkBudget,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Overrun> {
    let run_state = Arc::new(RunState {
        phase: AtomicU8::new(RUNNING),
        waiter: thread::current(),
    });
    let for_thread = Arc::clone(&run_state);
    let (give, result) = sync_channel(1);
    let worker = BudgetThread::with_stack(budget.stack).map_err(Overrun::NoThread)?;
    worker.begin(Box::new(move || {
        let done = DoneNotice(&for_thread);
        let meter = Meter::new(budget, &for_thread);
        let result = catch_unwind(AssertUnwindSafe(|| meter.over(work)));
        // Whoever waited may have given it up.
        let _ = give.send(result);
        drop(done);
    }))?;
    let deadline = Instant::now() + budget.time;
    loop {
        match run_state.phase.load(Ordering::Acquire) {
            DONE => {
                worker.rest();
                let result = result.recv().map_err(|_| Overrun::Panicked)?;
                return result.map_err(|_| Overrun::Panicked);
            }
            OVERDRAWN => return Err(Overrun::Memory),
            _ => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // It stops at its next allocation, unless it is done by now.
            if run_state.change(ABANDONED) {
                return Err(Overrun::Time);
            }
            continue;
        }
        thread::park_timeout(left);
    }
}

type Task = Box<dyn FnOnce() + Send>;

/// A thread for such work. It ends when this is dropped and its current work is done.
struct BudgetThread {
    jobs: SyncSender<Task>,
    stack: usize,
}

/// Threads that wait for work: starting a thread takes longer than rendering a prompt.
static IDLE: Mutex<Vec<BudgetThread>> = Mutex::new(Vec::new());
/// Most threads in [`IDLE`]: about as many prompts are rendered at once.
const MOST_IDLE: usize = 4;
/// Bytes of the stack of a thread that is kept, enough for an ordinary conversation.
const USUAL_STACK: usize = 32 << 20;

impl BudgetThread {
    fn with_stack(stack: usize) -> io::Result<Self> {
        let stack = stack.max(USUAL_STACK);
        if stack == USUAL_STACK
            && let Some(idle) = idle().pop()
        {
            return Ok(idle);
        }
        let (jobs, coming) = sync_channel::<Task>(1);
        thread::Builder::new()
            .name("template".to_owned())
            .stack_size(stack)
            .spawn(move || {
                while let Ok(job) = coming.recv() {
                    job();
                }
            })?;
        Ok(Self { jobs, stack })
    }

    fn begin(&self, job: Task) -> Result<(), Overrun> {
        // It ends only after this.
        self.jobs.send(job).map_err(|_| Overrun::Panicked)
    }

    /// Keeps the thread for later work, now that its own is done.
    fn rest(self) {
        let mut idle = idle();
        if self.stack == USUAL_STACK && idle.len() < MOST_IDLE {
            idle.push(self);
        }
    }
}

fn idle() -> MutexGuard<'static, Vec<BudgetThread>> {
    IDLE.lock()
}

const RUNNING: u8 = 0;
const DONE: u8 = 1;
const OVERDRAWN: u8 = 2;
const ABANDONED: u8 = 3;

/// The state of a run, shared by its thread and the thread that waits for it.
struct RunState {
    phase: AtomicU8,
    waiter: Thread,
}

impl RunState {
    /// Moves on from `RUNNING`; returns false if the run had ended before.
    fn change(&self, to: u8) -> bool {
        let order = Ordering::AcqRel;
        let changed = self
            .phase
            .compare_exchange(RUNNING, to, order, Ordering::Acquire);
        changed.is_ok()
    }
}

/// On drop, wakes the waiting thread; also when the work panics.
struct DoneNotice<'s>(&'s RunState);

impl Drop for DoneNotice<'_> {
    fn drop(&mut self) {
        self.0.change(DONE);
        self.0.waiter.unpark();
    }
}

/// Counts what a thread allocates.
struct Meter<'s> {
    budget: WorkBudget,
    run_state: &'s RunState,
    /// Negative if the thread frees more than it allocated, as it may own values of its caller's.
    live_bytes: Cell<isize>,
    live_blocks: Cell<isize>,
    total_bytes: Cell<u64>,
}

thread_local! {
    /// The meter of this thread, which is alive while it is here. Without a destructor and without
    /// being made at first use, so that an allocator may look at it at any time.
    static METER: Cell<*const Meter<'static>> = const { Cell::new(std::ptr::null()) };
}

impl<'s> Meter<'s> {
    fn new(budget: WorkBudget, run_state: &'s RunState) -> Self {
        Self {
            budget,
            run_state,
            live_bytes: Cell::new(0),
            live_blocks: Cell::new(0),
            total_bytes: Cell::new(0),
        }
    }

    /// Does the work with every allocation of this thread counted.
    fn over<T>(&self, work: impl FnOnce() -> T) -> T {
        struct MeterReset;
        impl Drop for MeterReset {
            fn drop(&mut self) {
                METER.set(std::ptr::null());
            }
        }
        // Taken off when this returns or unwinds, so it never outlives the meter.
        let _reset = MeterReset;
        METER.set(std::ptr::from_ref(self).cast());
        work()
    }

    fn count(&self, blocks: isize, bytes: isize) {
        let live_bytes = self.live_bytes.get().saturating_add(bytes);
        let live_blocks = self.live_blocks.get().saturating_add(blocks);
        self.live_bytes.set(live_bytes);
        self.live_blocks.set(live_blocks);
        let Ok(more) = u64::try_from(bytes) else {
            return;
        };
        let total = self.total_bytes.get().saturating_add(more);
        self.total_bytes.set(total);
        let exceeds =
            |live: isize, most: usize| usize::try_from(live).is_ok_and(|live| live > most);
        let is_overdrawn = exceeds(live_bytes, self.budget.live_bytes)
            || exceeds(live_blocks, self.budget.live_blocks)
            || total > self.budget.total_bytes;
        let is_abandoned = self.run_state.phase.load(Ordering::Relaxed) == ABANDONED;
        // Whoever reports a panic holds a lock that the next panic will want.
        if (is_overdrawn || is_abandoned) && !thread::panicking() {
            self.run_state.change(OVERDRAWN);
            self.stop();
        }
    }

    fn stop(&self) -> ! {
        METER.set(std::ptr::null());
        self.run_state.waiter.unpark();
        loop {
            thread::sleep(Duration::from_secs(86_400));
        }
    }
}

/// The system's allocator, which counts for threads that have a budget.
struct MeteredAllocator;

#[global_allocator]
static ALLOCATOR: MeteredAllocator = MeteredAllocator;

/// With this thread's meter, if it has one.
fn count_here(blocks: isize, bytes: isize) {
    let meter = METER.get();
    if !meter.is_null() {
        // SAFETY: a meter stays where it is while it is noted there, and is this thread's own.
        unsafe { (*meter).count(blocks, bytes) };
    }
}

/// No allocation is larger than `isize::MAX`.
fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

// SAFETY: everything is the system's allocator; counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for MeteredAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_here(1, signed(layout.size()));
        // SAFETY: as the caller says.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count_here(1, signed(layout.size()));
        // SAFETY: as the caller says.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count_here(-1, -signed(layout.size()));
        // SAFETY: as the caller says.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count_here(0, signed(size).saturating_sub(signed(layout.size())));
        // SAFETY: as the caller says.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: WorkBudget = WorkBudget {
        live_bytes: 1 << 20,
        live_blocks: 1_000,
        total_bytes: 16 << 20,
        stack: 1 << 20,
        time: Duration::from_secs(60),
    };

    #[test]
    fn what_stays_within_its_budget_gives_its_result() {
        let given = vec![7_u8; 4 << 20];
        // What it is given does not count, nor what it frees in between.
        let result = within(SMALL, move || {
            let sums = (0..10).map(|_| std::hint::black_box(vec![1_u8; 1 << 19]).len());
            sums.sum::<usize>() + given.len()
        });
        assert_eq!(result.ok(), Some((10 << 19) + (4 << 20)));
    }

    #[test]
    fn more_memory_at_a_time_or_in_all_or_in_more_blocks_ends_the_work() {
        let overdrawn = |work: fn() -> usize| matches!(within(SMALL, work), Err(Overrun::Memory));
        assert!(overdrawn(|| {
            std::hint::black_box(vec![0_u8; 1 << 30]).len()
        }));
        assert!(overdrawn(|| {
            let mut text = String::from("a");
            while text.len() < 1 << 30 {
                text = text.clone() + &text;
            }
            text.len()
        }));
        assert!(overdrawn(|| (0..100)
            .map(|_| std::hint::black_box(vec![1_u8; 1 << 19]).len())
            .sum()));
        assert!(overdrawn(|| {
            let boxes: Vec<_> = (0..2_000).map(Box::new).collect();
            std::hint::black_box(boxes).len()
        }));
    }

    #[test]
    fn work_without_end_is_waited_for_no_longer_than_it_may_take() {
        let budget = WorkBudget {
            time: Duration::from_millis(50),
            ..SMALL
        };
        let result = within(budget, || {
            loop {
                drop(Box::new(std::hint::black_box(1)));
                thread::yield_now();
            }
        });
        assert!(matches!(
            result,
            Err::<(), _>(Overrun::Memory | Overrun::Time)
        ));
    }

    #[test]
    fn a_panic_is_told_and_costs_no_thread() {
        let result = within(SMALL, || -> () { panic!("on purpose") });
        assert!(matches!(result, Err(Overrun::Panicked)));
        assert!(!Overrun::Panicked.is_a_loss() && Overrun::Memory.is_a_loss());
    }
}
