//! A llama.cpp context, held safely.
//!
//! `llama-cpp-2` has one as well, but none whose number of threads can be changed, and that follows
//! here from how many contexts compute at once.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use super::adapter::Adapter;
use super::backend::backend;
use super::pages::CachePages;
use super::{DecodeError, LoadError, Row, SeqId, Weights};

/// Owns a llama.cpp context; contexts do not affect each other.
#[derive(Debug)]
pub(super) struct Context<'model> {
    raw: NonNull<sys::llama_context>,
    /// The context holds pointers into this, so it is declared, and dropped, after the context.
    pages: Arc<CachePages>,
    /// What its rows are computed with, for all its life; freed after the context, which points to it.
    adapter: Option<Adapter<'model>>,
    threads: u32,
    batch: Batch,
    vocabulary: usize,
    model: PhantomData<&'model Weights>,
}

// SAFETY: a context belongs to no thread in particular; what changes it takes `&mut`. The pointers
// of its batch lead into the batch's own vectors. Its adapter is only read while it computes, and is
// dropped with it: an engine lends its contexts to other threads, but keeps them.
unsafe impl Send for Context<'_> {}

/// The cells of a sequence in llama.cpp's format, with their positions. Nobody else can make one,
/// so what llama.cpp reads is what it wrote.
#[derive(Debug)]
pub(super) struct Cells(Vec<u8>);

impl Cells {
    pub(super) fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// All of a sequence's state, not only what cannot be rolled back.
const WHOLE: sys::llama_state_seq_flags = 0;

impl<'model> Context<'model> {
    /// Allocates cache and compute buffers.
    ///
    /// # Safety
    /// Pointers in `params` are null, or lead to what lives longer.
    pub(super) unsafe fn new(
        weights: &'model Weights,
        mut params: sys::llama_context_params,
    ) -> Result<Self, LoadError> {
        backend()?;
        let pages = Arc::<CachePages>::default();
        pages.ask_where(&mut params);
        // SAFETY: the model outlives the context, by the lifetime; the pages do, which are dropped
        // behind it; the rest as the caller says.
        let raw = unsafe { sys::llama_init_from_model(raw_model(weights.llama()), params) };
        let raw = NonNull::new(raw).ok_or_else(|| LoadError::Context(super::logs::last_error()))?;
        Ok(Self {
            raw,
            pages,
            adapter: None,
            threads: 0,
            batch: Batch::default(),
            vocabulary: weights.info().vocabulary,
            model: PhantomData,
        })
    }

    /// Computes with an adapter from now on. llama.cpp plans its buffers anew at the next decode, which
    /// is why a context keeps the adapter that it was given at first.
    pub(super) fn with_adapter(mut self, adapter: Adapter<'model>) -> Self {
        let (mut adapters, mut scales) = ([adapter.raw()], [1.0]);
        // SAFETY: the context is alive, computes nothing, and copies the lists; the adapter is of the
        // same model and lives longer than the context, which owns it.
        unsafe {
            sys::llama_set_adapters_lora(
                self.raw.as_ptr(),
                adapters.as_mut_ptr(),
                adapters.len(),
                scales.as_mut_ptr(),
            );
        }
        self.adapter = Some(adapter);
        self
    }

    fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: the context is alive.
        unsafe { sys::llama_get_memory(self.raw.as_ptr()) }
    }

    /// Returns the number of cells, rounded up as llama.cpp does.
    pub(super) fn cells(&self) -> usize {
        // SAFETY: the context is alive.
        unsafe { sys::llama_n_ctx(self.raw.as_ptr()) as usize }
    }

    /// Returns the most rows of one decode.
    pub(super) fn batch_rows(&self) -> usize {
        // SAFETY: the context is alive.
        unsafe { sys::llama_n_batch(self.raw.as_ptr()) as usize }
    }

    /// Sets how many threads compute from now on.
    pub(super) fn set_threads(&mut self, threads: u32) {
        // llama.cpp writes a line to the log each time.
        if std::mem::replace(&mut self.threads, threads) == threads {
            return;
        }
        let threads = index(threads);
        // SAFETY: the context is alive, and computes nothing meanwhile.
        unsafe { sys::llama_set_n_threads(self.raw.as_ptr(), threads, threads) };
    }

    /// Computes rows, at most [`Context::batch_rows`], and stores their cells.
    pub(super) fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError> {
        let batch = self.batch.of(rows);
        // SAFETY: the context is alive; the batch leads to as many entries as it says, which stay
        // while this runs.
        let code = unsafe { sys::llama_decode(self.raw.as_ptr(), batch) };
        match code {
            0 => Ok(()),
            1 => Err(DecodeError::NoCells),
            code => Err(DecodeError::Failed(code)),
        }
    }

    /// Logits of row `row` of the last batch.
    ///
    /// # Panics
    /// If it did not ask for them.
    pub(super) fn logits(&self, row: usize) -> &[f32] {
        let row = i32::try_from(row).unwrap_or(i32::MAX);
        // SAFETY: the context is alive, and not `Sync`: the first call after a batch puts its logits
        // in order, so that none moves after that.
        let logits = unsafe { sys::llama_get_logits_ith(self.raw.as_ptr(), row) };
        assert!(!logits.is_null(), "no logits were computed for row {row}");
        // SAFETY: as many as there are tokens, valid until the next batch, which takes `&mut self`.
        unsafe { slice::from_raw_parts(logits, self.vocabulary) }
    }

