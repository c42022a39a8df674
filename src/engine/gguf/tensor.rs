//! The tensors that a header announces.

use std::collections::HashSet;
use std::io::Read;

use super::HeaderError;
use super::reader::HeaderReader;
use super::value::read_name;

/// Tensors of a file. llama.cpp looks each one up among all others, one by one; the largest models have some
/// thousands.
pub(super) const MOST_TENSORS: u64 = 16_384;
/// `GGML_MAX_NAME`, with the zero at the end.
const LONGEST_NAME: u64 = 63;
/// `GGML_MAX_DIMS`.
const MOST_DIMENSIONS: usize = 4;

/// One tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// e.g. `blk.0.attn_q.weight`
    pub name: String,
    /// How its numbers are stored.
    pub kind: TensorType,
    /// Numbers in each dimension, the one whose numbers are neighbours first; 1 where there is no more.
    pub dimensions: [u64; MOST_DIMENSIONS],
    /// Where it begins, in bytes behind the header and its padding.
    pub offset: u64,
    /// The bytes that it takes.
    pub bytes: u64,
}

/// ggml's number of a tensor type (`ggml_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TensorType(u32);

impl TensorType {
    /// 32-bit floating point.
    pub const F32: Self = Self(0);
    /// 16-bit floating point.
    pub const F16: Self = Self(1);
    /// 16-bit floating point with the range of 32 bits.
    pub const BF16: Self = Self(30);

    /// Blocks of 32 whole numbers of 8 bits with a scale.
    pub const Q8_0: Self = Self(8);
    /// NVIDIA's 4-bit floating point.
    pub const NVFP4: Self = Self(40);

    /// Name, numbers in a block, and bytes of a block (`type_traits` in `ggml.c`); `None` for a type that ggml
    /// does not have (any more).
    fn traits(self) -> Option<(&'static str, u64, u64)> {
        Some(match self.0 {
            0 => ("F32", 1, 4),
            1 => ("F16", 1, 2),
            2 => ("Q4_0", 32, 18),
            3 => ("Q4_1", 32, 20),
            6 => ("Q5_0", 32, 22),
            7 => ("Q5_1", 32, 24),
            8 => ("Q8_0", 32, 34),
            9 => ("Q8_1", 32, 36),
            10 => ("Q2_K", 256, 84),
            11 => ("Q3_K", 256, 110),
            12 => ("Q4_K", 256, 144),
            13 => ("Q5_K", 256, 176),
            14 => ("Q6_K", 256, 210),
            15 => ("Q8_K", 256, 292),
            16 => ("IQ2_XXS", 256, 66),
            17 => ("IQ2_XS", 256, 74),
            18 => ("IQ3_XXS", 256, 98),
            19 => ("IQ1_S", 256, 50),
            20 => ("IQ4_NL", 32, 18),
            21 => ("IQ3_S", 256, 110),
            22 => ("IQ2_S", 256, 82),
            23 => ("IQ4_XS", 256, 136),
            24 => ("I8", 1, 1),
            25 => ("I16", 1, 2),
            26 => ("I32", 1, 4),
            27 => ("I64", 1, 8),
            28 => ("F64", 1, 8),
            29 => ("IQ1_M", 256, 56),
            30 => ("BF16", 1, 2),
            34 => ("TQ1_0", 256, 54),
            35 => ("TQ2_0", 256, 66),
            39 => ("MXFP4", 32, 17),
            40 => ("NVFP4", 64, 36),
            41 => ("Q1_0", 128, 18),
            42 => ("Q2_0", 64, 18),
            _ => return None,
        })
    }

    /// Whether matrices of weights can be of this type. The others are whole numbers, or what ggml makes of the
    /// other side of a product while it computes (`Q8_1`, `Q8_K`).
    pub(super) fn is_for_weights(self) -> bool {
        !matches!(self.0, 9 | 15 | 24..=28)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.traits().map_or("unknown", |(name, ..)| name)
    }
}

/// Reads the list of tensors; how many bytes all of them take with what pads each of them to `alignment`.
///
/// They follow each other without gaps in the order of the list, as llama.cpp wants them, so none overlaps
/// another.
pub(super) fn read_tensors<R: Read>(
    reader: &mut HeaderReader<R>,
    count: u64,
    alignment: u64,
) -> Result<Vec<TensorInfo>, HeaderError> {
    if count > MOST_TENSORS {
        return Err(HeaderError::TooMany {
            what: "tensors",
            count,
            most: MOST_TENSORS,
        });
    }
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    let mut expected = 0_u64;
    for _ in 0..count {
        let tensor = read_tensor(reader)?;
        let fault = |why| HeaderError::Tensor {
            name: tensor.name.clone(),
            why,
        };
        if !names.insert(tensor.name.clone()) {
            return Err(fault("is there twice"));
        }
        if tensor.offset != expected {
            return Err(fault("does not begin where the one before it ends"));
        }
        expected = tensor
            .bytes
            .checked_next_multiple_of(alignment)
            .and_then(|bytes| bytes.checked_add(expected))
            .ok_or_else(|| fault("is larger than any file"))?;
        tensors.push(tensor);
    }
    Ok(tensors)
}

fn read_tensor<R: Read>(reader: &mut HeaderReader<R>) -> Result<TensorInfo, HeaderError> {
    let name = read_name(reader, LONGEST_NAME, "the name of a tensor")?;
    let count = reader.u32()? as usize;
    let fault = |why| HeaderError::Tensor {
        name: name.clone(),
        why,
    };
    let mut dimensions = [1; MOST_DIMENSIONS];
    let given = dimensions
        .get_mut(..count)
        .ok_or_else(|| fault("has more than four dimensions"))?;
    for numbers in given {
        *numbers = reader.u64()?;
    }
    let kind = TensorType(reader.u32()?);
    let (_, block, block_bytes) = kind
        .traits()
        .ok_or_else(|| fault("has a type that llama.cpp does not know"))?;
    if count == 0 || dimensions.contains(&0) {
        return Err(fault("has no numbers"));
    }
    let [row, rest @ ..] = dimensions;
    if row % block != 0 {
        return Err(fault("has rows that are no whole blocks of its type"));
    }
    let bytes = rest
        .iter()
        .try_fold(row, |product, next| product.checked_mul(*next))
        .and_then(|numbers| (numbers / block).checked_mul(block_bytes))
        // ggml counts in signed numbers.
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(|| fault("is larger than any file"))?;
    let offset = reader.u64()?;
    Ok(TensorInfo {
        name,
        kind,
        dimensions,
        offset,
        bytes,
    })
}
