//! `edgellm config`: a file to start from, the table of all settings, and limits for systemd.

mod limits;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{Serve, wrong_config};
use crate::config;
use crate::replace_file::replace_file;
use limits::LimitsError;

/// Of a new file: the service reads it, and it holds no secrets.
const READABLE_BY_ALL: u32 = 0o644;

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Print a configuration file with every setting explained
    ///
    /// What the given files, the environment and flags set is set in it, with absolute paths; everything else is a
    /// comment with the default.
    Template(Template),
    /// Print the table of all settings in Markdown
    Reference,
    /// Print limits of memory and threads that suit this configuration, for the systemd unit
    ///
    /// They go into /etc/systemd/system/edgellm.service.d/limits.conf (`systemctl edit edgellm`). Of models nothing but the
    /// headers of their files is read.
    Systemd(Serve),
}

#[derive(Debug, Args)]
pub(super) struct Template {
    #[command(flatten)]
    settings: Serve,
    /// Write the file instead of printing it; it may be one of those that are read
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(command: Config) -> ExitCode {
    let (text, output) = match command {
        Config::Template(arguments) => match config::template(&arguments.settings.sources()) {
            Ok(text) => (text, arguments.output),
            Err(error) => return wrong_config(&error),
        },
        Config::Reference => (config::reference(), None),
        Config::Systemd(settings) => match limits::of(settings) {
            Ok(text) => (text, None),
            Err(LimitsError::Config(error)) => return wrong_config(&error),
            Err(error) => return no_limits(&error),
        },
    };
    match write(&text, output.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(output.as_deref(), &error),
    }
}

fn write(text: &str, output: Option<&Path>) -> io::Result<()> {
    match output {
        Some(file) => replace_file(file, text, READABLE_BY_ALL),
        None => io::stdout().write_all(text.as_bytes()),
    }
}

#[allow(clippy::print_stderr)] // whoever called it has to know why
fn no_limits(error: &LimitsError) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}

#[allow(clippy::print_stderr)] // whoever called it has to know why
fn failed(output: Option<&Path>, error: &io::Error) -> ExitCode {
    match output {
        Some(file) => eprintln!("cannot write {}: {error}", file.display()),
        None => eprintln!("cannot write to standard output: {error}"),
    }
    ExitCode::FAILURE
}
