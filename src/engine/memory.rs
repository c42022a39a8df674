//! What a context's KV cache takes of memory, and memory that nobody needs any more.

use super::Model;

/// Gives the system what was freed: glibc keeps blocks of some megabytes for the next to come.
pub fn return_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: looks for whole free pages under the allocator's own locks.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// llama.cpp keeps keys and values in 16 bits unless told otherwise, and nobody does.
const BYTES: u64 = 2;

/// Bytes of a KV cache of so many cells, once all of them were used. None for models that keep
/// something else, or not the same in every layer.
#[must_use]
pub fn kv_cache_bytes(model: &Model, cells: usize) -> Option<u64> {
    let weights = model.weights();
    let info = model.info();
    let number = |key: &str| -> Option<u64> {
        let key = format!("{}.attention.{key}", info.architecture);
        weights.meta_val_str(&key).ok()?.trim().parse().ok()
    };
    let is_plain = info.shares_prefixes && number("kv_lora_rank").is_none();
    if !is_plain {
        return None;
    }
    let heads = u64::from(weights.n_head());
    // A list, where layers differ, is no number.
    let kv_heads = number("head_count_kv")?;
    let width = u64::try_from(weights.n_embd()).ok()?.checked_div(heads)?;
    let key = number("key_length").unwrap_or(width);
    let value = number("value_length").unwrap_or(width);
    let per_cell = u64::from(weights.n_layer()) * kv_heads * (key + value) * BYTES;
    Some(per_cell * cells as u64)
}
