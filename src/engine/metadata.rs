//! What stands at the beginning of a GGUF, read before llama.cpp does.

use std::ffi::CStr;
use std::fs::File;
use std::ptr::NonNull;
use std::slice;

use llama_cpp_sys_2 as sys;

use super::model_file::CFileStream;

/// The keys and values at the beginning of a GGUF. A value of another type than asked for is none.
pub(super) struct Metadata(NonNull<sys::gguf_context>);

impl Metadata {
    pub(super) fn read(file: &File) -> Option<Self> {
        let stream = CFileStream::of(file).ok()?;
        let params = sys::gguf_init_params {
            no_alloc: true,
            ctx: std::ptr::null_mut(),
        };
        // SAFETY: the stream is open during the call, and not needed after it.
        let raw = unsafe { sys::gguf_init_from_file_ptr(stream.0.as_ptr().cast(), params) };
        NonNull::new(raw).map(Self)
    }

    fn find(&self, key: &CStr, kind: sys::gguf_type) -> Option<i64> {
        // SAFETY: the context is alive; the id that was found is valid.
        unsafe {
            let id = sys::gguf_find_key(self.0.as_ptr(), key.as_ptr());
            (id >= 0 && sys::gguf_get_kv_type(self.0.as_ptr(), id) == kind).then_some(id)
        }
    }

    /// The list under `key` with entries of this type, and its length.
    fn find_list(&self, key: &CStr, entry: sys::gguf_type) -> Option<(i64, usize)> {
        let id = self.find(key, sys::GGUF_TYPE_ARRAY)?;
        // SAFETY: the context is alive, and the value is a list.
        unsafe {
            (sys::gguf_get_arr_type(self.0.as_ptr(), id) == entry)
                .then(|| (id, sys::gguf_get_arr_n(self.0.as_ptr(), id)))
        }
    }

    pub(super) fn u16(&self, key: &CStr) -> Option<u16> {
        let id = self.find(key, sys::GGUF_TYPE_UINT16)?;
        // SAFETY: the context is alive, and the value is of this type.
        Some(unsafe { sys::gguf_get_val_u16(self.0.as_ptr(), id) })
    }

    pub(super) fn u32(&self, key: &CStr) -> Option<u32> {
        let id = self.find(key, sys::GGUF_TYPE_UINT32)?;
        // SAFETY: as above.
        Some(unsafe { sys::gguf_get_val_u32(self.0.as_ptr(), id) })
    }

    pub(super) fn f32(&self, key: &CStr) -> Option<f32> {
        let id = self.find(key, sys::GGUF_TYPE_FLOAT32)?;
        // SAFETY: as above.
        Some(unsafe { sys::gguf_get_val_f32(self.0.as_ptr(), id) })
    }

    /// Whether there is such a key, whatever the type of its value.
    pub(super) fn has(&self, key: &CStr) -> bool {
        // SAFETY: the context is alive.
        unsafe { sys::gguf_find_key(self.0.as_ptr(), key.as_ptr()) >= 0 }
    }

    /// What the file says of each of its tensors.
    pub(super) fn tensors(&self) -> impl Iterator<Item = TensorHeader> {
        // SAFETY: the context is alive.
        let count = unsafe { sys::gguf_get_n_tensors(self.0.as_ptr()) };
        (0..count).map(|index| self.tensor(index))
    }

    /// `index` is below the number of tensors.
    fn tensor(&self, index: i64) -> TensorHeader {
        let raw = self.0.as_ptr();
        // SAFETY: the context is alive and the index valid; a name is a string and a shape four
        // numbers, and both live as long as the context.
        unsafe {
            let name = CStr::from_ptr(sys::gguf_get_tensor_name(raw, index));
            let shape = slice::from_raw_parts(sys::gguf_get_tensor_ne(raw, index), 4);
            let offset = sys::gguf_get_data_offset(raw) as u64;
            let offset = offset.checked_add(sys::gguf_get_tensor_offset(raw, index) as u64);
            let bytes = sys::gguf_get_tensor_size(raw, index) as u64;
            TensorHeader {
                name: name.to_string_lossy().into_owned(),
                shape: [shape[0], shape[1], shape[2], shape[3]],
                kind: sys::gguf_get_tensor_type(raw, index),
                bytes,
                end: offset.and_then(|offset| offset.checked_add(bytes)),
            }
        }
    }

    /// A text, as far as C sees it.
    pub(super) fn text(&self, key: &CStr) -> Option<&CStr> {
        let id = self.find(key, sys::GGUF_TYPE_STRING)?;
        // SAFETY: the value is a string, which lives as long as the context.
        Some(unsafe { CStr::from_ptr(sys::gguf_get_val_str(self.0.as_ptr(), id)) })
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &CStr) -> Option<impl Iterator<Item = &CStr>> {
        let (id, count) = self.find_list(key, sys::GGUF_TYPE_STRING)?;
        Some((0..count).map(move |index| {
            // SAFETY: the index is below the list's length; strings live as long as the context.
            unsafe { CStr::from_ptr(sys::gguf_get_arr_str(self.0.as_ptr(), id, index)) }
        }))
    }

    /// A list of 32-bit numbers.
    pub(super) fn numbers(&self, key: &CStr) -> Option<&[i32]> {
        let (id, count) = self.find_list(key, sys::GGUF_TYPE_INT32)?;
        // SAFETY: so many numbers of this type, which live as long as the context, in memory from
        // its allocator.
        Some(unsafe {
            slice::from_raw_parts(sys::gguf_get_arr_data(self.0.as_ptr(), id).cast(), count)
        })
    }

    /// A list of bytes, signed or not.
    pub(super) fn bytes(&self, key: &CStr) -> Option<&[u8]> {
        let (id, count) = self
            .find_list(key, sys::GGUF_TYPE_UINT8)
            .or_else(|| self.find_list(key, sys::GGUF_TYPE_INT8))?;
        // SAFETY: as above.
        Some(unsafe {
            slice::from_raw_parts(sys::gguf_get_arr_data(self.0.as_ptr(), id).cast(), count)
        })
    }
}

/// What a GGUF says of one of its tensors.
#[derive(Debug, Clone)]
pub(super) struct TensorHeader {
    pub(super) name: String,
    /// The length of each dimension, the innermost first; 1 beyond the last.
    pub(super) shape: [i64; 4],
    pub(super) kind: sys::ggml_type,
    pub(super) bytes: u64,
    /// Where in the file its numbers end; `None` beyond what a file can have.
    pub(super) end: Option<u64>,
}

impl Drop for Metadata {
    fn drop(&mut self) {
        // SAFETY: alive, and nobody has it after this.
        unsafe { sys::gguf_free(self.0.as_ptr()) };
    }
}
