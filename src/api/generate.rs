//! From a checked request to answers under way: admission, prompt, and into the model's queue.

use std::sync::Arc;

use axum::http::HeaderMap;
use tracing::{Instrument, Span};

use crate::admission::{Place, Presence};
use crate::engine::{SpecialToken, Token, Vocabulary};
use crate::grammar::{Caller, Guide};
use crate::pool::{Entry, Loaded};
use crate::prompt::{Conversation, OutputParser, PromptError, Prompter, TemplateError};
use crate::scheduler::{Job, QueueProgress, Stops, channel};

use super::body::Arrival;
use super::decoding::{Decoding, Form};
use super::error::ApiError;
use super::generation::{Generation, Record, Underway};
use super::guidance::{Outline, guide, outline};
use super::models::ready;
use super::shorten;
use super::state::AppState;

/// What a client wants answers to.
#[derive(Debug)]
pub(super) enum Input {
    /// Messages, laid out by the model's chat template.
    Conversation(Conversation),
    /// Text as it is.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<Token>),
}

/// A request for one or more answers to each of its inputs.
#[derive(Debug)]
pub(super) struct Order {
    /// Not empty.
    pub(super) inputs: Vec<Input>,
    pub(super) decoding: Decoding,
    /// Whether the oldest turns of a conversation may be left out until the rest fits.
    pub(super) may_shorten: bool,
}

/// Answers under way. They are numbered through: all choices of the first input, then of the next.
pub(super) struct Started {
    pub(super) generation: Generation,
    pub(super) loaded: Arc<Loaded>,
    /// In the order of the inputs.
    pub(super) prompts: Vec<Prompt>,
}

/// An input as the model reads it.
#[derive(Debug)]
pub(super) struct Prompt {
    pub(super) tokens: Arc<[Token]>,
    /// Whether the answer begins in the middle of thoughts.
    opens_thoughts: bool,
    /// See [`crate::prompt::Prompt::tags`].
    tags: Arc<[SpecialToken]>,
    /// What takes an answer to it apart, at the beginning of the answer.
    parser: OutputParser,
}

impl Started {
    /// What takes an answer to input `input` apart.
    pub(super) fn parser(&self, input: usize) -> OutputParser {
        let prompt = self.prompts.get(input);
        prompt.map_or_else(
            || OutputParser::new(None, None),
            |prompt| prompt.parser.clone(),
        )
    }
}

/// Known and not built, hence not silently dropped.
pub(super) fn refuse_deadline(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key("x-deadline-ms") {
        let why = "is not supported by this version; leave the header out";
        return Err(ApiError::unsupported("x-deadline-ms", why));
    }
    Ok(())
}

/// Whoever would be refused in any case need not send a body first.
pub(super) fn refuse_if_all_do(state: &AppState) -> Result<(), ApiError> {
    let mut refusal = Ok(());
    for entry in state.pool.entries() {
        refusal = entry.gate.would_admit();
        if refusal.is_ok() {
            break;
        }
    }
    if let Err(refusal) = refusal {
        state.metrics.request_rejected("", refusal.reason.as_str());
    }
    Ok(refusal?)
}

/// Starts computing. What goes wrong is written down, too.
pub(super) async fn begin(
    state: &AppState,
    entry: &Entry,
    order: Order,
    arrival: Arrival,
    mut record: Record,
) -> Result<Started, ApiError> {
    match prepare(state, entry, order, arrival).await {
        Ok(prepared) => {
            let (sent, rest): (Vec<_>, Vec<_>) = prepared.jobs.into_iter().unzip();
            for job in sent {
                if prepared.loaded.submit(job).is_err() {
                    let error = ApiError::ModelUnavailable(entry.id.clone());
                    record.failed(&error);
                    return Err(error);
                }
            }
            Ok(Started {
                generation: Generation::new(rest, prepared.choices, prepared.presence, record),
                loaded: prepared.loaded,
                prompts: prepared.prompts,
            })
        }
        Err(error) => {
            record.failed(&error);
            Err(error)
        }
    }
}

/// Everything but the submission.
struct Prepared {
    jobs: Vec<(Job, Underway)>,
    choices: usize,
    presence: Presence,
    loaded: Arc<Loaded>,
    prompts: Vec<Prompt>,
}

