//! `edgellm models`: what can be done with model files.

mod estimate;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;
use clap::{Args, Subcommand};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::engine::quantize::{FileType, Quantization, QuantizeProgress, QuantizeReport, quantize};

#[derive(Debug, Subcommand)]
pub(super) enum Models {
    /// Make a model with smaller weights out of one with larger ones
    Quantize(Quantize),
    /// Say how much memory a model will take, from the header of its file
    Estimate(estimate::Estimate),
}

#[derive(Debug, Args)]
pub(super) struct Quantize {
    /// GGUF file with F32, F16 or BF16 weights
    input: PathBuf,
    /// The GGUF file to make
    output: PathBuf,
    #[arg(
        long = "type",
        value_name = "TYPE",
        value_parser = file_type(),
        ignore_case = true,
        help = "What the weights are to become; Q4_0 is the fastest on most CPUs, Q4_K_M loses less"
    )]
    file_type: FileType,
    /// Threads that compute [default: one for each physical core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Replace the output if it exists
    #[arg(long)]
    force: bool,
    /// Quantize weights that are quantized already, although each time costs quality
    #[arg(long)]
    allow_requantize: bool,
}

fn file_type() -> impl TypedValueParser<Value = FileType> {
    PossibleValuesParser::new(FileType::ALL.map(FileType::name)).try_map(|name| {
        FileType::by_name(&name).ok_or_else(|| format!("{name} is no type of weights"))
    })
}

pub(super) fn run(command: Models) -> ExitCode {
    match command {
        Models::Quantize(arguments) => run_quantize(arguments),
        Models::Estimate(arguments) => estimate::run(&arguments),
    }
}

/// Exit code 1 when there is no output.
#[allow(clippy::print_stdout, clippy::print_stderr)] // this is what the command is for
fn run_quantize(arguments: Quantize) -> ExitCode {
    let job = Quantization {
        input: arguments.input,
        output: arguments.output,
        file_type: arguments.file_type,
        threads: arguments.threads,
        replace: arguments.force,
        requantize: arguments.allow_requantize,
    };
    // Drawn on a terminal only.
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} tensors, {elapsed}") {
        bar.set_style(style);
    }
    let made = quantize(&job, &|QuantizeProgress { tensors, total }| {
        bar.set_length(total);
        bar.set_position(tensors);
    });
    bar.finish_and_clear();
    match made {
        Ok(made) => {
            for warning in &made.warnings {
                eprintln!("{warning}");
            }
            println!("{}", summary(&job, &made));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn summary(job: &Quantization, made: &QuantizeReport) -> String {
    format!(
        "{}: {}, {} (from {})",
        job.output.display(),
        job.file_type.name(),
        HumanBytes(made.output_bytes),
        HumanBytes(made.input_bytes)
    )
}
