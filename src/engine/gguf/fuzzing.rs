//! What holds for a header, whatever stands in it.

use super::super::{
    Attention, EmbedderOptions, EmbedderShape, EngineOptions, estimate_embedding,
    estimate_generation, vocabulary,
};
use super::{GgufHeader, check_model};

/// Reads a file's header, checks it and estimates what it would take, all of which end in a value or in words.
///
/// # Panics
/// Where a sound header has a tensor outside of the file, or says nothing of what is wrong.
#[cfg_attr(test, expect(unreachable_pub, reason = "fuzz/ calls it"))]
pub fn read(file: &[u8]) {
    let header = match GgufHeader::parse(file, file.len() as u64) {
        Ok(header) => header,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    for tensor in &header.tensors {
        let end = header.data_offset + tensor.offset + tensor.bytes;
        assert!(end <= file.len() as u64, "{}", tensor.name);
    }
    assert!(header.tensor_bytes() <= header.file_bytes);
    let _ = header.parameters();
    let _ = vocabulary::check(&header.metadata);
    if let Err(fault) = check_model(&header) {
        return assert!(!fault.to_string().is_empty());
    }
    for attention in [None, Some(Attention::Plain), Some(Attention::Flash)] {
        let generation = EngineOptions {
            cells: 1 << 20,
            sequences: 255,
            batch_rows: 8192,
            threads: 1,
            threads_per_partition: 1,
            memory: 1 << 34,
            attention,
            deterministic: false,
        };
        let embedding = EmbedderOptions {
            shape: EmbedderShape {
                rows: 1 << 20,
                sequences: 64,
            },
            threads: 1,
            attention,
        };
        for estimate in [
            estimate_generation(&header, &generation),
            estimate_embedding(&header, &embedding),
        ] {
            let estimate = estimate.expect("a sound model");
            assert!(estimate.partitions > 0 && estimate.total(1) >= header.tensor_bytes());
        }
    }
}
