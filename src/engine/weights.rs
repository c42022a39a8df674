//! The weights of a model, which the thread that loaded them owns.

use std::marker::PhantomData;
use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;

use super::adapter_file::AdapterBase;
use super::gguf::{Hyperparameters, Metadata};
use super::info::quantization_name;
use super::load_watch::LoadWatch;
use super::model_file::{ModelFile, WeightsMode};
use super::{ModelInfo, TensorInfo};

/// A model's weights. Contexts borrow them, and dropping them gives their memory back.
///
/// They stay on the thread that loaded them, so no answer, grammar or task can keep them alive
/// when that thread ends:
///
/// ```compile_fail,E0277
/// fn hand_over<T: Send>(_: T) {}
/// fn give_away(weights: edgellm::engine::Weights) {
///     hand_over(weights);
/// }
/// ```
///
/// ```compile_fail,E0277
/// fn share<T: Send>(_: std::sync::Arc<T>) {}
/// fn give_away(weights: edgellm::engine::Weights) {
///     share(std::sync::Arc::new(weights));
/// }
/// ```
#[derive(Debug)]
pub struct Weights {
    llama: LlamaModel,
    info: Arc<ModelInfo>,
    hyperparameters: Hyperparameters,
    base: Arc<AdapterBase>,
    /// Makes the type neither `Send` nor `Sync`.
    one_thread: PhantomData<*const ()>,
}

impl Weights {
    pub(super) fn new(
        llama: LlamaModel,
        info: Arc<ModelInfo>,
        hyperparameters: Hyperparameters,
        base: Arc<AdapterBase>,
    ) -> Self {
        Self {
            llama,
            info,
            hyperparameters,
            base,
            one_thread: PhantomData,
        }
    }

    /// What is known of the model.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    pub(super) fn hyperparameters(&self) -> &Hyperparameters {
        &self.hyperparameters
    }

    /// What adapters for this model are checked against, also by other threads.
    #[must_use]
    pub fn adapter_base(&self) -> &Arc<AdapterBase> {
        &self.base
    }

    pub(super) fn llama(&self) -> &LlamaModel {
        &self.llama
    }
}

/// Maps the weights into memory, or reads them. llama.cpp answers a failure with none and says the
/// reason in its log.
pub(super) fn read(
    source: &ModelFile,
    vocab: &LlamaModel,
    watch: &LoadWatch,
) -> Option<LlamaModel> {
    let mode = if is_rearranged(&source.header().metadata) {
        WeightsMode::Read
    } else {
        WeightsMode::Map
    };
    source.load_weights(mode, vocab.vocab().n_tokens(), watch)
}

/// Whether llama.cpp makes a rearranged copy of most weights, with which it computes faster. Such a
/// file is read and not mapped, or the originals, which nobody looks at again, would count as
/// memory beside it.
pub(super) fn is_rearranged(metadata: &Metadata) -> bool {
    let file_type = metadata.u32("general.file_type");
    file_type.is_some_and(|file_type| rearranges(quantization_name(file_type)))
}

/// Whether llama.cpp makes a rearranged copy of this tensor on this CPU.
pub(super) fn rearranges_tensor(tensor: &TensorInfo) -> bool {
    let [_, columns, rest @ ..] = tensor.dimensions;
    // Vectors are added or multiplied, number by number; stacked matrices (the experts') are rearranged as well.
    let is_matrix = columns > 1 && rest[1] == 1;
    let is_read_by_row = tensor.name == "token_embd.weight";
    is_matrix && !is_read_by_row && rearranges_matrix(tensor)
}

/// Whether llama.cpp multiplies with a matrix like this one in a rearranged form.
pub(super) fn rearranges_matrix(tensor: &TensorInfo) -> bool {
    tensor.dimensions[1].is_multiple_of(8) && rearranges_type(tensor.kind.name())
}

/// As `ggml_repack_get_optimal_repack_type` in llama.cpp's `repack.cpp` decides by processor.
#[cfg(target_arch = "x86_64")]
fn rearranges_type(kind: &str) -> bool {
    match kind {
        "Q4_0" | "Q4_K" | "IQ4_NL" | "MXFP4" => std::arch::is_x86_feature_detected!("avx2"),
        "Q2_K" => std::arch::is_x86_feature_detected!("avx512f"),
        _ => false,
    }
}

/// As above.
#[cfg(target_arch = "aarch64")]
fn rearranges_type(kind: &str) -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
        && matches!(
            kind,
            "Q4_0" | "Q4_K" | "Q5_K" | "Q6_K" | "Q8_0" | "IQ4_NL" | "MXFP4"
        )
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn rearranges_type(_: &str) -> bool {
    false
}

/// As `ggml_repack_get_optimal_repack_type` in llama.cpp's `repack.cpp` decides by processor.
#[cfg(target_arch = "x86_64")]
fn rearranges(quantization: &str) -> bool {
    std::arch::is_x86_feature_detected!("avx2")
        && matches!(
            quantization,
            "Q4_0" | "Q4_K_S" | "Q4_K_M" | "IQ4_NL" | "MXFP4"
        )
}

/// Whether llama.cpp rearranges weights of this quantization on this CPU.
#[cfg(target_arch = "aarch64")]
fn rearranges(quantization: &str) -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
        && matches!(
            quantization,
            "Q4_0"
                | "Q4_K_S"
                | "Q4_K_M"
                | "Q5_K_S"
                | "Q5_K_M"
                | "Q6_K"
                | "Q8_0"
                | "IQ4_NL"
                | "MXFP4"
        )
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn rearranges(_: &str) -> bool {
    false
}
