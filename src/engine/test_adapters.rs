//! Adapters for the shipped model, and the same model with an adapter merged in.

use std::path::Path;

use super::gguf_editor::GgufEditor;

pub(super) const RANK: usize = 4;
pub(super) const ALPHA: f32 = 8.0;

/// The matrices that the adapters change, with how many numbers go in and come out.
pub(super) const MATRICES: [(&str, usize, usize); 3] = [
    ("blk.1.attn_q.weight", 384, 256),
    ("blk.2.ffn_down.weight", 640, 384),
    ("blk.4.attn_output.weight", 256, 384),
];

/// A file with an adapter's metadata, and no matrices yet.
pub(super) fn header() -> GgufEditor {
    GgufEditor::bare()
        .text("general.type", "adapter")
        .text("general.architecture", "qwen3")
        .text("adapter.type", "lora")
        .f32("adapter.lora.alpha", ALPHA)
}

/// Numbers between -1 and 1 that look random and are always the same.
#[allow(clippy::cast_precision_loss)] // 24 bits
pub(super) fn numbers(seed: usize, count: usize) -> Vec<f32> {
    let mut state = seed as u64 + 1;
    let next = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / f32::from(1_u16 << 15) / 256.0 - 1.0
    };
    (0..count).map(next).collect()
}

/// The halves of the pair for a matrix.
pub(super) fn pair(seed: usize, inputs: usize, outputs: usize, strength: f32) -> [Vec<f32>; 2] {
    let a = numbers(seed, inputs * RANK);
    let b = numbers(seed + 1000, RANK * outputs);
    [a, b.into_iter().map(|number| strength * number).collect()]
}

/// Writes an adapter; with a `strength` of 0 it changes nothing, and each seed makes another.
pub(crate) fn write(path: &Path, seed: usize, strength: f32) {
    let mut adapter = header();
    for (name, inputs, outputs) in MATRICES {
        let [a, b] = pair(seed, inputs, outputs, strength);
        adapter = adapter
            .tensor(&format!("{name}.lora_a"), &[inputs, RANK], &a)
            .tensor(&format!("{name}.lora_b"), &[RANK, outputs], &b);
    }
    adapter.write(path);
}

/// Writes the shipped model with all matrices in 32-bit numbers, so that nothing is rounded to eight
/// bits on the way, and the adapter of this strength added to them.
pub(super) fn write_merged(path: &Path, seed: usize, strength: f32) {
    let mut model = GgufEditor::kiosk();
    for (name, shape, mut matrix) in model.dequantized() {
        let adapted = MATRICES.iter().find(|(adapted, ..)| *adapted == name);
        if let Some((_, inputs, outputs)) = adapted {
            assert_eq!(shape, [*inputs, *outputs]);
            let [a, b] = pair(seed, *inputs, *outputs, strength);
            for (place, number) in matrix.iter_mut().enumerate() {
                let (output, input) = (place / inputs, place % inputs);
                let product = |rank: usize| a[rank * inputs + input] * b[output * RANK + rank];
                *number += ALPHA / 4.0 * (0..RANK).map(product).sum::<f32>();
            }
        }
        model = model.tensor(&name, &shape, &matrix);
    }
    model.write(path);
}
