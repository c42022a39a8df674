//! The values of a header's keys.

use std::collections::HashMap;
use std::io::Read;

use super::HeaderError;
use super::reader::HeaderReader;

/// Keys of a file; those of models have fewer than a hundred.
const MOST_KEYS: u64 = 16_384;
const LONGEST_KEY: u64 = 1024;
/// Bytes of one text. Some files hold the whole `tokenizer.json` of Hugging Face, of up to 30 MB.
const LONGEST_TEXT: u64 = 64 << 20;
/// Texts in all lists of a file. llama.cpp takes a hundred bytes and more for each; the largest vocabularies
/// have 260,000 tokens and twice as many merges.
const MOST_TEXTS: u64 = 4 << 20;
/// A text takes at least its length.
const LEAST_TEXT_BYTES: u64 = 8;

/// The keys and values of a header.
#[derive(Debug, Default)]
pub(in crate::engine) struct Metadata(HashMap<String, Value>);

/// A value. Lists that nobody reads are left out but for their length.
#[derive(Debug, PartialEq)]
pub(in crate::engine) enum Value {
    U16(u16),
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(Vec<u8>),
    Bytes(Vec<u8>),
    Bools(Vec<u8>),
    U32s(Vec<u32>),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Texts(TextList),
    /// A number of a type that no key of a model has.
    OtherNumber,
    OtherList,
}

/// Many texts in one allocation.
#[derive(Debug, Default, PartialEq)]
pub(in crate::engine) struct TextList {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl TextList {
    pub(in crate::engine) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The texts as C sees them: up to their first zero.
    pub(in crate::engine) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| {
            let text = &self.bytes[start as usize..end as usize];
            as_c_sees(text)
        })
    }
}

fn as_c_sees(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// GGUF's types of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    List,
    U64,
    I64,
    F64,
}

impl ValueType {
    fn of(number: u32, key: &str) -> Result<Self, HeaderError> {
        Ok(match number {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::Text,
            9 => Self::List,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => {
                return Err(HeaderError::Key {
                    key: key.to_owned(),
                    why: "has a type that GGUF does not know",
                });
            }
        })
    }

    /// Bytes of a value that has the same number of them always.
    fn bytes(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::Text | Self::List => None,
        }
    }
}

impl Metadata {
    /// Reads so many keys with their values.
    pub(super) fn read<R: Read>(
        reader: &mut HeaderReader<R>,
        count: u64,
    ) -> Result<Self, HeaderError> {
        if count > MOST_KEYS {
            return Err(HeaderError::TooMany {
                what: "keys",
                count,
                most: MOST_KEYS,
            });
        }
        let mut values = HashMap::new();
        let mut texts = 0;
        for _ in 0..count {
            let key = read_name(reader, LONGEST_KEY, "a key of its metadata")?;
            let value = read_value(reader, &key, &mut texts)?;
            if values.contains_key(&key) {
                return Err(HeaderError::Key {
                    key,
                    why: "is there twice",
                });
            }
            values.insert(key, value);
        }
        Ok(Self(values))
    }

    pub(in crate::engine) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    pub(in crate::engine) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(in crate::engine) fn u16(&self, key: &str) -> Option<u16> {
        match self.get(key)? {
            Value::U16(number) => Some(*number),
            _ => None,
        }
    }

    pub(in crate::engine) fn u32(&self, key: &str) -> Option<u32> {
        match self.get(key)? {
            Value::U32(number) => Some(*number),
            _ => None,
        }
    }

    pub(in crate::engine) fn f32(&self, key: &str) -> Option<f32> {
        match self.get(key)? {
            Value::F32(number) => Some(*number),
            _ => None,
        }
    }

    pub(in crate::engine) fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Value::Bool(on) => Some(*on),
            _ => None,
        }
    }

    /// A text as C sees it: up to its first zero.
    pub(in crate::engine) fn text(&self, key: &str) -> Option<&[u8]> {
        match self.get(key)? {
            Value::Text(text) => Some(as_c_sees(text)),
            _ => None,
        }
    }

    pub(in crate::engine) fn texts(&self, key: &str) -> Option<&TextList> {
        match self.get(key)? {
            Value::Texts(texts) => Some(texts),
            _ => None,
        }
    }

    /// A list of signed 32-bit numbers.
    pub(in crate::engine) fn numbers(&self, key: &str) -> Option<&[i32]> {
        match self.get(key)? {
            Value::I32s(numbers) => Some(numbers),
            _ => None,
        }
    }

    /// A list of bytes, signed or not.
    pub(in crate::engine) fn bytes(&self, key: &str) -> Option<&[u8]> {
        match self.get(key)? {
            Value::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }
}