    /// Lets `to` have the first `length` cells of `from`; in a unified cache nothing is copied.
    pub(super) fn share(&mut self, from: SeqId, to: SeqId, length: usize) {
        let length = i32::try_from(length).unwrap_or(i32::MAX);
        // SAFETY: the context is alive.
        unsafe {
            sys::llama_memory_seq_cp(self.memory(), index(from.0), index(to.0), 0, length);
        }
    }

    /// Returns how many cells a sequence has.
    pub(super) fn length(&self, sequence: SeqId) -> usize {
        // SAFETY: the context is alive.
        let last = unsafe { sys::llama_memory_seq_pos_max(self.memory(), index(sequence.0)) };
        usize::try_from(last + 1).unwrap_or(0)
    }

    /// Frees the cells of a sequence from position `from` on.
    pub(super) fn truncate(&mut self, sequence: SeqId, from: u32) {
        // SAFETY: the context is alive.
        unsafe { sys::llama_memory_seq_rm(self.memory(), index(sequence.0), index(from), -1) };
    }

    /// Returns the bytes that a copy of a sequence takes.
    pub(super) fn copied_bytes(&self, sequence: SeqId) -> usize {
        let sequence = index(sequence.0);
        // SAFETY: the context is alive; it only waits for what is being computed, which is nothing.
        unsafe { sys::llama_state_seq_get_size_ext(self.raw.as_ptr(), sequence, WHOLE) }
    }

    /// Copies the cells of a sequence; `None` if llama.cpp fails.
    pub(super) fn copy_out(&self, sequence: SeqId) -> Option<Cells> {
        let mut bytes = vec![0; self.copied_bytes(sequence)];
        let sequence = index(sequence.0);
        // SAFETY: the context is alive; it writes no more than it is told there is room for.
        let written = unsafe {
            sys::llama_state_seq_get_data_ext(
                self.raw.as_ptr(),
                bytes.as_mut_ptr(),
                bytes.len(),
                sequence,
                WHOLE,
            )
        };
        (written > 0 && written == bytes.len()).then_some(Cells(bytes))
    }

    /// Gives copied cells to a sequence that has none; returns whether there was room.
    pub(super) fn copy_in(&mut self, cells: &Cells, to: SeqId) -> bool {
        let Cells(bytes) = cells;
        // SAFETY: the context is alive; the bytes are what llama.cpp wrote, and as many.
        let read = unsafe {
            sys::llama_state_seq_set_data_ext(
                self.raw.as_ptr(),
                bytes.as_ptr(),
                bytes.len(),
                index(to.0),
                WHOLE,
            )
        };
        read == bytes.len()
    }

    /// Returns the cache's memory to the operating system.
    ///
    /// # Safety
    /// No sequence has cells.
    pub(super) unsafe fn give_back(&mut self) {
        // SAFETY: the context is alive and computes nothing; as the caller says.
        unsafe { self.pages.give_back() };
    }

    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn resident(&self) -> (usize, usize) {
        self.pages.resident()
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: it is alive, and nobody has it after this.
        unsafe { sys::llama_free(self.raw.as_ptr()) };
    }
}

/// Rows as llama.cpp wants them: a list for each of their properties.
#[derive(Debug, Default)]
struct Batch {
    tokens: Vec<sys::llama_token>,
    positions: Vec<sys::llama_pos>,
    /// Each row belongs to one sequence.
    counts: Vec<i32>,
    sequences: Vec<sys::llama_seq_id>,
    /// Where in `sequences` each row's begin.
    starts: Vec<*mut sys::llama_seq_id>,
    outputs: Vec<i8>,
}

impl Batch {
    /// Leads to these rows until the next call.
    fn of(&mut self, rows: &[Row]) -> sys::llama_batch {
        fn fill<T>(list: &mut Vec<T>, values: impl Iterator<Item = T>) {
            list.clear();
            list.extend(values);
        }
        fill(&mut self.tokens, rows.iter().map(|row| row.token.0));
        fill(
            &mut self.positions,
            rows.iter().map(|row| index(row.position)),
        );
        fill(&mut self.counts, rows.iter().map(|_| 1));
        fill(
            &mut self.sequences,
            rows.iter().map(|row| index(row.sequence.0)),
        );
        let starts = self.sequences.iter_mut().map(std::ptr::from_mut);
        fill(&mut self.starts, starts);
        fill(&mut self.outputs, rows.iter().map(|row| row.logits.into()));
        sys::llama_batch {
            n_tokens: i32::try_from(rows.len()).unwrap_or(i32::MAX),
            token: self.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: self.positions.as_mut_ptr(),
            n_seq_id: self.counts.as_mut_ptr(),
            seq_id: self.starts.as_mut_ptr(),
            logits: self.outputs.as_mut_ptr(),
        }
    }
}

/// What `llama-cpp-2` holds.
pub(super) fn raw_model(model: &LlamaModel) -> *mut sys::llama_model {
    const {
        assert!(size_of::<LlamaModel>() == size_of::<*mut sys::llama_model>());
        assert!(align_of::<LlamaModel>() == align_of::<*mut sys::llama_model>());
    }
    // SAFETY: it is `repr(transparent)` over this pointer (the version is pinned).
    unsafe { *std::ptr::from_ref(model).cast() }
}

pub(super) fn index(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
