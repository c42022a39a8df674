//! Chat templates, rendered as Hugging Face transformers renders them.
//!
//! transformers uses Jinja's immutable sandbox with `trim_blocks`, `lstrip_blocks`, loop controls, a
//! `generation` tag, `raise_exception`, `strftime_now` and its own `tojson`
//! (`utils/chat_template_utils.py`); a trailing newline of the template is dropped, Jinja's default.
//! A template comes from a model file, so it is given fuel, a recursion limit, and a thread of its own
//! with a budget of memory and stack (see [`super::bounds`]).

use std::borrow::Cow;
use std::error::Error as _;
use std::sync::{Arc, OnceLock};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, context};
use serde_json::Value as Json;

use super::conversation::{Conversation, Message, PromptEnd, ReasoningEffort};
use super::probe::{self, TemplateTraits, TemplateView};
use super::{bounds, clock, json, python};

/// Instructions a rendering may take: a turn needs about 70, and this many pass in half a second.
const FUEL: u64 = 5_000_000;
/// Nesting that a rendering may reach; real templates stay below ten.
const RECURSION: usize = 100;
/// Shows where the last text ends in a prompt, as transformers does it for `continue_final_message`. The
/// space tells whether the template trims.
const END_OF_TEXT: &str = "END_OF_THE_LAST_TEXT ";
/// The template's name in error messages.
const NAME: &str = "chat template";

/// A model's chat template, ready to render.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    /// Why the template is not rendered any more: it exceeded its bounds, and the memory it held is lost.
    given_up: OnceLock<String>,
    /// The same for rendering with a client's own variables, which must not end chat for all others.
    given_up_with_kwargs: OnceLock<String>,
    bos_text: String,
    eos_text: String,
    traits: TemplateTraits,
    /// Whether it lays ordinary questions out, so that what fails later is due to the conversation.
    works: bool,
}

/// Why a conversation could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template itself turned the conversation down; the client can mend it.
    #[error("the model's chat template refuses this conversation: {0}")]
    Refused(String),
    /// The template works, but not with this conversation; the client can mend it.
    #[error("the model's chat template fails with these messages: {0}")]
    Failed(String),
    /// The template fails, runs without end or uses what we do not know; the client cannot help it.
    #[error("the model's chat template does not work: {0}")]
    Broken(String),
}

