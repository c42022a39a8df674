//! What makes a sound GGUF a model that llama.cpp would not survive, or that would not answer.

use super::hyperparameters::Hyperparameters;
use super::{GgufHeader, TensorInfo, TensorType, Value};

/// What is wrong with a model, in words that name the key or the tensor.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(in crate::engine) struct ModelFault(String);

impl ModelFault {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// llama.cpp's names (`LLAMA_ROPE_SCALING_TYPES`).
const ROPE_SCALINGS: [&[u8]; 4] = [b"none", b"linear", b"yarn", b"longrope"];
/// `llama_pooling_type`.
const MOST_POOLING: u32 = 4;

/// Reads the dimensions of a model, and refuses what llama.cpp would end the process over.
pub(in crate::engine) fn check_model(header: &GgufHeader) -> Result<Hyperparameters, ModelFault> {
    if let Some(kind) = &header.general_type
        && !header.is_model()
    {
        return Err(ModelFault::new(format!(
            "its `general.type` is `{}`, so it is no model by itself",
            kind.escape_debug()
        )));
    }
    let hyperparameters = Hyperparameters::read(header)?;
    check_floats(header)?;
    check_choices(header)?;
    header.tensors.iter().try_for_each(check_type)?;
    Ok(hyperparameters)
}

/// Every number of the architecture is one, and what is divided by a deviation is not negative
/// (`ggml_compute_forward_rms_norm`).
fn check_floats(header: &GgufHeader) -> Result<(), ModelFault> {
    let prefix = format!("{}.", header.architecture);
    let of_model = header
        .metadata
        .keys()
        .filter(|key| key.starts_with(&prefix));
    for key in of_model {
        let is_finite = match header.metadata.get(key) {
            Some(Value::F32(number)) => number.is_finite(),
            Some(Value::F32s(numbers)) => numbers.iter().all(|number| number.is_finite()),
            _ => true,
        };
        if !is_finite {
            return Err(ModelFault::new(format!("`{key}` is not a finite number")));
        }
        if key.ends_with("_epsilon") && header.metadata.f32(key).is_some_and(|eps| eps < 0.0) {
            return Err(ModelFault::new(format!("`{key}` is less than 0")));
        }
    }
    Ok(())
}

fn check_choices(header: &GgufHeader) -> Result<(), ModelFault> {
    let name = |key: &str| format!("{}.{key}", header.architecture);
    for key in ["pooling_type", "classifier.pooling_type"].map(name) {
        if let Some(kind) = header.metadata.u32(&key)
            && kind > MOST_POOLING
        {
            return Err(ModelFault::new(format!(
                "`{key}` is {kind}, and llama.cpp knows 0 to {MOST_POOLING}"
            )));
        }
    }
    let key = name("rope.scaling.type");
    if let Some(scaling) = header.metadata.text(&key)
        && !ROPE_SCALINGS.contains(&scaling)
    {
        return Err(ModelFault::new(format!(
            "`{key}` is `{}`, and llama.cpp knows none, linear, yarn and longrope",
            scaling.escape_ascii()
        )));
    }
    Ok(())
}

/// llama.cpp ends the process when it is to compute with numbers of a type that it has for other things.
fn check_type(tensor: &TensorInfo) -> Result<(), ModelFault> {
    let [_, rest @ ..] = tensor.dimensions;
    // Norms, biases and scales, which converters leave as they are.
    let is_vector = rest.iter().all(|numbers| *numbers == 1);
    let is_fit = if is_vector {
        matches!(
            tensor.kind,
            TensorType::F32 | TensorType::F16 | TensorType::BF16
        )
    } else {
        tensor.kind.is_for_weights() || tensor.name.contains("tid2eid")
    };
    if is_fit {
        return Ok(());
    }
    Err(ModelFault::new(format!(
        "the tensor `{}` is of type {}, which llama.cpp does not compute with there",
        tensor.name,
        tensor.kind.name()
    )))
}
