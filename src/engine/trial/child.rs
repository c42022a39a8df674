//! The child process: uses a model file once, within limits that it sets for itself.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use rlimit::Resource;

use super::super::LoadWatch;
use super::super::estimate::{MemoryEstimate, estimate_embedding, estimate_generation};
use super::super::gguf::GgufHeader;
use super::super::load::{assemble, open_vocabulary, refusal};
use super::super::memory::status_bytes;
use super::super::model_file::{ModelFile, WeightsMode};
use super::super::partition::Partition;
use super::super::{
    Attention, Embedder, EmbedderOptions, EmbedderShape, EngineOptions, LlamaEmbedder, LoadError,
    Purpose, Row, SeqId, Token, TokenizeOptions, Tokenizer, Weights, backend, logs,
};
use super::{FileIdentity, Verdict};

/// Besides what is estimated: what a program has, and what llama.cpp reserves without using it.
const EXTRA_MEMORY: u64 = 512 << 20;
/// Tokens that the context has room for.
const CELLS: u32 = 256;
/// Tokens that are computed together.
const ROWS: u32 = 48;
/// Tokens of the prompt that is computed; a large model takes some tenths of a second for each.
const PROMPT: usize = 4;
/// A text of words, signs, white space, other scripts, and what is no text.
const TEXT: &str = "Milk 1.50 €, isn't it?\n\n  ÄÖ 牛乳 \u{200d}🥛 <s></s><|im_start|> \u{0}\u{1}";

/// What became of a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrialOutcome {
    /// The file can be loaded.
    Passed,
    /// It cannot, and the parent was told why.
    Refused,
}

/// Tries a model, within so much time, and writes the verdict to standard output. `render` uses what stands in
/// the model besides weights: its template.
///
/// # Errors
/// When the system refuses a limit, or nobody reads the verdict.
pub fn try_model(
    path: &Path,
    time: Duration,
    render: impl FnOnce(&Tokenizer),
) -> io::Result<TrialOutcome> {
    end_with_parent();
    // Where memory runs out, the system should kill this process before the server.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    Resource::CORE.set(0, 0)?;
    Resource::FSIZE.set(0, 0)?;
    // The cores together may compute for longer than the parent waits.
    let seconds = time.as_secs() * u64::from(threads());
    let (_, hard) = Resource::CPU.get()?;
    Resource::CPU.set(seconds.min(hard), hard)?;
    logs::clear_last_error();
    let (verdict, outcome) = match use_once(path, render) {
        Ok(files) => (Verdict::Passed(files), TrialOutcome::Passed),
        Err(error) => (Verdict::Refused(error.to_string()), TrialOutcome::Refused),
    };
    let mut output = io::stdout().lock();
    output.write_all(&serde_json::to_vec(&verdict)?)?;
    output.flush()?;
    Ok(outcome)
}

/// Nobody waits for the verdict when the thread that started this process has ended.
fn end_with_parent() {
    #[cfg(target_os = "linux")]
    // SAFETY: sets a number of this process's in the kernel.
    let _ = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

fn use_once(path: &Path, render: impl FnOnce(&Tokenizer)) -> Result<Vec<FileIdentity>, LoadError> {
    let go_on = LoadWatch::default();
    let source = ModelFile::open(path)?;
    let hyperparameters = source.check()?;
    // Sets llama.cpp up, which takes memory of its own.
    backend::backend()?;
    limit_memory(source.header()).map_err(LoadError::NoTrial)?;
    let files = FileIdentity::of_parts(&source).map_err(LoadError::NoTrial)?;
    let vocab = open_vocabulary(path, &source, &go_on)?;
    let weights = source
        .load_weights(WeightsMode::MapAsTheyAre, vocab.vocab().n_tokens(), &go_on)
        .ok_or_else(|| refusal(path, &source, &go_on))?;
    let (weights, tokenizer) = assemble(&source, vocab, weights, hyperparameters, String::new())?;
    let tokens = read_text(&tokenizer);
    let vectors_are_finite = match weights.info().purpose {
        Purpose::Generation => generate(&weights, &tokens)?,
        Purpose::Embedding => embed(&weights, &tokens)?,
    };
    if !vectors_are_finite {
        return Err(LoadError::Unsound {
            path: path.to_owned(),
            fault: "what it computes are no finite numbers".to_owned(),
        });
    }
    render(&tokenizer);
    Ok(files)
}

/// The tokens of a text, in both ways of reading it.
fn read_text(tokenizer: &Tokenizer) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (bounds, markup) in [(false, false), (true, true)] {
        tokens = tokenizer.tokenize(TEXT, TokenizeOptions { bounds, markup });
        let _ = tokenizer.detokenize(&tokens);
    }
    if tokens.is_empty() {
        tokens.push(Token(0));
    }
    tokens.truncate(PROMPT);
    tokens
}

