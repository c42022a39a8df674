//! `edgellm models estimate`: how much memory a model will take, before anything of it is loaded.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use indicatif::{HumanBytes, HumanCount};
use serde::Serialize;

use crate::config::{self, ConfigError, SettingOverride, Settings, Sources};
use crate::engine::{LoadError, cpu, read_header};
use crate::pool::{self, ModelSpec, memory_budget};

#[derive(Debug, Args)]
pub(in crate::cli) struct Estimate {
    /// GGUF file; only its header is read
    file: PathBuf,
    /// Tokens of context; may be given several times [default: that of `serve`]
    #[arg(long = "context", value_name = "N")]
    contexts: Vec<String>,
    /// Requests decoded together [default: that of `serve`]
    #[arg(long, value_name = "N")]
    max_running: Option<String>,
    /// Bytes of memory of the box [default: what this machine has]
    #[arg(long, value_name = "BYTES")]
    memory: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a model takes when all of its context is in use, for several sizes of context.
#[derive(Debug, Serialize)]
struct Report {
    architecture: String,
    quantization: &'static str,
    parameters: u64,
    file_bytes: u64,
    estimates: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    context: u32,
    weights_bytes: u64,
    kv_cache_bytes: u64,
    compute_bytes: u64,
    total_bytes: u64,
    /// What the box has for all models together, where that is known.
    memory_bytes: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
enum EstimateError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    File(#[from] LoadError),
    #[error(transparent)]
    Model(#[from] pool::EstimateError),
    #[error("the name of {0:?} is not Unicode: rename it")]
    Name(std::path::PathBuf),
    #[error("cannot write to standard output: {0}")]
    Output(#[from] std::io::Error),
}

/// Exit code 2 when a flag has a value that the configuration would refuse.
#[allow(clippy::print_stderr)] // this is what the command is for
pub(super) fn run(arguments: &Estimate) -> ExitCode {
    match report(arguments).and_then(|report| print(&report, arguments.json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(EstimateError::Config(error)) => super::super::wrong_config(&error),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn report(arguments: &Estimate) -> Result<Report, EstimateError> {
    let header = read_header(&arguments.file)?;
    let estimates = if arguments.contexts.is_empty() {
        vec![line(arguments, None)?]
    } else {
        let contexts = arguments.contexts.iter();
        contexts
            .map(|context| line(arguments, Some(context)))
            .collect::<Result<_, _>>()?
    };
    Ok(Report {
        architecture: header.architecture.clone(),
        quantization: header.quantization(),
        parameters: header.parameters(),
        file_bytes: header.file_bytes,
        estimates,
    })
}

fn line(arguments: &Estimate, context: Option<&String>) -> Result<Line, EstimateError> {
    let settings = settings(arguments, context)?;
    let memory = memory_budget(&settings);
    let no_model = || pool::EstimateError::NoModel(arguments.file.clone());
    let model = settings.models.first().ok_or_else(no_model)?;
    let spec = ModelSpec::new(model, &settings, cpu::usable_cores(), memory);
    let estimate = spec.estimated_memory()?;
    Ok(Line {
        context: spec.context,
        weights_bytes: estimate.weights,
        kv_cache_bytes: estimate.kv_cache,
        compute_bytes: estimate.compute,
        total_bytes: estimate.total(),
        memory_bytes: memory,
    })
}

/// What `serve` would have with these flags and nothing else, so that the same numbers come out on every box.
fn settings(arguments: &Estimate, context: Option<&String>) -> Result<Settings, EstimateError> {
    let file = arguments.file.to_str().map(str::to_owned);
    let file = file.ok_or_else(|| EstimateError::Name(arguments.file.clone()))?;
    let values = [
        ("models[0].path", "FILE", Some(&file)),
        // The name of the file may be no id, and needs not be one here.
        ("models[0].id", "FILE", Some(&"model".to_owned())),
        ("models[0].context", "--context", context),
        (
            "models[0].max_running",
            "--max-running",
            arguments.max_running.as_ref(),
        ),
        ("pool.memory_budget", "--memory", arguments.memory.as_ref()),
    ];
    let overrides = values.into_iter().filter_map(|(key, flag, value)| {
        Some(SettingOverride {
            key: key.to_owned(),
            flag: flag.to_owned(),
            value: value?.clone(),
        })
    });
    Ok(config::load(&Sources {
        overrides: overrides.collect(),
        ..Sources::default()
    })?)
}

fn print(report: &Report, json: bool) -> Result<(), EstimateError> {
    let mut output = std::io::stdout().lock();
    if json {
        let text = serde_json::to_string_pretty(report).map_err(std::io::Error::from)?;
        writeln!(output, "{text}")?;
    } else {
        write!(output, "{}", table(report))?;
    }
    Ok(())
}

fn table(report: &Report) -> String {
    let title = format!(
        "{}, {}, {} weights, {}\n",
        report.architecture,
        report.quantization,
        HumanCount(report.parameters),
        HumanBytes(report.file_bytes),
    );
    let heads = ["context", "weights", "KV cache", "computing", "in all"];
    let lines = report.estimates.iter().map(|line| {
        let context = HumanCount(line.context.into()).to_string();
        let bytes = [
            line.weights_bytes,
            line.kv_cache_bytes,
            line.compute_bytes,
            line.total_bytes,
        ];
        let [weights, kv_cache, compute, total] = bytes.map(|bytes| HumanBytes(bytes).to_string());
        let row = row(&[context, weights, kv_cache, compute, total]);
        match line.memory_bytes {
            Some(memory) if line.total_bytes > memory => {
                format!(
                    "{}  does not fit into {}\n",
                    row.trim_end(),
                    HumanBytes(memory)
                )
            }
            _ => row,
        }
    });
    std::iter::once(title + &row(&heads)).chain(lines).collect()
}

fn row<T: std::fmt::Display>([context, weights, kv_cache, compute, total]: &[T; 5]) -> String {
    format!("{context:>10} {weights:>12} {kv_cache:>12} {compute:>12} {total:>12}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIOSK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");

    fn of(file: &str, contexts: &[&str], memory: &str) -> Estimate {
        Estimate {
            file: file.into(),
            contexts: contexts.iter().map(ToString::to_string).collect(),
            max_running: None,
            memory: Some(memory.to_owned()),
            json: false,
        }
    }

    #[test]
    fn more_context_takes_more_memory_and_the_same_weights() {
        let report = report(&of(KIOSK, &["4000", "16000"], "2000000000")).expect("a model");
        let [small, large] = &report.estimates[..] else {
            panic!("{report:?}");
        };
        assert_eq!((small.context, large.context), (4000, 16000));
        assert_eq!(small.weights_bytes, large.weights_bytes);
        assert!(small.kv_cache_bytes < large.kv_cache_bytes);
        assert!(small.total_bytes < large.total_bytes);
        assert!(
            table(&report).contains("\n    16,000 "),
            "{}",
            table(&report)
        );
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let fits = report(&of(KIOSK, &["4000"], "2000000000")).expect("a model");
        assert!(!table(&fits).contains("fit"));
        let too_large = report(&of(KIOSK, &["1000000"], "67108864")).expect("a model");
        assert!(table(&too_large).ends_with("  does not fit into 64.00 MiB\n"));
    }

    #[test]
    fn a_flag_that_the_configuration_would_refuse_is_named() {
        let error = report(&of(KIOSK, &["0"], "2000000000")).expect_err("no context");
        assert!(error.to_string().contains("--context"), "{error}");
        let error = report(&of(KIOSK, &[], "12")).expect_err("too little");
        assert!(error.to_string().contains("--memory"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_model_is_refused_by_its_name() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        let error = report(&of(file, &[], "2000000000")).expect_err("no model");
        assert!(error.to_string().contains("Cargo.toml"), "{error}");
    }
}
