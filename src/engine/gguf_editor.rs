//! The shipped model with other metadata, for tests of what other files can hold.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use super::{LoadError, Tokenizer, load_model};

/// The model that ships.
pub(super) const KIOSK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");

/// GGUF's numbers of value types.
const U16: u32 = 2;
#[cfg(test)]
const U32: u32 = 4;
const I32: u32 = 5;
#[cfg(test)]
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A GGUF and the values that replace its own or are added to them.
pub(super) struct GgufEditor {
    original: Vec<u8>,
    /// By key: a value with its type in front; none takes the key away.
    values: BTreeMap<String, Option<Vec<u8>>>,
    /// Nothing of the original is kept but the version of the format.
    bare: bool,
}

impl GgufEditor {
    pub(super) fn kiosk() -> Self {
        Self {
            original: fs::read(KIOSK).expect("the shipped model"),
            values: BTreeMap::new(),
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
        let model = load_model(&path, &Arc::default());
        // What is loaded is mapped, and needs no name.
        fs::remove_file(&path).expect("removed");
        model.map(|(_, tokenizer)| tokenizer)
    }

    pub(super) fn write(mut self, path: &Path) {
        const ALIGNMENT: usize = 32;
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
        let start = reader.at;
        for _ in 0..tensors {
            reader.string();
            let dimensions = reader.u32() as usize;
            reader.at += 8 * dimensions + 4 + 8;
        }
        let kept = if self.bare { 0 } else { tensors };
        let mut out = self.original[..8].to_vec();
        out.extend(kept.to_le_bytes());
        out.extend(u64::to_le_bytes(count));
        out.extend(pairs);
        if kept > 0 {
            out.extend(&self.original[start..reader.at]);
        }
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        if kept > 0 {
            out.extend(&self.original[reader.at.next_multiple_of(ALIGNMENT)..]);
        }
        fs::write(path, out).expect("written");
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
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
