//! The file of a LoRA adapter, opened once and checked against the model that it is for.
//!
//! llama.cpp ends the process on an adapter whose metadata have other types than it expects, or whose
//! matrices cannot be multiplied with those of the model, and it leaves out without a word what it has no
//! use for. So everything is checked here before it sees the file. The names and their meaning are those
//! of `convert_lora_to_gguf.py` and `llama-adapter.cpp`: `X.lora_a` has the shape (inputs, rank) and
//! `X.lora_b` the shape (rank, outputs) for a matrix `X` of (inputs, outputs); to that is added
//! `alpha / rank` times their product.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::denied::sandbox_hint;
use super::model_file::open_gguf;
use super::{GgufHeader, LoadError, TensorInfo, TensorType};

/// Why an adapter cannot be served. Every message names the file and a remedy.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The file cannot be opened.
    #[error("cannot read adapter {}: {source}{}; check the path and its permissions", path.display(), sandbox_hint(path, source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not a GGUF file; convert the adapter with llama.cpp's convert_lora_to_gguf.py", .0.display())]
    NotGguf(PathBuf),
    /// It does not suit this model, or nothing that llama.cpp can apply.
    #[error("cannot serve adapter {}: {problem}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: AdapterProblem,
    },
    /// llama.cpp refused it.
    #[error("cannot load adapter {}: {reason}; if the file was copied or downloaded, compare its size and checksum with the original", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// llama.cpp's own words.
        reason: String,
    },
    /// The adapter was loaded, but no KV cache could be made for it.
    #[error("cannot set up a KV cache for adapter {}: {reason}; a smaller models.context or fewer adapters need less memory", path.display())]
    Context {
        /// The file.
        path: PathBuf,
        /// llama.cpp's own words.
        reason: String,
    },
}

/// What is wrong with an adapter, with a remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdapterProblem {
    /// `general.type` says something else.
    #[error(
        "it is not an adapter (its general.type is not `adapter`); give a model in models.path instead"
    )]
    NotAnAdapter,
    /// `adapter.type` says something else.
    #[error("its adapter.type is not `lora`, and only LoRA adapters can be served")]
    NotLora,
    /// It was made for a model of another architecture.
    #[error(
        "it is for models of the architecture `{adapter}`, and this model's is `{model}`; use the model that it was trained on"
    )]
    OtherArchitecture {
        /// The adapter's.
        adapter: String,
        /// The model's.
        model: String,
    },
    /// It takes effect behind certain tokens only.
    #[error(
        "it is an activated LoRA (aLoRA), which takes effect behind certain tokens only, and that is not supported; train a plain LoRA"
    )]
    Activated,
    /// Its scale is no number that can be multiplied with.
    #[error("its adapter.lora.alpha is not a finite number other than 0; convert it anew")]
    Alpha,
    /// It has no matrices.
    #[error("it has no LoRA tensors; convert it anew")]
    Empty,
    /// A tensor is neither half of a pair.
    #[error(
        "its tensor `{0}` is not half of a LoRA pair (`.lora_a`, `.lora_b`), and would be left out; train the adapter without it (in PEFT: without modules_to_save), or merge it into the model"
    )]
    NoPair(String),
    /// Half of a pair is missing.
    #[error("the other half of its tensor `{0}` is missing; convert it anew")]
    OneHalf(String),
    /// The model has no such matrix.
    #[error("this model has no tensor `{0}`; use the model that the adapter was trained on")]
    UnknownTensor(String),
    /// llama.cpp applies no adapter there.
    #[error(
        "llama.cpp applies no adapter to the tensor `{0}` of this model; train the adapter on attention and feed-forward matrices"
    )]
    NotAdaptable(String),
    /// The shapes do not go together.
    #[error(
        "the shape of its tensor `{0}` does not suit this model; use the model that it was trained on"
    )]
    Shape(String),
    /// The inner dimension is 0, or larger than the matrix.
    #[error("the rank of its tensor `{0}` is 0, or larger than the matrix; convert it anew")]
    Rank(String),
    /// The numbers have a type that cannot be computed with.
    #[error(
        "the numbers of its tensor `{0}` are of a type that adapters cannot have here; convert it to f32, f16, bf16 or q8_0"
    )]
    NumberType(String),
    /// With it the model computes no numbers.
    #[error("the model computes no finite numbers with it; train it anew, or with a smaller alpha")]
    NotFinite,
}

