//! Makes files out of a sound GGUF that are wrong in one place or several.

use std::fmt::Write as _;

/// Numbers on which arithmetic of sizes breaks.
const HOSTILE: [u64; 20] = [
    0,
    1,
    2,
    3,
    7,
    31,
    255,
    256,
    511,
    513,
    65_535,
    65_536,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];
const FLOATS: [f32; 8] = [
    0.0,
    -0.0,
    -1.0,
    1e-30,
    1e30,
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
];
const TEXTS: [&[u8]; 10] = [
    b"",
    b"\0",
    b"llama",
    b"gpt2",
    b"bert",
    b"t5",
    b"rwkv",
    b"{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
    b"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    b"\xff\xfe",
];
/// Architectures whose tensors are near enough to the shipped model's for something to be built.
const ARCHITECTURES: [&[u8]; 12] = [
    b"llama",
    b"qwen2",
    b"qwen3",
    b"qwen3moe",
    b"gemma3",
    b"gemma4",
    b"olmo2",
    b"phi3",
    b"deepseek2",
    b"granite",
    b"smollm3",
    b"t5",
];
/// Keys of the architecture that the shipped model does not have, and other models do.
const MORE_KEYS: [&str; 36] = [
    "nextn_predict_layers",
    "expert_count",
    "expert_used_count",
    "expert_group_count",
    "expert_group_used_count",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "expert_gating_func",
    "leading_dense_block_count",
    "rope.dimension_count",
    "rope.dimension_count_swa",
    "rope.dimension_sections",
    "rope.freq_base_swa",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_beta_fast",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.key_length_swa",
    "attention.value_length_swa",
    "attention.kv_lora_rank",
    "attention.q_lora_rank",
    "attention.causal",
    "attention.scale",
    "attention.layer_norm_epsilon",
    "attention.max_alibi_bias",
    "attention.shared_kv_layers",
    "pooling_type",
    "classifier.output_labels",
    "ssm.conv_kernel",
    "ssm.state_size",
    "embedding_length_out",
    "final_logit_softcapping",
    "attn_logit_softcapping",
];
const TOKENIZER_KEYS: [&str; 22] = [
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.seperator_token_id",
    "tokenizer.ggml.mask_token_id",
    "tokenizer.ggml.fim_pre_token_id",
    "tokenizer.ggml.fim_suf_token_id",
    "tokenizer.ggml.fim_rep_token_id",
    "tokenizer.ggml.suppress_tokens",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type_count",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_sep_token",
    "tokenizer.ggml.add_space_prefix",
    "tokenizer.ggml.remove_extra_whitespaces",
    "tokenizer.ggml.precompiled_charsmap",
    "tokenizer.ggml.normalizer.lowercase",
    "general.alignment",
    "general.type",
    "split.count",
    "split.no",
];

/// A pair of the metadata: the key, and the value's type and bytes.
#[derive(Clone)]
struct Pair {
    key: Vec<u8>,
    kind: u32,
    value: Vec<u8>,
}

#[derive(Clone)]
struct Tensor {
    name: Vec<u8>,
    dimensions: Vec<u64>,
    kind: u32,
    offset: u64,
}

/// A sound GGUF, taken apart.
#[derive(Clone)]
pub(crate) struct Mutator {
    pairs: Vec<Pair>,
    tensors: Vec<Tensor>,
    data: Vec<u8>,
}

const TEXT: u32 = 8;
const LIST: u32 = 9;

/// A small generator: the same numbers from the same seed, everywhere (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("small")
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A hostile number, one near what was there, or any.
    fn number(&mut self, now: u64) -> u64 {
        match self.below(4) {
            0 | 1 => self.of(&HOSTILE),
            2 => now.wrapping_add(self.next() % 9).wrapping_sub(4),
            _ => now ^ (1 << self.below(32)),
        }
    }
}

impl Mutator {
    /// Takes a sound file apart.
    pub(crate) fn of(file: &[u8]) -> Self {
        let mut reader = Reader { bytes: file, at: 8 };
        let (tensors, pairs) = (reader.u64(), reader.u64());
        let pairs = (0..pairs).map(|_| reader.pair()).collect();
        let tensors = (0..tensors).map(|_| reader.tensor()).collect();
        Self {
            pairs,
            tensors,
            data: file[reader.at.next_multiple_of(32)..].to_vec(),
        }
    }

    /// The file as it was.
    pub(crate) fn unchanged(&self) -> Vec<u8> {
        let mut file = self.header();
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(&self.data);
        file
    }

