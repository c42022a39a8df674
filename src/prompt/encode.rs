//! Encodes a conversation's prompt as tokens, in which text from clients never becomes a control token.
//!
//! The rendered prompt is read once: a special token's text without marks (see [`super::client_marks`]) is the
//! template's and becomes its token; the text between is encoded as plain text, cut so that not even a
//! user-defined token comes of a client's words.

use std::borrow::Cow;

use super::client_marks::ClientMarks;
use super::conversation::{Conversation, PromptEnd};
use super::markup::Markup;
use super::template::{ChatTemplate, TemplateError};
use super::thinking::ThoughtTags;
use super::tools::{LeftOut, ToolFormat};
use crate::engine::{SpecialKind, SpecialToken, Token, Vocabulary};

/// Makes prompts for one model.
#[derive(Debug)]
pub struct Prompter {
    template: Option<ChatTemplate>,
    thoughts: Option<ThoughtTags>,
    tool_format: ToolFormat,
    /// What the template leaves out of tools and calls, so that it is written into the messages.
    left_out: Option<LeftOut>,
    efforts: bool,
}

/// The prompt of one conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// The tokens, up to where [`Conversation::end`] says.
    pub tokens: Vec<Token>,
    /// Whether the answer begins in the middle of thoughts.
    pub opens_thoughts: bool,
    /// Control tokens by which the answer is parsed: their text belongs to it, though not to what the
    /// client reads.
    pub tags: Vec<SpecialToken>,
}