/// What must be known of a model to check an adapter for it.
#[derive(Debug)]
pub struct AdapterBase {
    architecture: String,
    matrices: BTreeMap<String, Matrix>,
}

#[derive(Debug, Clone, Copy)]
struct Matrix {
    shape: [u64; 4],
    kind: TensorType,
}

impl AdapterBase {
    pub(super) fn of(model: &GgufHeader) -> Self {
        let named = |tensor: &TensorInfo| {
            let TensorInfo {
                name,
                dimensions,
                kind,
                ..
            } = tensor;
            let matrix = Matrix {
                shape: *dimensions,
                kind: *kind,
            };
            (name.clone(), matrix)
        };
        Self {
            architecture: model.architecture.clone(),
            matrices: model.tensors.iter().map(named).collect(),
        }
    }

    /// The matrix of this name, if llama.cpp adds adapters to it wherever it is multiplied.
    fn adaptable(&self, name: &str) -> Result<Matrix, AdapterProblem> {
        let matrix = self.matrices.get(name);
        let matrix = matrix.ok_or_else(|| AdapterProblem::UnknownTensor(name.to_owned()))?;
        // Without an output matrix of its own the embedding is one too, where its adapter, which is
        // transposed, would end the process.
        let is_tied = name == EMBEDDING && !self.matrices.contains_key("output.weight");
        let is_adaptable = is_multiplied(name) && !is_tied && matrix.kind != TensorType::NVFP4;
        if !is_adaptable {
            return Err(AdapterProblem::NotAdaptable(name.to_owned()));
        }
        Ok(*matrix)
    }
}

/// The matrix that makes vectors of tokens; the halves of its adapter are transposed.
const EMBEDDING: &str = "token_embd.weight";

/// Whether llama.cpp multiplies by `build_lora_mm` with tensors of this name (or, for the embedding, by
/// its like). What it uses in another way it leaves without the adapter, and says nothing.
fn is_multiplied(name: &str) -> bool {
    const IN_BLOCKS: [&str; 16] = [
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_qkv",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
        "ffn_gate_inp",
        "ffn_gate_exps",
        "ffn_up_exps",
        "ffn_down_exps",
        "ffn_gate_up_exps",
        "ffn_gate_shexp",
        "ffn_up_shexp",
        "ffn_down_shexp",
    ];
    if name == EMBEDDING || name == "output.weight" {
        return true;
    }
    let block = name.strip_prefix("blk.").and_then(|name| {
        let (number, rest) = name.split_once('.')?;
        number.parse::<u32>().ok()?;
        rest.strip_suffix(".weight")
    });
    block.is_some_and(|matrix| IN_BLOCKS.contains(&matrix))
}

/// An adapter's file, open, and checked: it suits the model and nothing of it would be left out.
#[derive(Debug)]
pub struct AdapterFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    bytes: u64,
}

impl AdapterFile {
    /// Opens an adapter for a model of which `base` is known.
    ///
    /// # Errors
    /// See [`AdapterError`].
    pub fn open(path: &Path, base: &AdapterBase) -> Result<Self, AdapterError> {
        let path = path.to_owned();
        let (file, header) = match open_gguf(&path) {
            Ok(opened) => opened,
            Err(LoadError::NotGguf(path)) => return Err(AdapterError::NotGguf(path)),
            Err(LoadError::Unreadable { path, source }) => {
                return Err(AdapterError::Unreadable { path, source });
            }
            Err(LoadError::Damaged { path, fault }) => {
                return Err(AdapterError::Refused {
                    path,
                    reason: fault,
                });
            }
            Err(other) => {
                return Err(AdapterError::Refused {
                    path,
                    reason: other.to_string(),
                });
            }
        };
        match check(&header, base) {
            Ok(bytes) => Ok(Self { path, file, bytes }),
            Err(problem) => Err(AdapterError::Unfit { path, problem }),
        }
    }

    /// Returns the bytes that its matrices take, in the file and in memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// It is not of use after all.
    pub(super) fn unfit(&self, problem: AdapterProblem) -> AdapterError {
        AdapterError::Unfit {
            path: self.path.clone(),
            problem,
        }
    }
}

