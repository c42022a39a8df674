//! The rendering of a stream by itself, to be measured (`benches/sse.rs`).

use std::sync::Arc;

use axum::response::Response;
use futures_util::{StreamExt, stream};

use crate::engine::{Pieces, Token};
use crate::http::respond::ResponseRenderer;
use crate::http::sse::{Frame, OutgoingFrame, event_stream};
use crate::openai::tools::CallLimit;
use crate::prompt::{OutputParser, ToolFormat};
use crate::scheduler::AnswerText;

use super::renderer::ChatRenderer;
use super::reply::ChatHeader;
use super::validate::ChatOutputOptions;

/// Makes a streamed response of `words` words.
#[must_use]
pub fn measured_stream(words: u32, tools: bool) -> Response {
    struct NoPieces;

    impl Pieces for NoPieces {
        fn piece(&self, _token: Token) -> &[u8] {
            b""
        }

        fn is_end(&self, _token: Token) -> bool {
            false
        }
    }

    let output = ChatOutputOptions {
        stream: true,
        usage_chunk: true,
        calls: if tools {
            CallLimit::Any
        } else {
            CallLimit::None
        },
        logprobs: false,
    };
    let header = ChatHeader::new(
        "chat.completion.chunk",
        "qwen2.5-0.5b",
        "0123456789",
        0,
        None,
    );
    let parser = OutputParser::new(None, tools.then_some(ToolFormat::Hermes));
    let mut answer = ChatRenderer::new(header, output, Arc::new(NoPieces), [parser]);
    let word = AnswerText {
        text: " word".to_owned(),
        tokens: 1,
        logprobs: Vec::new(),
    };
    let frames: Vec<Frame> = (0..words).flat_map(|_| answer.text(0, &word)).collect();
    event_stream(stream::iter(frames).map(OutgoingFrame::from), 0)
}