/// Why a conversation has no prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// The model cannot chat.
    #[error(
        "this model has no chat template: use an instruct or chat GGUF whose metadata has \
         tokenizer.chat_template"
    )]
    NoTemplate,
    /// The request holds all 66 Unicode noncharacters, so that none is left to mark its text with.
    #[error("the messages contain every Unicode noncharacter (U+FDD0 and so on): leave one out")]
    NoMark,
    /// The template takes the arguments of calls apart, and those of one are no JSON object.
    #[error("the model's chat template needs a JSON object as the arguments of the call `{id}`")]
    NoObject {
        /// Where the message stands.
        message: usize,
        /// Where the call stands in it.
        call: usize,
        /// The call's id.
        id: String,
    },
    /// The template refuses or fails.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl Prompter {
    /// Makes a prompter for a model with this chat template, if it has one. The texts are those of the
    /// model's bos and eos tokens, empty where it lacks them.
    ///
    /// # Errors
    /// [`TemplateError::Broken`] when the template cannot be compiled.
    pub fn new(
        template: Option<&str>,
        bos_text: &str,
        eos_text: &str,
    ) -> Result<Self, TemplateError> {
        let source = template.unwrap_or_default();
        let template = template
            .map(|source| ChatTemplate::compile(source, bos_text, eos_text))
            .transpose()?;
        let tool_format = ToolFormat::of(source);
        // Other formats are known by a template that has a place for tools.
        let is_default = tool_format == ToolFormat::Hermes;
        let left_out = template
            .as_ref()
            .filter(|_| is_default)
            .and_then(LeftOut::by);
        Ok(Self {
            template,
            thoughts: ThoughtTags::of(source),
            tool_format,
            left_out,
            efforts: ["reasoning_effort", "enable_thinking"]
                .iter()
                .any(|name| source.contains(name)),
        })
    }

    /// Returns how the model marks its thoughts, if it thinks.
    #[must_use]
    pub fn thoughts(&self) -> Option<ThoughtTags> {
        self.thoughts
    }

    /// Returns how the model writes tool calls.
    #[must_use]
    pub fn tool_format(&self) -> ToolFormat {
        self.tool_format
    }

    /// Whether the template has a variable for how much the model should think.
    #[must_use]
    pub fn knows_efforts(&self) -> bool {
        self.efforts
    }

    /// Returns the prompt of a conversation.
    ///
    /// # Errors
    /// [`PromptError::NoTemplate`] when the model has no template, and the errors of the template.
    pub fn tokens(
        &self,
        conversation: &Conversation,
        vocab: &dyn Vocabulary,
    ) -> Result<Prompt, PromptError> {
        let template = self.template.as_ref().ok_or(PromptError::NoTemplate)?;
        self.check_arguments(template, conversation)?;
        let has_tools = !conversation.tools.is_empty();
        let conversation = &match self.tool_format {
            ToolFormat::Mistral | ToolFormat::MistralNamed => {
                Cow::Owned(conversation.with_short_ids())
            }
            ToolFormat::Hermes | ToolFormat::Llama => Cow::Borrowed(conversation),
        };
        let markup = Markup::new(vocab.specials());
        let mut marks = ClientMarks::new(&markup, conversation).ok_or(PromptError::NoMark)?;
        // Only after marking: what is a client's stays marked, and the words around it are the server's.
        let marked = marks.mark(conversation);
        let marked = match self.left_out {
            Some(left_out) => left_out.written_out(&marked),
            None => Cow::Borrowed(&marked),
        };
        let text = template.render(&marked).map_err(|error| match error {
            TemplateError::Refused(reason) => TemplateError::Refused(marks.unmark(&reason)),
            TemplateError::Failed(reason) => TemplateError::Failed(marks.unmark(&reason)),
            TemplateError::Broken(reason) => TemplateError::Broken(marks.unmark(&reason)),
        })?;

        let mut tokens = Vec::new();
        let mut plain = 0;
        let mut at = 0;
        while let Some(char) = text[at..].chars().next() {
            let Some(special) = markup.at_start(&text[at..]) else {
                at += char.len_utf8();
                continue;
            };
            encode_plain(&marks.unmark(&text[plain..at]), &markup, vocab, &mut tokens);
            tokens.push(special.token);
            at += special.text.len();
            plain = at;
        }
        encode_plain(&marks.unmark(&text[plain..]), &markup, vocab, &mut tokens);

        if let Some(bos) = vocab.bos()
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        Ok(Prompt {
            tokens,
            opens_thoughts: self.thoughts.is_some_and(|tags| match conversation.end {
                PromptEnd::OpenAnswer | PromptEnd::LastMessage => tags.opened_by(&text),
                PromptEnd::LastText => tags.left_open_by(last_text(conversation)),
            }),
            tags: self.tags(has_tools, vocab),
        })
    }

    /// Arguments that are no JSON object come from a model that was cut off or wrote nonsense. A template
    /// that takes them apart would fail or leave them out.
    fn check_arguments(
        &self,
        template: &ChatTemplate,
        conversation: &Conversation,
    ) -> Result<(), PromptError> {
        let writes_calls = self.left_out.is_some_and(LeftOut::writes_calls);
        if writes_calls || !template.needs_object_arguments() {
            return Ok(());
        }
        let Some((message, call)) = conversation.call_with_text() else {
            return Ok(());
        };
        let id = conversation.messages[message].tool_calls[call].id.clone();
        Err(PromptError::NoObject { message, call, id })
    }

    /// The control tokens among the tags of thoughts, and of calls where some are expected. Others of
    /// the vocabulary stay without a text, also those of other models' formats.
    fn tags(&self, calls: bool, vocab: &dyn Vocabulary) -> Vec<SpecialToken> {
        let thoughts = self.thoughts.into_iter().flat_map(ThoughtTags::both);
        let calls = calls.then(|| self.tool_format.tags());
        let texts: Vec<&str> = thoughts
            .chain(calls.into_iter().flatten().copied())
            .collect();
        let specials = vocab.specials().iter();
        specials
            .filter(|special| special.kind == SpecialKind::Control)
            .filter(|special| texts.contains(&special.text.as_str()))
            .cloned()
            .collect()
    }
}

fn last_text(conversation: &Conversation) -> &str {
    let last = conversation.messages.last();
    last.and_then(|last| last.content.as_deref())
        .unwrap_or_default()
}

fn encode_plain(text: &str, markup: &Markup, vocab: &dyn Vocabulary, tokens: &mut Vec<Token>) {
    tokens.extend(vocab.encode_all(&markup.pieces(text)));
}
