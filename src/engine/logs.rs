//! llama.cpp's log lines: forwarded to `tracing` under the target `llama`, and
//! the last error kept, because its functions answer a failure with a null
//! pointer and say the reason only here.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};

use llama_cpp_sys_2 as sys;

thread_local! {
    // Models load side by side, each on a thread of its own.
    static LINES: RefCell<Lines> = const { RefCell::new(Lines::new()) };
}

/// Sends llama.cpp's and ggml's log lines to `tracing`. Call once, before any model is loaded.
pub fn route_logs() {
    // SAFETY: the callback has the signature that llama.h declares, is valid
    // for the whole program and takes no user data.
    unsafe { sys::llama_log_set(Some(callback), std::ptr::null_mut()) };
}

/// What llama.cpp last complained about on this thread, without its function names.
pub(super) fn last_error() -> Option<String> {
    LINES.with_borrow(|lines| lines.last_error.clone())
}

/// Forgets earlier complaints, so that the next failure is not given an old reason.
pub(super) fn clear_last_error() {
    LINES.with_borrow_mut(|lines| lines.last_error = None);
}

/// The lines that llama.cpp writes to its log on this thread while `work` is done.
#[cfg(test)]
pub(super) fn lines_during(work: impl FnOnce()) -> Vec<String> {
    route_logs();
    LINES.with_borrow_mut(|lines| lines.seen.clear());
    work();
    LINES.with_borrow_mut(|lines| std::mem::take(&mut lines.seen))
}

/// Assembles whole lines: llama.cpp prints a line in several calls.
struct Lines {
    #[cfg(test)]
    seen: Vec<String>,
    level: sys::ggml_log_level,
    text: String,
    last_error: Option<String>,
}

impl Lines {
    const fn new() -> Self {
        Self {
            #[cfg(test)]
            seen: Vec::new(),
            level: sys::GGML_LOG_LEVEL_NONE,
            text: String::new(),
            last_error: None,
        }
    }

    fn push(&mut self, level: sys::ggml_log_level, text: &str) {
        if level != sys::GGML_LOG_LEVEL_CONT {
            self.level = level;
        }
        self.text.push_str(text);
        while let Some(end) = self.text.find('\n') {
            let rest = self.text.split_off(end + 1);
            let line = std::mem::replace(&mut self.text, rest);
            self.emit(line.trim());
        }
    }

    fn emit(&mut self, line: &str) {
        if line.is_empty() || line.chars().all(|c| c == '.') {
            return;
        }
        #[cfg(test)]
        self.seen.push(line.to_owned());
        match self.level {
            sys::GGML_LOG_LEVEL_ERROR => {
                let reason = without_function(line);
                // The first error names the cause, those after it only that loading failed.
                if self.last_error.is_none() {
                    self.last_error = Some(reason.to_owned());
                }
                tracing::error!(target: "llama", "{reason}");
            }
            sys::GGML_LOG_LEVEL_WARN if !is_usual(line) => {
                tracing::warn!(target: "llama", "{line}");
            }
            // What llama.cpp calls information is detail to an operator of this server.
            sys::GGML_LOG_LEVEL_INFO | sys::GGML_LOG_LEVEL_WARN => {
                tracing::debug!(target: "llama", "{line}");
            }
            _ => tracing::trace!(target: "llama", "{line}"),
        }
    }
}

/// Warnings of what is the rule here: the cache is shared by many sequences, so it has more cells
/// than one may have; when it is full, the scheduler makes room and tries again; and weights are
/// loaded without a vocabulary, whose place llama.cpp fills.
fn is_usual(line: &str) -> bool {
    [
        "n_ctx_train",
        "failed to find a memory slot",
        "dummy tokens",
    ]
    .iter()
    .any(|usual| line.contains(usual))
}

/// `llama_model_load: error loading model: x` → `error loading model: x`.
fn without_function(line: &str) -> &str {
    match line.split_once(": ") {
        Some((function, rest)) if !function.contains(' ') => rest,
        _ => line,
    }
}

unsafe extern "C" fn callback(
    level: sys::ggml_log_level,
    text: *const c_char,
    _user_data: *mut c_void,
) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a NUL-terminated string that lives during the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    // Not reached while a line is being emitted: nothing of ours logs through llama.cpp.
    LINES.with_borrow_mut(|lines| lines.push(level, &text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_kept_without_its_function() {
        let mut lines = Lines::new();
        lines.push(sys::GGML_LOG_LEVEL_INFO, "loading");
        lines.push(sys::GGML_LOG_LEVEL_CONT, " on\n");
        lines.push(
            sys::GGML_LOG_LEVEL_ERROR,
            "llama_model_load: error loading model: unknown model architecture: 'x'\n",
        );
        lines.push(sys::GGML_LOG_LEVEL_ERROR, "load: failed to load model\n");
        assert_eq!(
            lines.last_error.as_deref(),
            Some("error loading model: unknown model architecture: 'x'")
        );
    }
}
