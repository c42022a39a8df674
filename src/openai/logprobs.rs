//! Log-probabilities of tokens, in the form of chat completions and responses.

use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use crate::engine::{Pieces, Token};
use crate::sampling::Logprobs;

/// A token of an answer, and what could have stood in its place.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct TokenLogprob {
    #[serde(flatten)]
    token: Likelihood,
    top_logprobs: Vec<Likelihood>,
}

/// The log-probabilities of an answer, converted only while they are serialized: until then they take a
/// fraction of the memory.
pub(crate) struct TokenLogprobList {
    pub(crate) tokens: Vec<Logprobs>,
    pub(crate) pieces: Arc<dyn Pieces>,
}

impl fmt::Debug for TokenLogprobList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tokens.fmt(formatter)
    }
}

impl Serialize for TokenLogprobList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tokens = self.tokens.iter();
        serializer.collect_seq(tokens.map(|found| TokenLogprob::new(found, &*self.pieces)))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
struct Likelihood {
    /// With replacement characters where the token is no whole text.
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl Likelihood {
    fn size(&self) -> usize {
        size_of::<Self>() + self.token.len() + self.bytes.len()
    }

    /// Clamps `logprob` to -9999, which OpenAI writes for minus infinity, because JSON has no infinity.
    fn new(token: Token, logprob: f32, pieces: &dyn Pieces) -> Self {
        let bytes = pieces.piece(token).to_vec();
        Self {
            token: String::from_utf8_lossy(&bytes).into_owned(),
            logprob: logprob.max(-9999.0),
            bytes,
        }
    }
}

impl TokenLogprob {
    /// Returns roughly how many bytes of memory it takes.
    pub(crate) fn size(&self) -> usize {
        let rivals = self.top_logprobs.iter();
        size_of::<Self>() + self.token.size() + rivals.map(Likelihood::size).sum::<usize>()
    }

    pub(crate) fn new(found: &Logprobs, pieces: &dyn Pieces) -> Self {
        let rivals = found.top.iter();
        Self {
            token: Likelihood::new(found.token, found.logprob, pieces),
            top_logprobs: rivals
                .map(|(token, logprob)| Likelihood::new(*token, *logprob, pieces))
                .collect(),
        }
    }
}