/// Computes a prompt and one more token, in each way of computing attention; whether all logits are numbers.
fn generate(weights: &Weights, tokens: &[Token]) -> Result<bool, LoadError> {
    let mut are_finite = true;
    for attention in [Attention::Flash, Attention::Plain] {
        let mut partition = Partition::new(weights, generation_options(), attention, None)?;
        for range in [0..tokens.len(), tokens.len()..tokens.len() + 1] {
            for position in range.clone() {
                partition.add(Row {
                    token: *tokens.get(position).unwrap_or(&tokens[0]),
                    position: u32::try_from(position).unwrap_or(u32::MAX),
                    sequence: SeqId(0),
                    logits: true,
                });
            }
            (partition.decode(1)).map_err(|error| LoadError::Context(Some(error.to_string())))?;
            are_finite &= partition
                .logits(range.len() - 1)
                .iter()
                .all(|l| l.is_finite());
        }
    }
    Ok(are_finite)
}

fn embed(weights: &Weights, tokens: &[Token]) -> Result<bool, LoadError> {
    let mut embedder = LlamaEmbedder::new(weights, embedder_options())?;
    let vectors = embedder
        .embed(&[tokens, &tokens[..1]])
        .map_err(|error| LoadError::Context(Some(error.to_string())))?;
    Ok(vectors.iter().flatten().all(|number| number.is_finite()))
}

fn threads() -> u32 {
    const MOST: usize = 4;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cores.min(MOST)).unwrap_or(1)
}

fn generation_options() -> EngineOptions {
    EngineOptions {
        cells: CELLS,
        sequences: 2,
        batch_rows: ROWS,
        threads: threads(),
        threads_per_partition: threads(),
        memory: 0,
        attention: None,
        deterministic: false,
    }
}

fn embedder_options() -> EmbedderOptions {
    EmbedderOptions {
        shape: EmbedderShape {
            rows: ROWS as usize,
            sequences: 2,
        },
        threads: threads(),
        attention: None,
    }
}

/// Allows as much memory as a file of this kind needs, whatever it says later. Mapped pages do not count.
fn limit_memory(header: &GgufHeader) -> io::Result<()> {
    // Where the system does not say how much memory is in use, the limit would be a guess.
    let Some(taken) = status_bytes("VmData") else {
        return Ok(());
    };
    let estimates = [
        estimate_generation(header, &generation_options()),
        estimate_embedding(header, &embedder_options()),
    ];
    // Lists of a header are held twice while llama.cpp reads them.
    let needed = |estimate: MemoryEstimate| estimate.anonymous(1) - estimate.weights;
    let needed = estimates.into_iter().flatten().map(needed).max();
    let header = header.data_offset.saturating_mul(4);
    let most = [needed.unwrap_or(0).saturating_mul(2), header, EXTRA_MEMORY]
        .into_iter()
        .fold(taken, u64::saturating_add);
    let (_, hard) = Resource::DATA.get()?;
    Resource::DATA.set(most.min(hard), most.min(hard))
}
