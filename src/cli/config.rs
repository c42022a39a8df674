//! `edgellm config`: a file to start from, and the table of all settings.

use std::process::ExitCode;

use clap::Subcommand;

use super::{Serve, wrong_config};
use crate::config;

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Print a configuration file with every setting explained
    ///
    /// What the given files, the environment and flags set is set in it; everything else is a comment with the default.
    Template(Serve),
    /// Print the table of all settings in Markdown
    Reference,
}

#[allow(clippy::print_stdout)] // this is what the command is for
pub(super) fn run(command: Config) -> ExitCode {
    let text = match command {
        Config::Template(arguments) => match config::template(&arguments.sources()) {
            Ok(text) => text,
            Err(error) => return wrong_config(&error),
        },
        Config::Reference => config::reference(),
    };
    print!("{text}");
    ExitCode::SUCCESS
}
