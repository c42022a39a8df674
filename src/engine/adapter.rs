//! A loaded LoRA adapter, held safely.

use std::marker::PhantomData;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::adapter_file::{AdapterError, AdapterFile};
use super::context::raw_model;
use super::model_file::CFileStream;
use super::{Weights, logs};

/// Owns an adapter of a model. llama.cpp keeps a list of a model's adapters without a lock, which its
/// contexts read. So an adapter is loaded on the thread that owns the weights, which are neither `Send`
/// nor `Sync`, and freed there as well: it is a part of a context, and an engine stays on its thread.
#[derive(Debug)]
pub(super) struct Adapter<'model> {
    raw: NonNull<sys::llama_adapter_lora>,
    model: PhantomData<&'model Weights>,
}

impl<'model> Adapter<'model> {
    /// Reads an adapter that was checked against this model.
    pub(super) fn load(
        weights: &'model Weights,
        source: &AdapterFile,
    ) -> Result<Self, AdapterError> {
        let stream = CFileStream::of(&source.file).map_err(|error| AdapterError::Unreadable {
            path: source.path.clone(),
            source: error,
        })?;
        logs::clear_last_error();
        let model = raw_model(weights.llama());
        // SAFETY: the model is alive and on this thread, and no context of it computes; the stream is
        // open until llama.cpp has read it, and what is in it was checked.
        let raw =
            unsafe { sys::llama_adapter_lora_init_from_file_ptr(model, stream.0.as_ptr().cast()) };
        let raw = NonNull::new(raw).ok_or_else(|| AdapterError::Refused {
            path: source.path.clone(),
            reason: logs::last_error().unwrap_or_else(|| "llama.cpp gave no reason".to_owned()),
        })?;
        Ok(Self {
            raw,
            model: PhantomData,
        })
    }

    pub(super) fn raw(&self) -> *mut sys::llama_adapter_lora {
        self.raw.as_ptr()
    }
}

impl Drop for Adapter<'_> {
    fn drop(&mut self) {
        // SAFETY: it is alive, as its model is by the lifetime, and nobody has it after this: the
        // context that it was applied to is freed before.
        unsafe { sys::llama_adapter_lora_free(self.raw.as_ptr()) };
    }
}
