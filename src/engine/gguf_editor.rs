//! The shipped model with other metadata, for tests of what other files can hold.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use super::{LoadError, LoadWatch, Tokenizer, load_model};

/// The model that ships.
pub(super) const KIOSK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");

/// GGUF's numbers of value types.
const U16: u32 = 2;
#[cfg(test)]
const U32: u32 = 4;
const I32: u32 = 5;
#[cfg(test)]
const F32: u32 = 6;
#[cfg(test)]
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Where data of tensors begin.
const ALIGNMENT: usize = 32;

/// A GGUF and the values that replace its own or are added to them.
pub(super) struct GgufEditor {
    original: Vec<u8>,
    /// By key: a value with its type in front; none takes the key away.
    values: BTreeMap<String, Option<Vec<u8>>>,
    tensors: BTreeMap<String, Tensor>,
    /// Nothing of the original is kept but the version of the format.
    bare: bool,
}

impl GgufEditor {
    pub(super) fn kiosk() -> Self {
        Self {
            original: fs::read(KIOSK).expect("the shipped model"),
            values: BTreeMap::new(),
            tensors: BTreeMap::new(),
            bare: false,
        }
    }

    /// A file without tensors, and with no other metadata than what is added.
    #[cfg(test)]
    pub(super) fn bare() -> Self {
        Self {
            bare: true,
            ..Self::kiosk()
        }
    }

    fn value(mut self, key: &str, kind: u32, bytes: &[u8]) -> Self {
        let value = [&kind.to_le_bytes(), bytes].concat();
        self.values.insert(key.to_owned(), Some(value));
        self
    }

    pub(super) fn text(self, key: &str, text: &str) -> Self {
        self.value(key, STRING, &string(text))
    }

    #[cfg(test)]
    pub(super) fn u16(self, key: &str, number: u16) -> Self {
        self.value(key, U16, &number.to_le_bytes())
    }

    #[cfg(test)]
    pub(super) fn i32(self, key: &str, number: i32) -> Self {
        self.value(key, I32, &number.to_le_bytes())
    }

    #[cfg(test)]
    pub(super) fn u32(self, key: &str, number: u32) -> Self {
        self.value(key, U32, &number.to_le_bytes())
    }

    #[cfg(test)]
    pub(super) fn f32(self, key: &str, number: f32) -> Self {
        self.value(key, F32, &number.to_le_bytes())
    }

