//! `edgellm try-model`: what the server starts to try a model file in.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::engine::{self, Tokenizer, TrialOutcome};
use crate::prompt::{Conversation, Message, Prompter, Role};

#[derive(Debug, Args)]
pub(super) struct TryModel {
    /// The GGUF file
    path: PathBuf,
    /// Seconds that it may take
    seconds: u64,
}

/// Whoever started it reads the verdict; the exit code says whether there is one.
pub(super) fn run(arguments: &TryModel) -> ExitCode {
    engine::route_logs();
    let time = Duration::from_secs(arguments.seconds);
    match engine::try_model(&arguments.path, time, render) {
        Ok(TrialOutcome::Passed | TrialOutcome::Refused) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Lays out one question. A template that fails is no reason to refuse a model; one that ends the process is.
fn render(tokenizer: &Tokenizer) {
    let info = tokenizer.info();
    let prompter = Prompter::new(
        info.chat_template.as_deref(),
        &info.bos_text,
        &info.eos_text,
    );
    if let Ok(prompter) = prompter {
        let question = Conversation {
            messages: vec![Message::text(Role::User, "How much is the milk?")],
            ..Conversation::default()
        };
        let _ = prompter.tokens(&question, tokenizer);
    }
}