/// The error that `raise_exception` raises in the template engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// Compiles `source`, a GGUF's `tokenizer.chat_template`. The texts are what the template reads as
    /// `bos_token` and `eos_token`; empty where the model has none.
    ///
    /// # Errors
    /// [`TemplateError::Broken`] when the source is not a template, or one that takes too much.
    pub fn compile(source: &str, bos_text: &str, eos_text: &str) -> Result<Self, TemplateError> {
        warm_up()?;
        let text = source.to_owned();
        let environment = bounds::compiling(source)
            .and_then(|budget| budget.run(move || environment(&text)))
            .map_err(|overrun| TemplateError::Broken(overrun.to_string()))??;

        let mut template = Self {
            environment: Arc::new(environment),
            given_up: OnceLock::new(),
            given_up_with_kwargs: OnceLock::new(),
            bos_text: bos_text.into(),
            eos_text: eos_text.into(),
            traits: TemplateTraits::default(),
            works: false,
        };
        let render = |conversation: &Conversation, view: &TemplateView| {
            template.render_with(conversation, view).ok()
        };
        let traits = TemplateTraits::of(&render);
        let works = probe::lays_questions_out(&render, &traits.view);
        (template.traits, template.works) = (traits, works);
        match template.given_up.get() {
            Some(reason) => Err(TemplateError::Broken(reason.clone())),
            None => Ok(template),
        }
    }

    /// Renders the prompt as text, up to where [`Conversation::end`] says.
    ///
    /// # Errors
    /// [`TemplateError::Refused`] when the template raises, [`TemplateError::Failed`] when it fails with this
    /// conversation, [`TemplateError::Broken`] when it fails with any.
    pub fn render(&self, conversation: &Conversation) -> Result<String, TemplateError> {
        let traits = &self.traits;
        let parallel = |message: &Message| message.tool_calls.len() > 1;
        let mut conversation = traits.turns.fit(conversation);
        if conversation.messages.iter().any(has_text_with_calls) {
            conversation = Cow::Owned(traits.text_with_calls.lay_out(&conversation).into_owned());
        }
        if traits.one_call_a_message && conversation.messages.iter().any(parallel) {
            conversation = Cow::Owned(conversation.with_calls_in_turn());
        }
        if conversation.end != PromptEnd::LastText {
            return self.render_with(&conversation, &traits.view);
        }
        let lost = || {
            let reason = "it does not show the end of the last message, so that the answer cannot \
                          go on with it";
            TemplateError::Failed(reason.to_owned())
        };
        let marked = with_end_of_text(&conversation).ok_or_else(lost)?;
        let prompt = self.render_with(&marked, &traits.view)?;
        up_to_end_of_text(prompt).ok_or_else(lost)
    }

    /// Whether it takes the arguments of a call apart, so that they must be a JSON object.
    pub(super) fn needs_object_arguments(&self) -> bool {
        self.traits.needs_object_arguments
    }

    fn render_with(
        &self,
        conversation: &Conversation,
        view: &TemplateView,
    ) -> Result<String, TemplateError> {
        let kwargs = &conversation.template_kwargs;
        let gives_up = if kwargs.is_empty() {
            &self.given_up
        } else {
            &self.given_up_with_kwargs
        };
        let reason = self.given_up.get().or_else(|| gives_up.get());
        if let Some(reason) = reason {
            return Err(TemplateError::Broken(reason.clone()));
        }
        let messages: Vec<Json> = conversation
            .messages
            .iter()
            .map(|message| probe::message(message, view))
            .collect();
        let others = conversation.tools.iter().chain(kwargs.values());
        let budget = bounds::rendering(messages.iter().chain(others));
        // transformers passes None, and templates test for that.
        let tools = match conversation.tools.as_slice() {
            [] => Value::from(()),
            tools => Value::from(Serde(tools)),
        };
        let values = context! {
            messages => Value::from(Serde(&messages)),
            tools => tools,
            add_generation_prompt => conversation.end == PromptEnd::OpenAnswer,
            bos_token => &self.bos_text,
            eos_token => &self.eos_text,
            // What comes first has precedence.
            ..context! { ..Value::from(Serde(kwargs)), ..thinking(conversation.effort) }
        };
        let environment = Arc::clone(&self.environment);
        let works = self.works;
        let rendered = budget.run(move || {
            environment
                .get_template(NAME)
                .and_then(|template| template.render(values))
                .map_err(|error| match explain(&error) {
                    TemplateError::Broken(reason) if works && !is_unknown_name(&error) => {
                        TemplateError::Failed(reason)
                    }
                    other => other,
                })
        });
        rendered.unwrap_or_else(|overrun| {
            let reason = overrun.to_string();
            if overrun.is_a_loss() {
                // Whoever was first says why.
                let _ = gives_up.set(reason.clone());
            }
            Err(TemplateError::Broken(reason))
        })
    }
}

/// The engine with a template in it, set up as transformers sets Jinja up.
pub(super) fn environment(source: &str) -> Result<Environment<'static>, TemplateError> {
    let mut environment = Environment::new();
    environment.set_debug(false);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(python::method);
    python::add_to(&mut environment);
    environment.add_filter("tojson", json::tojson);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_function("strftime_now", |format: &str| clock::strftime_now(format));
    environment.add_function("raise_exception", raise_exception);
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .map_err(|error| explain(&error))?;
    environment.set_syntax(syntax);
    environment
        .add_template_owned(NAME, without_generation_tags(source))
        .map_err(|error| explain(&error))?;
    Ok(environment)
}