async fn prepare(
    state: &AppState,
    entry: &Entry,
    order: Order,
    arrival: Arrival,
) -> Result<Prepared, ApiError> {
    let loaded = ready(entry)?;
    let choices = order.decoding.choices.count();
    let count = order.inputs.len() * choices as usize;
    if count > entry.gate.capacity() {
        return Err(ApiError::invalid(
            "n",
            format!(
                "these are {count} answers at once; this server takes at most {}: lower `n` or \
                 send fewer prompts",
                entry.gate.capacity()
            ),
        ));
    }
    let (places, presence) = entry.gate.admit_together(count)?;
    let arrived = arrival.at;
    let rendered = render(
        order,
        Arc::clone(&loaded),
        places,
        arrival,
        state.log_prompts,
    )
    .await?;
    let Rendered {
        decoding,
        prompts,
        rooms,
        prediction,
        guide,
        places,
    } = rendered;
    let info = loaded.tokenizer.info();
    decoding.sampling.check(info.vocabulary)?;
    let defaults = &info.sampling;
    let seed = random_seed();
    let mut places = places.into_iter();
    let mut jobs = Vec::with_capacity(count);
    for (prompt, max_tokens) in prompts.iter().zip(rooms) {
        for choice in 0..choices {
            let (sender, events) = channel(max_tokens, &state.send_budget);
            let progress = Arc::new(QueueProgress::default());
            let sampling = decoding.sampling.resolve(defaults, seed, choice);
            let job = Job {
                progress: Arc::clone(&progress),
                prompt: Arc::clone(&prompt.tokens),
                max_tokens,
                repeats: decoding.sampling.repeats(sampling.temperature),
                sampling,
                guide: guide.clone(),
                logprobs: decoding.logprobs,
                prompt_logprobs: decoding.prompt_logprobs,
                stops: Stops::new(decoding.stops.clone(), &prompt.parser),
                stop_tokens: decoding.stop_tokens.clone(),
                tags: Arc::clone(&prompt.tags),
                prediction: prediction.clone(),
                class: decoding.class.unwrap_or_default(),
                ignore_end: decoding.ignore_end,
                arrived,
                place: places.next(),
                span: Span::current(),
                events: sender,
            };
            jobs.push((job, Underway::new(events, progress)));
        }
    }
    Ok(Prepared {
        jobs,
        choices: choices as usize,
        presence,
        loaded,
        prompts,
    })
}

/// A request with its prompts.
struct Rendered {
    decoding: Decoding,
    prompts: Vec<Prompt>,
    /// Tokens that the answers to each prompt may have.
    rooms: Vec<u32>,
    prediction: Option<Vec<Token>>,
    guide: Option<Guide>,
    places: Vec<Place>,
}

/// Templates, tokenizers and grammars may take a while: off the runtime's threads, and grammars, for
/// which others may be waiting as well, off those that take blocking work.
async fn render(
    order: Order,
    loaded: Arc<Loaded>,
    places: Vec<Place>,
    arrival: Arrival,
    log_prompts: bool,
) -> Result<Rendered, ApiError> {
    let longest_piece = loaded.tokenizer.info().longest_piece.max(1);
    for input in &order.inputs {
        let least = input.least_tokens(longest_piece, order.may_shorten);
        if least >= loaded.context() {
            return Err(too_long(&format!("at least {least}"), loaded.context()));
        }
    }
    let predicted = order.decoding.prediction.as_ref().map_or(0, String::len);
    if predicted / longest_piece >= loaded.context() {
        return Err(prediction_too_long(loaded.context()));
    }
    let shared = Arc::clone(&loaded);
    let (caller, _here) = Caller::new(arrival.client);
    // It goes on when the client has left, and the places with it: whoever leaves and comes again
    // gets no more done.
    let rendering = async move {
        let blocking = in_span(move || {
            let _memory = arrival.memory;
            lay_out(order, &loaded, places, log_prompts)
        });
        let laid_out = tokio::task::spawn_blocking(blocking).await;
        let (mut rendered, outline) = laid_out.map_err(|_| ApiError::Internal)??;
        if let Some(outline) = outline {
            let form = &rendered.decoding.form;
            rendered.guide = Some(guide(outline, form, &shared.grammars, &caller).await?);
        }
        Ok(rendered)
    };
    let rendered = tokio::spawn(rendering.in_current_span());
    rendered.await.map_err(|_| ApiError::Internal)?
}