    /// Returns what was changed, and the file.
    pub(crate) fn mutant(&self, seed: u64) -> (String, Vec<u8>) {
        let mut random = Random(seed);
        let mut changed = self.clone();
        let mut what = String::new();
        // Most mutants are wrong in one place, so that what is behind it is reached.
        for _ in 0..=random.below(4) / 3 {
            let change = match random.below(16) {
                0..=4 => changed.change_number(&mut random),
                5 => changed.change_text(&mut random),
                6 | 7 => changed.add_key(&mut random),
                8 => changed.change_list(&mut random),
                9 => changed.take_away(&mut random),
                10 => changed.swap(&mut random),
                11 => changed.change_type(&mut random),
                12 => changed.change_tensor(&mut random),
                13 => changed.rename(&mut random),
                14 => return changed.with_flipped_bits(&mut random),
                _ => return changed.cut_off(&mut random),
            };
            let _ = write!(what, "{change}; ");
        }
        (what, changed.unchanged())
    }

    fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3_u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for pair in &self.pairs {
            out.extend(text(&pair.key));
            out.extend(pair.kind.to_le_bytes());
            out.extend(&pair.value);
        }
        for tensor in &self.tensors {
            out.extend(text(&tensor.name));
            let count = u32::try_from(tensor.dimensions.len()).expect("few");
            out.extend(count.to_le_bytes());
            for numbers in &tensor.dimensions {
                out.extend(numbers.to_le_bytes());
            }
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out
    }

    /// One of the pairs of these types.
    fn pair_of(&mut self, random: &mut Random, kinds: &[u32]) -> &mut Pair {
        let places: Vec<usize> = (0..self.pairs.len())
            .filter(|place| kinds.contains(&self.pairs[*place].kind))
            .collect();
        let place = random.of(&places);
        &mut self.pairs[place]
    }

    fn change_number(&mut self, random: &mut Random) -> String {
        let pair = self.pair_of(random, &[4, 6, 7]);
        let key = String::from_utf8_lossy(&pair.key).into_owned();
        pair.value = match pair.kind {
            4 => {
                let now = u32::from_le_bytes(pair.value[..4].try_into().expect("four"));
                let number = random.number(now.into()).to_le_bytes();
                number[..4].to_vec()
            }
            6 => random.of(&FLOATS).to_le_bytes().to_vec(),
            _ => vec![random.next().to_le_bytes()[0]],
        };
        format!("{key} is {:?}", pair.value)
    }

    fn change_text(&mut self, random: &mut Random) -> String {
        let pair = self.pair_of(random, &[TEXT]);
        let key = String::from_utf8_lossy(&pair.key).into_owned();
        let value = if key == "general.architecture" {
            random.of(&ARCHITECTURES)
        } else {
            random.of(&TEXTS)
        };
        pair.value = text(value);
        if key == "general.architecture" {
            let old = b"qwen3.";
            for pair in &mut self.pairs {
                if let Some(rest) = pair.key.strip_prefix(old) {
                    pair.key = [value, b".", rest].concat();
                }
            }
        }
        format!("{key} is {:?}", String::from_utf8_lossy(value))
    }

    fn add_key(&mut self, random: &mut Random) -> String {
        let key = if random.below(3) > 0 {
            format!("qwen3.{}", random.of(&MORE_KEYS))
        } else {
            random.of(&TOKENIZER_KEYS).to_owned()
        };
        let kind = random.of(&[4, 4, 4, 6, 7, 2, TEXT, LIST]);
        let value = match kind {
            2 => random.number(2).to_le_bytes()[..2].to_vec(),
            6 => random.of(&FLOATS).to_le_bytes().to_vec(),
            7 => vec![1],
            TEXT => text(random.of(&TEXTS)),
            LIST => {
                let entry = random.of(&[0_u32, 4, 5, 6, 7]);
                let count = random.of(&[0_u64, 1, 4, 5, 2136]);
                let size = if matches!(entry, 0 | 7) { 1 } else { 4 };
                let numbers = (0..count * size).map(|_| random.next().to_le_bytes()[0] % 8);
                let numbers: Vec<u8> = numbers.collect();
                [&entry.to_le_bytes()[..], &count.to_le_bytes(), &numbers].concat()
            }
            _ => random.number(2).to_le_bytes()[..4].to_vec(),
        };
        self.pairs.retain(|pair| pair.key != key.as_bytes());
        let what = format!("{key} of type {kind} is there");
        self.pairs.push(Pair {
            key: key.into_bytes(),
            kind,
            value,
        });
        what
    }

    /// The type, the length or an entry of a list.
    fn change_list(&mut self, random: &mut Random) -> String {
        let pair = self.pair_of(random, &[LIST]);
        let key = String::from_utf8_lossy(&pair.key).into_owned();
        let place = random.below(3);
        match place {
            0 => {
                let entry = random.next() % 14;
                pair.value[..4].copy_from_slice(&entry.to_le_bytes()[..4]);
            }
            1 => {
                let now = u64::from_le_bytes(pair.value[4..12].try_into().expect("eight"));
                let count = random.number(now);
                pair.value[4..12].copy_from_slice(&count.to_le_bytes());
            }
            _ => {
                for _ in 0..=random.below(8) {
                    let at = 12 + random.below(pair.value.len() - 12);
                    pair.value[at] ^= 1 << random.below(8);
                }
            }
        }
        format!("{key} is another list ({place})")
    }

