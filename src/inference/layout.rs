//! Turns the inputs of a request into the prompts that a model reads.

use std::sync::Arc;

use crate::engine::{SpecialToken, Token, Vocabulary};
use crate::field::FieldPath;
use crate::pool::GenerationModel;
use crate::prompt::{Conversation, OutputParser, PromptError, Prompter, TemplateError};

use super::error::{ContextOverflow, InferenceError, RequestError, RequestField, TextPurpose};
use super::generate::GenerationInput;
use super::params::OutputFormat;
use super::truncation;

/// An input as tokens, as the model reads it.
#[derive(Debug)]
pub(crate) struct TokenizedPrompt {
    pub(crate) tokens: Arc<[Token]>,
    /// Whether the answer begins in the middle of thoughts.
    pub(super) opens_thoughts: bool,
    /// See [`crate::prompt::Prompt::tags`].
    pub(super) tags: Arc<[SpecialToken]>,
    /// A fresh parser for an answer to this prompt.
    pub(super) parser: OutputParser,
}

impl GenerationInput {
    /// Returns a lower bound of its tokens, given that a token has at most `longest_piece` bytes and each
    /// message at least one token. `may_truncate` says whether messages may be left out.
    fn least_tokens(&self, longest_piece: usize, may_truncate: bool) -> usize {
        match self {
            Self::Conversation(conversation) => {
                let messages = &conversation.messages;
                let least = if may_truncate {
                    truncation::least_tokens_kept(messages, longest_piece)
                } else {
                    truncation::least_tokens(messages, longest_piece)
                };
                least
                    + truncation::least_tool_tokens(&conversation.tools, longest_piece)
                    + truncation::least_kwargs_tokens(&conversation.template_kwargs, longest_piece)
            }
            Self::Text(text) => text.len() / longest_piece,
            Self::Tokens(tokens) => tokens.len(),
        }
    }
}

/// Drops the oldest turns of a conversation until there is room for an answer of `wanted` tokens.
pub(super) fn truncate(
    input: &mut GenerationInput,
    wanted: Option<u32>,
    loaded: &GenerationModel,
) -> Result<(), InferenceError> {
    let GenerationInput::Conversation(conversation) = input else {
        return Ok(());
    };
    let room = truncation::room(loaded.context(), wanted);
    let longest_piece = loaded.tokenizer.info().longest_piece.max(1);
    let prompter = loaded.prompter.as_ref().map_err(InferenceError::from)?;
    let length = |conversation: &Conversation| {
        let prompt = prompter.tokens(conversation, &*loaded.tokenizer);
        prompt.map(|prompt| prompt.tokens.len())
    };
    truncation::truncate(conversation, room, longest_piece, length)
        .map_err(|error| InferenceError::from(&error))
}

pub(super) fn prompt(
    input: GenerationInput,
    format: &OutputFormat,
    loaded: &GenerationModel,
) -> Result<TokenizedPrompt, InferenceError> {
    let model = &*loaded.tokenizer;
    let (tokens, opens_thoughts, tags, parser) = match input {
        GenerationInput::Conversation(conversation) => {
            let prompter = loaded.prompter.as_ref().map_err(InferenceError::from)?;
            if conversation.effort.is_some_and(|effort| !effort.is_none())
                && !prompter.knows_efforts()
            {
                let why = "is not known to this model's chat template; leave it out";
                return Err(RequestError::unsupported(RequestField::Effort, why).into());
            }
            let prompt = prompter
                .tokens(&conversation, model)
                .map_err(|error| not_laid_out(&error, &conversation))?;
            let calls = !conversation.tools.is_empty();
            let parser =
                parser(prompter, calls, prompt.opens_thoughts, format).hiding(&prompt.tags);
            (prompt.tokens, prompt.opens_thoughts, prompt.tags, parser)
        }
        GenerationInput::Text(text) => {
            let mut tokens: Vec<Token> = model.bos().into_iter().collect();
            tokens.extend(model.encode(&text));
            if tokens.is_empty() {
                // OpenAI's default prompt, which starts a new text.
                tokens.extend(model.text_border());
            }
            (tokens, false, Vec::new(), OutputParser::new(None, None))
        }
        GenerationInput::Tokens(tokens) => {
            let vocabulary = model.info().vocabulary;
            let unknown =
                |token: &&Token| usize::try_from(token.0).is_ok_and(|id| id >= vocabulary);
            if let Some(token) = tokens.iter().find(unknown) {
                let after = format!(": the model has no token {}", token.0);
                return Err(RequestError::invalid(whole_prompt(), after).into());
            }
            (tokens, false, Vec::new(), OutputParser::new(None, None))
        }
    };
    if tokens.is_empty() {
        let sentence = "the prompt is empty: write something";
        return Err(RequestError::invalid_whole(whole_prompt(), sentence).into());
    }
    Ok(TokenizedPrompt {
        tokens: tokens.into(),
        opens_thoughts,
        tags: tags.into(),
        parser,
    })
}