fn in_span<T>(work: impl FnOnce() -> T) -> impl FnOnce() -> T {
    let span = Span::current();
    move || span.in_scope(work)
}

/// All but the guide, which comes of the outline.
fn lay_out(
    order: Order,
    loaded: &Loaded,
    places: Vec<Place>,
    log_prompts: bool,
) -> Result<(Rendered, Option<Outline>), ApiError> {
    let Order {
        mut inputs,
        decoding,
        may_shorten,
    } = order;
    if log_prompts {
        tracing::info!(?inputs, "prompt");
    }
    if may_shorten {
        for input in &mut inputs {
            shorten(input, decoding.max_tokens, loaded)?;
        }
    }
    let prompts: Result<Vec<Prompt>, ApiError> = inputs
        .into_iter()
        .map(|input| prompt(input, &decoding.form, loaded))
        .collect();
    let text = decoding.prediction.as_ref();
    let prediction = text.map(|text| loaded.tokenizer.encode(text));
    let length = prediction.as_ref().map_or(0, Vec::len);
    if length >= loaded.context() {
        return Err(prediction_too_long(loaded.context()));
    }
    let prompts = prompts?;
    // Before its grammar, which is dearer: tools stand in the prompt as well.
    let room =
        |prompt: &Prompt| answer_room(decoding.max_tokens, prompt.tokens.len(), loaded.context());
    let rooms = prompts.iter().map(room).collect::<Result<_, _>>()?;
    let opened = prompts.iter().any(|prompt| prompt.opens_thoughts);
    let outline = outline(&decoding.form, opened, loaded)?;
    let rendered = Rendered {
        prompts,
        rooms,
        prediction,
        guide: None,
        decoding,
        places,
    };
    Ok((rendered, outline))
}

impl Input {
    /// Tokens that it has at least, when one token stands for `longest_piece` bytes at most and
    /// every message has a border; `may_shorten` says that messages may be left out.
    fn least_tokens(&self, longest_piece: usize, may_shorten: bool) -> usize {
        match self {
            Self::Conversation(conversation) => {
                let messages = &conversation.messages;
                let least = if may_shorten {
                    shorten::least_tokens_kept(messages, longest_piece)
                } else {
                    shorten::least_tokens(messages, longest_piece)
                };
                least
                    + shorten::least_tool_tokens(&conversation.tools, longest_piece)
                    + shorten::least_kwargs_tokens(&conversation.template_kwargs, longest_piece)
            }
            Self::Text(text) => text.len() / longest_piece,
            Self::Tokens(tokens) => tokens.len(),
        }
    }
}

/// Leaves the oldest turns of a conversation out, as far as that is needed for an answer of
/// `wanted` tokens.
fn shorten(input: &mut Input, wanted: Option<u32>, loaded: &Loaded) -> Result<(), ApiError> {
    let Input::Conversation(conversation) = input else {
        return Ok(());
    };
    let room = shorten::room(loaded.context(), wanted);
    let longest_piece = loaded.tokenizer.info().longest_piece.max(1);
    let prompter = loaded.prompter.as_ref().map_err(ApiError::from)?;
    let length = |conversation: &Conversation| {
        let prompt = prompter.tokens(conversation, &*loaded.tokenizer);
        prompt.map(|prompt| prompt.tokens.len())
    };
    shorten::shorten(conversation, room, longest_piece, length)
        .map_err(|error| ApiError::from(&error))
}