/// Reads a key or the name of a tensor: llama.cpp prints them and compares them as C does, so they are of
/// printable ASCII.
pub(super) fn read_name<R: Read>(
    reader: &mut HeaderReader<R>,
    most: u64,
    what: &'static str,
) -> Result<String, HeaderError> {
    let name = reader.text(most, what)?;
    let is_sound = !name.is_empty() && name.iter().all(|byte| matches!(byte, b' '..=b'~'));
    String::from_utf8(name)
        .ok()
        .filter(|_| is_sound)
        .ok_or(HeaderError::Name(what))
}

fn read_value<R: Read>(
    reader: &mut HeaderReader<R>,
    key: &str,
    texts: &mut u64,
) -> Result<Value, HeaderError> {
    match ValueType::of(reader.u32()?, key)? {
        ValueType::List => read_list(reader, key, texts),
        ValueType::Text => reader
            .text(LONGEST_TEXT, "a text of its metadata")
            .map(Value::Text),
        ValueType::U16 => Ok(Value::U16(u16::from_le_bytes(reader.array()?))),
        ValueType::U32 => reader.u32().map(Value::U32),
        ValueType::F32 => Ok(Value::F32(f32::from_le_bytes(reader.array()?))),
        ValueType::Bool => Ok(Value::Bool(reader.array::<1>()? != [0])),
        other => {
            reader.skip(other.bytes().unwrap_or_default())?;
            Ok(Value::OtherNumber)
        }
    }
}

fn read_list<R: Read>(
    reader: &mut HeaderReader<R>,
    key: &str,
    texts: &mut u64,
) -> Result<Value, HeaderError> {
    let entry = ValueType::of(reader.u32()?, key)?;
    let count = reader.u64()?;
    let entry_bytes = match entry {
        ValueType::List => {
            return Err(HeaderError::Key {
                key: key.to_owned(),
                why: "is a list of lists, which llama.cpp does not read",
            });
        }
        other => other.bytes().unwrap_or(LEAST_TEXT_BYTES),
    };
    if count > reader.room_for(entry_bytes) {
        return Err(HeaderError::List {
            key: key.to_owned(),
            count,
        });
    }
    Ok(match entry {
        ValueType::Text => {
            *texts += count;
            if *texts > MOST_TEXTS {
                return Err(HeaderError::TooMany {
                    what: "texts in lists",
                    count: *texts,
                    most: MOST_TEXTS,
                });
            }
            Value::Texts(read_texts(reader, count)?)
        }
        ValueType::U8 | ValueType::I8 => Value::Bytes(reader.bytes(count)?),
        ValueType::Bool => Value::Bools(reader.bytes(count)?),
        ValueType::U32 => Value::U32s(read_words(reader, count, u32::from_le_bytes)?),
        ValueType::I32 => Value::I32s(read_words(reader, count, i32::from_le_bytes)?),
        ValueType::F32 => Value::F32s(read_words(reader, count, f32::from_le_bytes)?),
        _ => {
            // No overflow: as many fit into the header.
            reader.skip(count * entry_bytes)?;
            Value::OtherList
        }
    })
}

fn read_words<R: Read, T>(
    reader: &mut HeaderReader<R>,
    count: u64,
    of: fn([u8; 4]) -> T,
) -> Result<Vec<T>, HeaderError> {
    let bytes = reader.bytes(4 * count)?;
    let (words, _) = bytes.as_chunks::<4>();
    Ok(words.iter().map(|word| of(*word)).collect())
}

fn read_texts<R: Read>(reader: &mut HeaderReader<R>, count: u64) -> Result<TextList, HeaderError> {
    let mut list = TextList::default();
    list.ends
        .reserve(usize::try_from(count).unwrap_or_default());
    for _ in 0..count {
        let length = reader.u64()?;
        reader.append(&mut list.bytes, length)?;
        // A header has less than 4 GiB.
        list.ends
            .push(u32::try_from(list.bytes.len()).unwrap_or(u32::MAX));
    }
    Ok(list)
}