/// Makes the parser for an answer of this format. `calls` says whether tool calls are parsed,
/// `opens_thoughts` whether the prompt ends in the middle of thoughts.
fn parser(
    prompter: &Prompter,
    calls: bool,
    opens_thoughts: bool,
    format: &OutputFormat,
) -> OutputParser {
    // A grammar that applies from the first token on leaves no room for thoughts.
    let thinks = match format {
        OutputFormat::Free | OutputFormat::FreeWithCalls(_) => opens_thoughts,
        OutputFormat::Json(_) | OutputFormat::Calls { .. } => false,
    };
    let parser = OutputParser::new(
        prompter.thoughts().map(|tags| (tags, thinks)),
        calls.then(|| prompter.tool_format()),
    );
    match format {
        OutputFormat::Calls {
            otherwise: None, ..
        } => parser.only_calls(),
        _ => parser,
    }
}

/// Blames a template's failure on the client's template variables, if it sent any, rather than on the model.
fn not_laid_out(error: &PromptError, conversation: &Conversation) -> InferenceError {
    match error {
        PromptError::Template(TemplateError::Broken(reason) | TemplateError::Failed(reason))
            if !conversation.template_kwargs.is_empty() =>
        {
            let before = "the model's chat template fails with this ";
            let after = format!(": {reason}");
            RequestError::invalid_in(RequestField::TemplateVariables, before, after).into()
        }
        error => InferenceError::from(error),
    }
}

/// Checks that a prediction of at least `tokens` tokens is not longer than any answer can be.
pub(super) fn check_prediction(tokens: usize, context: usize) -> Result<(), RequestError> {
    if tokens < context {
        return Ok(());
    }
    let after = format!(
        " is longer than the model's context of {context} tokens, hence than any answer: shorten it"
    );
    Err(RequestError::invalid(RequestField::Prediction, after))
}

/// Checks, before the input is rendered, that its prompt can leave room for an answer.
pub(super) fn check_length(
    input: &GenerationInput,
    longest_piece: usize,
    may_truncate: bool,
    context: usize,
) -> Result<(), RequestError> {
    let tokens = input.least_tokens(longest_piece, may_truncate);
    if tokens < context {
        return Ok(());
    }
    Err(too_long(tokens, true, context))
}

fn too_long(tokens: usize, at_least: bool, context: usize) -> RequestError {
    let too_long = ContextOverflow {
        tokens,
        at_least,
        context,
        purpose: TextPurpose::Answer,
    };
    RequestError::too_long(whole_prompt(), too_long)
}

fn whole_prompt() -> RequestField {
    RequestField::Prompt(FieldPath::default())
}

/// Returns how many tokens the answer may have: `wanted`, as far as the context allows.
pub(super) fn answer_room(
    wanted: Option<u32>,
    prompt: usize,
    context: usize,
) -> Result<u32, RequestError> {
    if prompt >= context {
        return Err(too_long(prompt, false, context));
    }
    let room = u32::try_from(context - prompt).unwrap_or(u32::MAX);
    Ok(wanted.map_or(room, |wanted| wanted.min(room)))
}
