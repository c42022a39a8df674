//! What a context's KV cache takes of memory, and memory that nobody needs any more.

use std::fs;
use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use super::Weights;

/// Gives the system what was freed: glibc keeps blocks of some megabytes for the next to come.
pub fn return_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: looks for whole free pages under the allocator's own locks.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Has large blocks given back as soon as they are freed, for the rest of the process. Without it glibc
/// keeps blocks of up to 32 MiB for the next one, once one was freed: a body, or an answer to one.
pub fn return_large_blocks() {
    /// What is made anew at every step is smaller.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    const LARGE: libc::c_int = 4 << 20;
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: changes a number of the allocator's, under its own lock.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}

/// Gives the system what was freed, a moment later, on a thread of its own and once for all who ask
/// meanwhile: it takes up to some milliseconds.
pub fn return_freed_soon() {
    /// What is freed together is freed within it.
    const MOMENT: Duration = Duration::from_millis(250);
    static ASKED: OnceLock<Option<SyncSender<()>>> = OnceLock::new();
    let asked = ASKED.get_or_init(|| {
        let (ask, asked) = sync_channel(1);
        let returning = move || {
            while asked.recv().is_ok() {
                thread::sleep(MOMENT);
                return_freed();
            }
        };
        let thread = thread::Builder::new().name("memory".to_owned());
        thread.spawn(returning).ok().map(|_| ask)
    });
    if let Some(asked) = asked {
        // Full: somebody has asked already.
        let _ = asked.try_send(());
    }
}

/// Returns the bytes that a line of `/proc/self/status` says.
#[must_use]
pub fn status_bytes(line: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let text = status
        .lines()
        .find_map(|text| text.strip_prefix(line)?.strip_prefix(':'))?;
    let kilobytes: u64 = text.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// Bytes of a KV cache of so many cells, once all of them were used. None for models that keep
/// something else, or not the same in every layer.
#[must_use]
pub fn kv_cache_bytes(weights: &Weights, cells: usize) -> Option<u64> {
    let model = weights.hyperparameters();
    let is_plain = weights.info().shares_prefixes && model.has_plain_cells();
    is_plain.then(|| model.cell_bytes() * cells as u64)
}
