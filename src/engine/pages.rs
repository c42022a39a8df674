//! Memory of a KV cache that nobody has used yet.
//!
//! llama.cpp fills a new cache with zeros, so that all of it is resident from the start: 300 MB for
//! a model of 0.5 B parameters with 24,576 cells, of which eight kiosks use a tenth. Its pages are
//! given back once it is known where they lie; the system hands out zeros again where one is used:
//! 4 kB, or 2 MB a layer where it makes huge pages unasked (`transparent_hugepage/enabled` is
//! `always`), which leaves less to save.
//!
//! llama.cpp tells an address to nobody but the callback that it asks before each operation.
//! Without a GPU that costs nothing that could be measured; with one it would wait for it there.

use std::ffi::{CStr, c_void};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use llama_cpp_sys_2::{
    ggml_backend_buffer_get_base, ggml_backend_buffer_get_size, ggml_backend_buffer_is_host,
    ggml_tensor, llama_context_params,
};

use crate::sync::Mutex;

/// Where a context's KV cache lies; found when it computes for the first time.
#[derive(Debug, Default)]
pub(super) struct CachePages {
    /// Addresses of the cache's buffers.
    buffers: Mutex<Vec<Range<usize>>>,
    is_known: AtomicBool,
}

impl CachePages {
    /// Lets a context that is made of `params` tell where its cache lies. It does so each time it
    /// computes: it must be gone before this is.
    pub(super) fn ask_where(self: &Arc<Self>, params: &mut llama_context_params) {
        params.cb_eval = Some(look);
        params.cb_eval_user_data = Arc::as_ptr(self).cast_mut().cast();
    }

    /// Gives all of the cache's memory back, with what stands there.
    ///
    /// # Safety
    /// The context is alive, computes nothing meanwhile, and its cache has nothing in use.
    pub(super) unsafe fn give_back(&self) {
        self.is_known.store(true, Ordering::Relaxed);
        for buffer in self.buffers() {
            // SAFETY: as the caller says; they are alive as long as the context.
            unsafe { forget(&buffer) };
        }
    }

    fn buffers(&self) -> Vec<Range<usize>> {
        self.buffers.lock().clone()
    }

    fn found(&self, buffer: Range<usize>) {
        let mut buffers = self.buffers.lock();
        if !buffers.contains(&buffer) {
            buffers.push(buffer);
        }
    }
}

/// llama.cpp asks this before each operation, whether its result is wanted; never.
unsafe extern "C" fn look(tensor: *mut ggml_tensor, _ask: bool, pages: *mut c_void) -> bool {
    // SAFETY: `CachePages::ask_where` passed it, and its caller keeps it for as long as the context.
    let pages = unsafe { &*pages.cast::<CachePages>() };
    if !pages.is_known.load(Ordering::Relaxed) {
        // SAFETY: ggml passes a tensor of the graph that it is about to compute.
        if let Some(buffer) = unsafe { cache_buffer(tensor) } {
            pages.found(buffer);
        }
    }
    false
}

/// The buffer of the cache into which this operation writes, if it does.
///
/// # Safety
/// `tensor` must be one of a graph whose memory is allocated.
unsafe fn cache_buffer(tensor: *const ggml_tensor) -> Option<Range<usize>> {
    // SAFETY: a view points to the tensor that it shows a part of, both in ggml's hands; names end
    // with a zero; buffers of tensors under way are alive.
    unsafe {
        let cache = (*tensor).view_src.as_ref()?;
        let name = CStr::from_ptr(cache.name.as_ptr()).to_bytes();
        let is_cache = name.starts_with(b"cache_k_l") || name.starts_with(b"cache_v_l");
        if !is_cache || cache.buffer.is_null() || !ggml_backend_buffer_is_host(cache.buffer) {
            return None;
        }
        let start = ggml_backend_buffer_get_base(cache.buffer).addr();
        Some(start..start + ggml_backend_buffer_get_size(cache.buffer))
    }
}

/// Whole pages of `memory` are zeros from now on, and take no memory until they are used.
///
/// # Safety
/// It must be a buffer from malloc of which nothing is in use.
#[cfg(target_os = "linux")]
unsafe fn forget(memory: &Range<usize>) {
    let Some(page) = page_bytes() else {
        return;
    };
    let start = memory.start.next_multiple_of(page);
    let end = memory.end - memory.end % page;
    if start < end {
        let address = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: nobody looks at these pages, and the system fills them with zeros, which is what
        // llama.cpp filled them with. Where that is refused nothing has changed.
        let _ = unsafe { libc::madvise(address, end - start, libc::MADV_DONTNEED) };
    }
}

#[cfg(target_os = "linux")]
fn page_bytes() -> Option<usize> {
    // SAFETY: asks for a number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

/// Nothing, where it is not known how.
///
/// # Safety
/// As above.
#[cfg(not(target_os = "linux"))]
unsafe fn forget(_memory: &Range<usize>) {}

#[cfg(all(test, target_os = "linux"))]
impl CachePages {
    /// Bytes of the cache's buffers, and those that are in memory.
    pub(super) fn resident(&self) -> (usize, usize) {
        let page = page_bytes().expect("pages have a size");
        let (mut all, mut resident) = (0, 0);
        for buffer in self.buffers() {
            let (start, end) = (buffer.start / page * page, buffer.end);
            let mut states = vec![0_u8; (end - start).div_ceil(page)];
            let address = std::ptr::with_exposed_provenance_mut(start);
            // SAFETY: a byte for each page.
            let code = unsafe { libc::mincore(address, end - start, states.as_mut_ptr()) };
            assert_eq!(code, 0, "{}", std::io::Error::last_os_error());
            all += buffer.len();
            resident += states.iter().filter(|state| **state & 1 == 1).count() * page;
        }
        (all, resident)
    }
}