    fn take_away(&mut self, random: &mut Random) -> String {
        if random.below(4) == 0 {
            let place = random.below(self.tensors.len());
            let tensor = self.tensors.remove(place);
            return format!("no {}", String::from_utf8_lossy(&tensor.name));
        }
        let place = random.below(self.pairs.len());
        let pair = self.pairs.remove(place);
        format!("no {}", String::from_utf8_lossy(&pair.key))
    }

    /// Two keys have each other's values.
    fn swap(&mut self, random: &mut Random) -> String {
        let [one, other] = [
            random.below(self.pairs.len()),
            random.below(self.pairs.len()),
        ];
        let key = self.pairs[one].key.clone();
        self.pairs[one].key = std::mem::replace(&mut self.pairs[other].key, key);
        format!("keys {one} and {other} are swapped")
    }

    fn change_type(&mut self, random: &mut Random) -> String {
        let pair = {
            let place = random.below(self.pairs.len());
            &mut self.pairs[place]
        };
        let kind = random.next() % 15;
        pair.kind = u32::try_from(kind).expect("small");
        format!("{} is of type {kind}", String::from_utf8_lossy(&pair.key))
    }

    fn change_tensor(&mut self, random: &mut Random) -> String {
        let place = random.below(self.tensors.len());
        let tensor = &mut self.tensors[place];
        let name = String::from_utf8_lossy(&tensor.name).into_owned();
        match random.below(5) {
            0 => {
                let place = random.below(tensor.dimensions.len());
                tensor.dimensions[place] = random.number(tensor.dimensions[place]);
            }
            1 => tensor.dimensions.reverse(),
            2 => tensor.offset = random.number(tensor.offset),
            // Of the same size, so that nothing else is wrong.
            3 if tensor.kind == 0 => tensor.kind = 26,
            _ => tensor.kind = u32::try_from(random.next() % 44).expect("small"),
        }
        format!("{name} is another tensor")
    }

    fn rename(&mut self, random: &mut Random) -> String {
        let [one, other] = [
            random.below(self.tensors.len()),
            random.below(self.tensors.len()),
        ];
        let name = self.tensors[one].name.clone();
        self.tensors[one].name = std::mem::replace(&mut self.tensors[other].name, name);
        format!("tensors {one} and {other} have each other's names")
    }

    fn with_flipped_bits(&self, random: &mut Random) -> (String, Vec<u8>) {
        let header = self.header().len();
        let mut file = self.unchanged();
        let count = 1 + random.below(4);
        for _ in 0..count {
            // Most of a header is vocabulary: the numbers before and behind it are as interesting.
            let at = match random.below(3) {
                0 => random.below(1200),
                1 => header - 1 - random.below(4000),
                _ => random.below(header),
            };
            file[at] ^= 1 << random.below(8);
        }
        (format!("{count} bits of the header"), file)
    }

    fn cut_off(&self, random: &mut Random) -> (String, Vec<u8>) {
        let header = self.header().len();
        let mut file = self.unchanged();
        let bound = if random.below(2) == 0 {
            header
        } else {
            file.len()
        };
        let length = random.below(bound);
        file.truncate(length);
        (format!("cut off at {length}"), file)
    }
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes()[..], bytes].concat()
}

/// Of a file that is known to be sound.
struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Vec<u8> {
        self.at += length;
        self.bytes[self.at - length..self.at].to_vec()
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().expect("eight"))
    }

    fn text(&mut self) -> Vec<u8> {
        let length = usize::try_from(self.u64()).expect("a length");
        self.take(length)
    }

    fn pair(&mut self) -> Pair {
        let key = self.text();
        let kind = self.u32();
        let start = self.at;
        self.skip(kind);
        Pair {
            key,
            kind,
            value: self.bytes[start..self.at].to_vec(),
        }
    }

    fn skip(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => self.at += 1,
            2 | 3 => self.at += 2,
            4..=6 => self.at += 4,
            10..=12 => self.at += 8,
            TEXT => drop(self.text()),
            LIST => {
                let entry = self.u32();
                for _ in 0..self.u64() {
                    self.skip(entry);
                }
            }
            other => panic!("GGUF has no type {other}"),
        }
    }

    fn tensor(&mut self) -> Tensor {
        let name = self.text();
        let count = self.u32();
        Tensor {
            name,
            dimensions: (0..count).map(|_| self.u64()).collect(),
            kind: self.u32(),
            offset: self.u64(),
        }
    }
}
