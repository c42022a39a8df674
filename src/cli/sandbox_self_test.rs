//! `edgellm sandbox-self-test`: whether the sandbox holds here.

use std::process::ExitCode;

use clap::Args;

use super::{Files, wrong_config};
use crate::grammar;
use crate::sandbox::{NEWEST_ABI, SelfTest, self_test};

#[derive(Debug, Args)]
pub(super) struct SandboxSelfTest {
    #[command(flatten)]
    files: Files,
    /// No newer version of Landlock's interface than this
    #[arg(long, value_name = "N", default_value_t = NEWEST_ABI)]
    abi: u32,
}

/// A line for each attempt; the exit code is 0 if each ended as it must.
#[allow(clippy::print_stdout)] // this is what the command is for
pub(super) fn run(arguments: &SandboxSelfTest) -> ExitCode {
    let settings = match arguments.files.load() {
        Ok(settings) => settings,
        Err(error) => return wrong_config(&error),
    };
    let report = self_test(&SelfTest {
        settings,
        config_files: arguments.files.files.clone(),
        newest_abi: arguments.abi,
        helper: grammar::COMPILE_COMMAND,
    });
    for line in &report.lines {
        println!("{line}");
    }
    if report.is_as_expected {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
