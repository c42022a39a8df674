//! Metadata that replace what a file says when llama.cpp reads it.

use std::ffi::c_char;

use llama_cpp_sys_2 as sys;

/// One key with its value. llama.cpp takes a list of them, which ends with [`MetadataOverride::end`].
#[repr(transparent)]
pub(super) struct MetadataOverride(sys::llama_model_kv_override);

impl MetadataOverride {
    /// Returns a text; `None` where key or text is longer than llama.cpp has room for.
    pub(super) fn text(key: &str, text: &str) -> Option<Self> {
        Self::new(
            key,
            sys::LLAMA_KV_OVERRIDE_TYPE_STR,
            sys::llama_model_kv_override__bindgen_ty_1 {
                val_str: c_text(text)?,
            },
        )
    }

    /// Returns a whole number; `None` where the key is longer than llama.cpp has room for.
    pub(super) fn integer(key: &str, number: i64) -> Option<Self> {
        Self::new(
            key,
            sys::LLAMA_KV_OVERRIDE_TYPE_INT,
            sys::llama_model_kv_override__bindgen_ty_1 { val_i64: number },
        )
    }

    /// The entry that ends a list.
    pub(super) fn end() -> Self {
        Self(sys::llama_model_kv_override {
            tag: sys::LLAMA_KV_OVERRIDE_TYPE_INT,
            key: [0; ROOM],
            __bindgen_anon_1: sys::llama_model_kv_override__bindgen_ty_1 { val_i64: 0 },
        })
    }

    fn new(
        key: &str,
        tag: sys::llama_model_kv_override_type,
        value: sys::llama_model_kv_override__bindgen_ty_1,
    ) -> Option<Self> {
        Some(Self(sys::llama_model_kv_override {
            tag,
            key: c_text(key)?,
            __bindgen_anon_1: value,
        }))
    }
}

/// Bytes of a key or a text, with the zero at its end.
const ROOM: usize = 128;

fn c_text(text: &str) -> Option<[c_char; ROOM]> {
    let mut room = [0; ROOM];
    if text.len() >= ROOM {
        return None;
    }
    for (place, byte) in room.iter_mut().zip(text.bytes()) {
        *place = c_char::from_ne_bytes([byte]);
    }
    Some(room)
}