    /// Adds a tensor of 32-bit numbers, or replaces the original's of this name.
    #[cfg(test)]
    pub(super) fn tensor(self, name: &str, shape: &[usize], numbers: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), numbers.len(), "{name}");
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes());
        self.tensor_of_type(name, shape, 0, bytes.collect())
    }

    /// The same with numbers of another of ggml's types.
    #[cfg(test)]
    pub(super) fn tensor_of_type(
        mut self,
        name: &str,
        shape: &[usize],
        kind: u32,
        bytes: Vec<u8>,
    ) -> Self {
        let shape = shape.iter().map(|length| *length as u64).collect();
        let tensor = Tensor { shape, kind, bytes };
        self.tensors.insert(name.to_owned(), tensor);
        self
    }

    /// The tensors of the original that have ggml's type `Q8_0` (blocks of a 16-bit scale and 32 bytes):
    /// name, shape and numbers.
    #[cfg(test)]
    pub(super) fn dequantized(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        const Q8_0: u32 = 8;
        let mut reader = GgufReader {
            bytes: &self.original,
            at: 4 + 4,
        };
        let (tensors, keys) = (reader.u64(), reader.u64());
        for _ in 0..keys {
            reader.string();
            let kind = reader.u32();
            reader.skip(kind);
        }
        let entries: Vec<TensorEntry> = (0..tensors).map(|_| reader.tensor()).collect();
        let data = &self.original[reader.at.next_multiple_of(ALIGNMENT)..];
        let block = |block: &[u8]| {
            let scale = half(u16::from_le_bytes([block[0], block[1]]));
            let number = |byte: &u8| f32::from(byte.cast_signed()) * scale;
            block[2..].iter().map(number).collect::<Vec<f32>>()
        };
        let quantized = entries.into_iter().filter(|entry| entry.kind == Q8_0);
        let dequantized = quantized.map(|entry| {
            let shape = entry.shape.iter().map(|length| usize::try_from(*length));
            let shape: Vec<usize> = shape.collect::<Result<_, _>>().expect("small");
            let blocks = data[entry.offset..].chunks_exact(2 + 32);
            let blocks = blocks.take(shape.iter().product::<usize>() / 32);
            (entry.name, shape, blocks.flat_map(block).collect())
        });
        dequantized.collect()
    }

    #[cfg(test)]
    pub(super) fn flag(self, key: &str, on: bool) -> Self {
        self.value(key, BOOL, &[on.into()])
    }

    #[cfg(test)]
    pub(super) fn texts(self, key: &str, texts: &[String]) -> Self {
        let entries: Vec<u8> = texts.iter().flat_map(|text| string(text)).collect();
        self.list(key, STRING, texts.len(), &entries)
    }

    #[cfg(test)]
    pub(super) fn numbers(self, key: &str, numbers: &[i32]) -> Self {
        let entries: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.list(key, I32, numbers.len(), &entries)
    }

    #[cfg(test)]
    pub(super) fn bytes(self, key: &str, bytes: &[u8]) -> Self {
        self.list(key, 0, bytes.len(), bytes)
    }

    #[cfg(test)]
    fn list(self, key: &str, kind: u32, count: usize, entries: &[u8]) -> Self {
        let head = [&kind.to_le_bytes()[..], &(count as u64).to_le_bytes()].concat();
        self.value(key, ARRAY, &[&head, entries].concat())
    }

    #[cfg(test)]
    pub(super) fn without(mut self, key: &str) -> Self {
        self.values.insert(key.to_owned(), None);
        self
    }

    pub(super) fn load(self) -> Result<Tokenizer, LoadError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        super::route_logs();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("edgellm-{}-{number}.gguf", process::id()));
        self.write(&path);
        let model = load_model(&path, &LoadWatch::default());
        // What is loaded is mapped, and needs no name.
        fs::remove_file(&path).expect("removed");
        model.map(|(_, tokenizer)| tokenizer)
    }

    pub(super) fn write(mut self, path: &Path) {
        let mut reader = GgufReader {
            bytes: &self.original,
            at: 4 + 4,
        };
        let tensors = reader.u64();
        let keys = reader.u64();
        let mut pairs = Vec::new();
        let mut count = 0;
        for _ in 0..keys {
            let start = reader.at;
            let key = reader.string();
            let kind = reader.u32();
            reader.skip(kind);
            if !self.bare && !self.values.contains_key(&key) {
                pairs.extend(&self.original[start..reader.at]);
                count += 1;
            }
        }
        for (key, value) in std::mem::take(&mut self.values) {
            if let Some(value) = value {
                pairs.extend(string(&key));
                pairs.extend(value);
                count += 1;
            }
        }
        let originals: Vec<TensorEntry> = (0..tensors).map(|_| reader.tensor()).collect();
        let data = &self.original[reader.at.next_multiple_of(ALIGNMENT)..];
        let mut entries: Vec<(TensorEntry, &[u8])> = Vec::new();
        for (index, entry) in originals.iter().enumerate() {
            if self.bare || self.tensors.contains_key(&entry.name) {
                continue;
            }
            let next = originals.get(index + 1);
            let end = next.map_or(data.len(), |next| next.offset);
            entries.push((entry.clone(), &data[entry.offset..end]));
        }
        for (name, tensor) in &self.tensors {
            let entry = TensorEntry {
                name: name.clone(),
                shape: tensor.shape.clone(),
                kind: tensor.kind,
                offset: 0,
            };
            entries.push((entry, &tensor.bytes));
        }
        let mut out = self.original[..8].to_vec();
        out.extend((entries.len() as u64).to_le_bytes());
        out.extend(u64::to_le_bytes(count));
        out.extend(pairs);
        let mut offset = 0;
        for (entry, bytes) in &entries {
            out.extend(string(&entry.name));
            out.extend(u32::try_from(entry.shape.len()).expect("few").to_le_bytes());
            out.extend(entry.shape.iter().flat_map(|length| length.to_le_bytes()));
            out.extend(entry.kind.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset += bytes.len().next_multiple_of(ALIGNMENT);
        }
        for (_, bytes) in entries {
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
            out.extend(bytes);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        fs::write(path, out).expect("written");
    }
}

/// A tensor that replaces one of the original's or is added.
struct Tensor {
    shape: Vec<u64>,
    kind: u32,
    bytes: Vec<u8>,
}

/// What a GGUF says of a tensor.
#[derive(Clone)]
struct TensorEntry {
    name: String,
    shape: Vec<u64>,
    kind: u32,
    /// From the beginning of all data.
    offset: usize,
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A finite 16-bit floating point number.
#[cfg(test)]
fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (bits >> 15, bits >> 10 & 0x1f, bits & 0x3ff);
    let bits =
        u32::from(sign) << 31 | (u32::from(exponent) + 112) << 23 | u32::from(fraction) << 13;
    if exponent == 0 {
        f32::from(fraction) * if sign == 0 { 1.0 } else { -1.0 } / 16_777_216.0
    } else {
        f32::from_bits(bits)
    }
}

struct GgufReader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl GgufReader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.bytes[self.at - N..self.at]
            .try_into()
            .expect("N bytes")
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn string(&mut self) -> String {
        let length = usize::try_from(self.u64()).expect("a length");
        self.at += length;
        let bytes = &self.bytes[self.at - length..self.at];
        String::from_utf8_lossy(bytes).into_owned()
    }

    fn tensor(&mut self) -> TensorEntry {
        let name = self.string();
        let dimensions = self.u32();
        TensorEntry {
            name,
            shape: (0..dimensions).map(|_| self.u64()).collect(),
            kind: self.u32(),
            offset: usize::try_from(self.u64()).expect("an offset"),
        }
    }

    fn skip(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => self.at += 1,
            U16 | 3 => self.at += 2,
            4 | I32 | 6 => self.at += 4,
            10..=12 => self.at += 8,
            STRING => drop(self.string()),
            ARRAY => {
                let entry = self.u32();
                for _ in 0..self.u64() {
                    self.skip(entry);
                }
            }
            other => panic!("GGUF has no type {other}"),
        }
    }
}