/// Checks an adapter; returns the bytes of its matrices.
fn check(adapter: &GgufHeader, base: &AdapterBase) -> Result<u64, AdapterProblem> {
    let metadata = &adapter.metadata;
    if adapter.general_type.as_deref() != Some("adapter") {
        return Err(AdapterProblem::NotAnAdapter);
    }
    if metadata.text("adapter.type") != Some(b"lora") {
        return Err(AdapterProblem::NotLora);
    }
    if adapter.architecture != base.architecture {
        return Err(AdapterProblem::OtherArchitecture {
            adapter: adapter.architecture.clone(),
            model: base.architecture.clone(),
        });
    }
    if metadata.get("adapter.alora.invocation_tokens").is_some() {
        return Err(AdapterProblem::Activated);
    }
    let alpha = metadata.f32("adapter.lora.alpha");
    let is_number = alpha.is_some_and(|alpha| alpha.is_finite() && alpha != 0.0);
    // Without the key llama.cpp does not scale.
    if metadata.get("adapter.lora.alpha").is_some() && !is_number {
        return Err(AdapterProblem::Alpha);
    }
    for tensor in &adapter.tensors {
        check_numbers(tensor)?;
    }
    let pairs = pairs(&adapter.tensors)?;
    if pairs.is_empty() {
        return Err(AdapterProblem::Empty);
    }
    for (name, (a, b)) in pairs {
        check_pair(name, a, b, base)?;
    }
    Ok(adapter.tensor_bytes())
}

fn check_numbers(tensor: &TensorInfo) -> Result<(), AdapterProblem> {
    const TYPES: [TensorType; 4] = [
        TensorType::F32,
        TensorType::F16,
        TensorType::BF16,
        TensorType::Q8_0,
    ];
    if !TYPES.contains(&tensor.kind) {
        return Err(AdapterProblem::NumberType(tensor.name.clone()));
    }
    Ok(())
}

type Pairs<'a> = BTreeMap<&'a str, (&'a TensorInfo, &'a TensorInfo)>;

/// The halves of each pair, by the name of the model's tensor. The names of a file's tensors differ.
fn pairs(tensors: &[TensorInfo]) -> Result<Pairs<'_>, AdapterProblem> {
    let mut halves: BTreeMap<&str, [Option<&TensorInfo>; 2]> = BTreeMap::new();
    for tensor in tensors {
        let half = |suffix| tensor.name.strip_suffix(suffix);
        let (name, half) = match (half(".lora_a"), half(".lora_b")) {
            (Some(name), _) => (name, 0),
            (_, Some(name)) => (name, 1),
            _ => return Err(AdapterProblem::NoPair(tensor.name.clone())),
        };
        halves.entry(name).or_default()[half] = Some(tensor);
    }
    let mut pairs = BTreeMap::new();
    for (name, halves) in halves {
        match halves {
            [Some(a), Some(b)] => {
                pairs.insert(name, (a, b));
            }
            [one, other] => {
                let half = one.or(other).map_or(name, |half| &half.name);
                return Err(AdapterProblem::OneHalf(half.to_owned()));
            }
        }
    }
    Ok(pairs)
}

/// Checks that a pair can be multiplied with the model's matrix. llama.cpp compares two of the
/// dimensions that matter here, and takes for granted that the others are right.
fn check_pair(
    name: &str,
    a: &TensorInfo,
    b: &TensorInfo,
    base: &AdapterBase,
) -> Result<(), AdapterProblem> {
    let matrix = base.adaptable(name)?;
    let [inputs, outputs, experts, more] = matrix.shape;
    let rank = b.dimensions[0];
    if rank < 1 || rank > inputs.max(outputs) {
        return Err(AdapterProblem::Rank(b.name.clone()));
    }
    // Of the embedding's, rows of A are looked up instead of being multiplied with.
    let (a_shape, b_shape) = if name == EMBEDDING {
        (
            [rank, outputs, experts, more],
            [rank, inputs, experts, more],
        )
    } else {
        (
            [inputs, rank, experts, more],
            [rank, outputs, experts, more],
        )
    };
    for (tensor, shape) in [(a, a_shape), (b, b_shape)] {
        if tensor.dimensions != shape {
            return Err(AdapterProblem::Shape(tensor.name.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