fn prompt(input: Input, form: &Form, loaded: &Loaded) -> Result<Prompt, ApiError> {
    let tokenizer = &*loaded.tokenizer;
    let (tokens, opens_thoughts, tags, parser) = match input {
        Input::Conversation(conversation) => {
            let prompter = loaded.prompter.as_ref().map_err(ApiError::from)?;
            if conversation.effort.is_some_and(|effort| !effort.is_none())
                && !prompter.knows_efforts()
            {
                let why = "is not known to this model's chat template; leave it out";
                return Err(ApiError::unsupported("reasoning_effort", why));
            }
            let prompt = prompter
                .tokens(&conversation, tokenizer)
                .map_err(|error| not_laid_out(&error, &conversation))?;
            let calls = !conversation.tools.is_empty();
            let parser = parser(prompter, calls, prompt.opens_thoughts, form).hiding(&prompt.tags);
            (prompt.tokens, prompt.opens_thoughts, prompt.tags, parser)
        }
        Input::Text(text) => {
            let mut tokens: Vec<Token> = tokenizer.bos().into_iter().collect();
            tokens.extend(tokenizer.encode(&text));
            if tokens.is_empty() {
                // OpenAI's default prompt: a new text.
                tokens.extend(tokenizer.text_border());
            }
            (tokens, false, Vec::new(), OutputParser::new(None, None))
        }
        Input::Tokens(tokens) => {
            let vocabulary = tokenizer.info().vocabulary;
            let unknown =
                |token: &&Token| usize::try_from(token.0).is_ok_and(|id| id >= vocabulary);
            if let Some(token) = tokens.iter().find(unknown) {
                let message = format!("`prompt`: the model has no token {}", token.0);
                return Err(ApiError::invalid("prompt", message));
            }
            (tokens, false, Vec::new(), OutputParser::new(None, None))
        }
    };
    if tokens.is_empty() {
        let message = "the prompt is empty: write something";
        return Err(ApiError::invalid("prompt", message));
    }
    Ok(Prompt {
        tokens: tokens.into(),
        opens_thoughts,
        tags: tags.into(),
        parser,
    })
}

/// What takes apart an answer of this form; `calls` says whether calls are looked for, `opens_thoughts`
/// whether the prompt ends in the middle of thoughts.
fn parser(prompter: &Prompter, calls: bool, opens_thoughts: bool, form: &Form) -> OutputParser {
    // A grammar that holds from the first token on leaves no room for thoughts.
    let thinks = match form {
        Form::Free | Form::FreeWithCalls(_) => opens_thoughts,
        Form::Json(_) | Form::Calls { .. } => false,
    };
    let parser = OutputParser::new(
        prompter.thoughts().map(|tags| (tags, thinks)),
        calls.then(|| prompter.tool_format()),
    );
    match form {
        Form::Calls {
            otherwise: None, ..
        } => parser.only_calls(),
        _ => parser,
    }
}

/// A template that fails over variables of the client's own is none of the model's faults.
fn not_laid_out(error: &PromptError, conversation: &Conversation) -> ApiError {
    const PARAM: &str = "chat_template_kwargs";
    match error {
        PromptError::Template(TemplateError::Broken(reason) | TemplateError::Failed(reason))
            if !conversation.template_kwargs.is_empty() =>
        {
            let message = format!("the model's chat template fails with this `{PARAM}`: {reason}");
            ApiError::invalid(PARAM, message)
        }
        error => ApiError::from(error),
    }
}

fn prediction_too_long(context: usize) -> ApiError {
    ApiError::invalid(
        "prediction.content",
        format!(
            "`prediction.content` is longer than the model's context of {context} tokens, \
             hence than any answer: shorten it"
        ),
    )
}

fn too_long(prompt: &str, context: usize) -> ApiError {
    // Clients know this failure by OpenAI's words.
    ApiError::ContextLength(format!(
        "This model's maximum context length is {context} tokens. However, your messages resulted \
         in {prompt} tokens, and at least one must be left for the answer. Please reduce the \
         length of the messages."
    ))
}

/// How many tokens the answer may have: what was asked for, as far as the context allows.
fn answer_room(wanted: Option<u32>, prompt: usize, context: usize) -> Result<u32, ApiError> {
    if prompt >= context {
        return Err(too_long(&prompt.to_string(), context));
    }
    let room = u32::try_from(context - prompt).unwrap_or(u32::MAX);
    Ok(wanted.map_or(room, |wanted| wanted.min(room)))
}

fn random_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