/// Lets the engine make what it keeps for the whole process. A thread that stopped in the middle of that
/// would hold all others up.
fn warm_up() -> Result<(), TemplateError> {
    let environment = environment("{{ 1 }}{{ 'a' }}{{ [1, 'a', none] }}{{ {} | tojson }}")?;
    let template = environment.get_template(NAME);
    template
        .and_then(|template| template.render(()))
        .map(drop)
        .map_err(|error| explain(&error))
}

/// Two names for how much to think: `OpenAI`'s, and the switch of Qwen3 and others. Left out where the
/// request says nothing, so that the template's own default holds.
fn thinking(effort: Option<ReasoningEffort>) -> Value {
    match effort {
        None => context! {},
        Some(effort) => context! {
            reasoning_effort => effort.as_str(),
            enable_thinking => effort != ReasoningEffort::None,
        },
    }
}

/// As in Jinja, where `none` cannot be iterated: `tools is iterable` is how Qwen3-Coder's template asks.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// As in Jinja: whatever has a length and items, strings and maps too.
fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Map, Seq, String};
    matches!(value.kind(), Map | Seq | String)
}

/// Returns the conversation with [`END_OF_TEXT`] after its last text; `None` where there is no text.
fn with_end_of_text(conversation: &Conversation) -> Option<Conversation> {
    let mut marked = conversation.clone();
    let text = marked.messages.last_mut()?.content.as_mut()?;
    text.push_str(END_OF_TEXT);
    Some(marked)
}

/// Returns a prompt up to the end of the last text; `None` where the prompt does not show that end.
fn up_to_end_of_text(mut prompt: String) -> Option<String> {
    let at = prompt.rfind(END_OF_TEXT.trim_end())?;
    let is_trimmed = !prompt[at..].starts_with(END_OF_TEXT);
    prompt.truncate(at);
    if is_trimmed {
        prompt.truncate(prompt.trim_end().len());
    }
    Some(prompt)
}

/// Whether a message has text and calls.
fn has_text_with_calls(message: &Message) -> bool {
    let says = message
        .content
        .as_ref()
        .is_some_and(|text| !text.is_empty());
    says && !message.tool_calls.is_empty()
}

fn raise_exception(message: String) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, "raise_exception");
    Err(error.with_source(Raised(message)))
}

/// Distinguishes a template's own refusal from its failure, and keeps the causes of a failure.
fn explain(error: &Error) -> TemplateError {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(Raised(reason)) = inner.downcast_ref() {
            return TemplateError::Refused(reason.clone());
        }
        message = format!("{message}: {inner}");
        cause = inner.source();
    }
    TemplateError::Broken(message)
}

/// Whether the template names something that the engine does not have, which no conversation changes.
fn is_unknown_name(error: &Error) -> bool {
    use ErrorKind::{UnknownFilter, UnknownFunction, UnknownTest};
    let mut next = Some(error);
    while let Some(error) = next {
        if matches!(error.kind(), UnknownFilter | UnknownFunction | UnknownTest) {
            return true;
        }
        next = error
            .source()
            .and_then(<dyn std::error::Error>::downcast_ref);
    }
    false
}

/// `{% generation %}…{% endgeneration %}` marks what a trainer learns from and prints its body unchanged;
/// an `if` that is always true does the same, white space control included.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let body = rest[at + 2..].trim_start_matches(['-', '+']).trim_start();
        let (head, tail) = rest.split_at(rest.len() - body.len());
        out.push_str(head);
        rest = tail;
        for (tag, stand_in) in [("generation", "if true"), ("endgeneration", "endif")] {
            if let Some(after) = tail.strip_prefix(tag)
                && after.trim_start().trim_start_matches('-').starts_with("%}")
            {
                out.push_str(stand_in);
                rest = after;
            }
        }
    }
    out + rest
}
