//! What requests have in common that come from the same kind of client.

/// The orders of magnitude of a prompt and of the answer that it allows: all kiosks of a store are alike in both, and
/// different from the back office.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RequestKind {
    prompt: u8,
    most: u8,
}

impl RequestKind {
    /// Of a prompt of so many tokens and an answer of `most` at most.
    #[allow(clippy::cast_possible_truncation)] // logarithms are below 64
    pub(super) fn of(prompt: usize, most: u32) -> Self {
        Self {
            prompt: prompt.max(1).ilog2() as u8,
            most: most.max(1).ilog2() as u8,
        }
    }

    /// The same for prompts of any length.
    pub(super) fn by_most(self) -> Self {
        Self { prompt: 0, ..self }
    }
}
