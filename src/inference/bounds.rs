//! The bounds of a request's numbers, lists and texts, both for the checks and for `/openapi.json`.

use std::ops::RangeInclusive;

/// OpenAI's bound on `temperature`.
pub(crate) const TEMPERATURE: RangeInclusive<f64> = 0.0..=2.0;
pub(crate) const PROBABILITY: RangeInclusive<f64> = 0.0..=1.0;
pub(crate) const PENALTY: RangeInclusive<f64> = -2.0..=2.0;
pub(crate) const LOGIT_BIAS: RangeInclusive<f64> = -100.0..=100.0;
pub(crate) const CHOICES: RangeInclusive<i64> = 1..=128;
pub(crate) const TOP_LOGPROBS: RangeInclusive<i64> = 0..=20;
/// Bounds of `logprobs` of text completions.
pub(crate) const LOGPROBS: RangeInclusive<i64> = 0..=5;
pub(crate) const MOST_TOOLS: usize = 128;
pub(crate) const MOST_METADATA: usize = 16;
/// Characters of a metadata key.
pub(crate) const LONGEST_METADATA_KEY: usize = 64;
/// Characters of a metadata value.
pub(crate) const LONGEST_METADATA: usize = 512;
/// Characters of a function's or schema's name.
pub(crate) const LONGEST_NAME: usize = 64;

/// Least `max_tokens` of `/v1/completions`: zero only echoes the prompt.
pub(crate) const LEAST_COMPLETION_TOKENS: i64 = 0;
/// Items of one page of a response's input items.
pub(crate) const PAGE_ITEMS: RangeInclusive<i64> = 1..=100;
pub(crate) const LONGEST_IDENTIFIER: usize = 64;

/// Bounds of `repeat_penalty`, which is not OpenAI's.
pub(crate) const REPEAT_PENALTY: RangeInclusive<f64> = 0.01..=10.0;
/// Least `top_k`: vLLM's -1 means all tokens, as does llama.cpp's 0.
pub(crate) const LEAST_TOP_K: i64 = -1;
pub(crate) const LEAST_TOKENS: i64 = 1;
pub(crate) const MOST_PROMPTS: usize = 128;
pub(crate) const TOKEN_ID: RangeInclusive<i64> = 0..=i32::MAX as i64;

/// Characters of ids, names and keys that clients choose and that are echoed or stored. More than OpenAI's
/// 64 to 128, because clients also send ids that other servers made.
pub(crate) const LONGEST_ID: usize = 256;
/// Characters of a format's description, which is echoed.
pub(crate) const LONGEST_DESCRIPTION: usize = 8192;
/// Bytes of a reasoning item.
pub(crate) const LARGEST_THOUGHTS: usize = 1 << 20;

/// Variables in `chat_template_kwargs`.
pub(crate) const MOST_TEMPLATE_KWARGS: usize = 64;
pub(crate) const LONGEST_TEMPLATE_KWARG_NAME: usize = 64;

/// Stop strings of a request (OpenAI allows four). They are searched at every token of an answer, on the
/// thread that serves all requests, so their bytes are bounded as well, each and together.
pub(crate) const MOST_STOPS: usize = 64;
pub(crate) const LONGEST_STOP: usize = 1024;
pub(crate) const LONGEST_STOPS: usize = 4096;
/// Entries of `stop_token_ids` and of `logit_bias`.
pub(crate) const MOST_TOKEN_IDS: usize = 1024;

/// Tokens of all texts of an embedding request together, as for OpenAI.
pub(crate) const MOST_EMBEDDED_TOKENS: usize = 300_000;
