//! The header of a GGUF file, read before llama.cpp sees the file.
//!
//! llama.cpp is written for files that a converter made: it takes as much memory as a length in the file says,
//! and ends the process where a number makes no sense (`GGML_ASSERT`). So the header is read here first, within
//! bounds of everything that it counts, and what llama.cpp would not survive is refused in words
//! ([`model_faults`], [`vocabulary`](super::vocabulary)). What no header shows is tried in a child process
//! (`trial`).

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod hyperparameters;
mod model_faults;
mod reader;
mod tensor;
#[cfg(test)]
mod tests;
mod value;

use std::fs::File;
use std::io;

use super::info::quantization_name;
use reader::{FromBeginning, HeaderReader};

pub(super) use hyperparameters::Hyperparameters;
pub(super) use model_faults::check_model;
pub use tensor::{TensorInfo, TensorType};
pub(super) use value::{Metadata, TextList, Value};

const MAGIC: [u8; 4] = *b"GGUF";
/// The newest version of the format, and the oldest one that llama.cpp still reads.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
/// llama.cpp's own where a file says nothing.
const DEFAULT_ALIGNMENT: u32 = 32;
/// The format wants a multiple of eight; more than a page serves nobody.
const ALIGNMENTS: std::ops::RangeInclusive<u32> = 8..=65_536;

/// What stands at the beginning of a GGUF, or of all parts of one that was split, and is sound in itself: all
/// counts and sizes fit into the file, and all tensors lie in it.
#[derive(Debug)]
pub struct GgufHeader {
    /// `general.architecture`, e.g. `qwen3`.
    pub architecture: String,
    /// `general.type`: `model`, `adapter`, `mmproj` or another; `None` in older files, which are models.
    pub general_type: Option<String>,
    /// All tensors, those of later parts behind those of the first.
    pub tensors: Vec<TensorInfo>,
    /// Bytes of the file, or of all parts.
    pub file_bytes: u64,
    /// Where the tensors begin in the (first) file.
    pub data_offset: u64,
    pub(super) metadata: Metadata,
}

/// What is wrong with the structure of a header.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    #[error("it does not start with the letters GGUF")]
    NotGguf,
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("it is cut off in the middle of its header")]
    CutOff,
    #[error("it is of GGUF version {0}, and llama.cpp reads 2 and 3")]
    Version(u32),
    #[error("it was written for machines of the other byte order")]
    ByteOrder,
    #[error("it has {count} {what}, and {most} are as many as are read")]
    TooMany {
        what: &'static str,
        count: u64,
        most: u64,
    },
    #[error("{what} has {length} bytes, and {most} are as many as are read")]
    TooLong {
        what: &'static str,
        length: u64,
        most: u64,
    },
    #[error("{0} is empty, or has other than printable ASCII characters")]
    Name(&'static str),
    #[error("`{key}` {why}")]
    Key { key: String, why: &'static str },
    #[error("`{key}` claims to be a list of {count} entries, which the file has no room for")]
    List { key: String, count: u64 },
    #[error("the tensor `{name}` {why}")]
    Tensor { name: String, why: &'static str },
    #[error("the tensor `{name}` ends at byte {end}, and the file has {file_bytes}: it is cut off")]
    Outside {
        name: String,
        end: u64,
        file_bytes: u64,
    },
}

impl From<io::Error> for HeaderError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The file became shorter meanwhile.
            io::ErrorKind::UnexpectedEof => Self::CutOff,
            _ => Self::Unreadable(error),
        }
    }
}

impl GgufHeader {
    pub(super) fn read(file: &File) -> Result<Self, HeaderError> {
        let bytes = file.metadata()?.len();
        Self::parse(FromBeginning::new(file), bytes)
    }

    /// Reads the header of a file that has so many bytes.
    pub(super) fn parse(input: impl io::Read, file_bytes: u64) -> Result<Self, HeaderError> {
        let mut reader = HeaderReader::new(input, file_bytes);
        match reader.array() {
            Ok(MAGIC) => {}
            Ok(_) | Err(HeaderError::CutOff) => return Err(HeaderError::NotGguf),
            Err(error) => return Err(error),
        }
        let version = reader.u32()?;
        if !VERSIONS.contains(&version) {
            return Err(if VERSIONS.contains(&version.swap_bytes()) {
                HeaderError::ByteOrder
            } else {
                HeaderError::Version(version)
            });
        }
        let tensors = reader.u64()?;
        let keys = reader.u64()?;
        let metadata = Metadata::read(&mut reader, keys)?;
        let alignment = alignment(&metadata)?;
        let tensors = tensor::read_tensors(&mut reader, tensors, alignment)?;
        let data_offset = reader.position().next_multiple_of(alignment);
        for tensor in &tensors {
            let end = data_offset
                .checked_add(tensor.offset)
                .and_then(|start| start.checked_add(tensor.bytes))
                .unwrap_or(u64::MAX);
            if end > file_bytes {
                return Err(HeaderError::Outside {
                    name: tensor.name.clone(),
                    end,
                    file_bytes,
                });
            }
        }
        let text = |key| {
            let text = metadata.text(key)?;
            Some(String::from_utf8_lossy(text).into_owned())
        };
        Ok(Self {
            architecture: text("general.architecture").unwrap_or_default(),
            general_type: text("general.type"),
            tensors,
            file_bytes,
            data_offset,
            metadata,
        })
    }

    /// Adds the tensors of another part.
    pub(super) fn join(&mut self, part: Self) -> Result<(), HeaderError> {
        let count = self.tensors.len() as u64 + part.tensors.len() as u64;
        if count > tensor::MOST_TENSORS {
            return Err(HeaderError::TooMany {
                what: "tensors",
                count,
                most: tensor::MOST_TENSORS,
            });
        }
        self.tensors.extend(part.tensors);
        self.file_bytes = self.file_bytes.saturating_add(part.file_bytes);
        Ok(())
    }

    /// Whether it is a model, and no adapter, projector or table of importance.
    #[must_use]
    pub fn is_model(&self) -> bool {
        self.general_type
            .as_deref()
            .is_none_or(|kind| kind == "model")
    }

    /// Bytes of all tensors.
    #[must_use]
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes).sum()
    }

    /// Numbers in all tensors.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        let numbers = |tensor: &TensorInfo| tensor.dimensions.iter().product::<u64>();
        self.tensors.iter().map(numbers).sum()
    }

    /// Returns the type of most weights, e.g. `Q4_0`.
    #[must_use]
    pub fn quantization(&self) -> &'static str {
        let file_type = self.metadata.u32("general.file_type");
        file_type.map_or("unknown", quantization_name)
    }

    pub(super) fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}

fn alignment(metadata: &Metadata) -> Result<u64, HeaderError> {
    let key = "general.alignment";
    let alignment = match metadata.get(key) {
        None => DEFAULT_ALIGNMENT,
        Some(Value::U32(alignment)) => *alignment,
        Some(_) => 0,
    };
    if alignment.is_power_of_two() && ALIGNMENTS.contains(&alignment) {
        Ok(alignment.into())
    } else {
        Err(HeaderError::Key {
            key: key.to_owned(),
            why: "is no power of two between 8 and 65536",
        })
    }
}
