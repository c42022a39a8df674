//! The dimensions of a model, as its header says them.

use std::ops::RangeInclusive;

use super::model_faults::ModelFault;
use super::{GgufHeader, Value};

/// `LLAMA_MAX_LAYERS` and `LLAMA_MAX_EXPERTS`.
const LAYERS: RangeInclusive<u32> = 1..=512;
const MOST_EXPERTS: u32 = 1024;
/// Several times what the largest models have: products of some of them fit into 64 bits.
const EMBEDDING: RangeInclusive<u32> = 1..=1 << 18;
const MOST_HEADS: u32 = 1 << 14;
const HEAD_WIDTH: RangeInclusive<u32> = 1..=1 << 14;
const MOST_FEED_FORWARD: u32 = 1 << 22;
const MOST_CONTEXT: u32 = 1 << 30;
/// llama.cpp multiplies it with up to 256 sequences, in 32 bits.
const MOST_WINDOW: u32 = 1 << 23;
/// What [`GgufHeader::recurrent_state`] multiplies.
const MOST_STATE: u32 = 1 << 20;

/// The dimensions of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct Hyperparameters {
    pub(in crate::engine) layers: u32,
    pub(in crate::engine) embedding: u32,
    /// Tokens of the longest text that the model was trained on.
    pub(in crate::engine) context: u32,
    /// Heads of each layer; 0 where a layer has no attention.
    pub(in crate::engine) heads: Vec<u32>,
    pub(in crate::engine) kv_heads: Vec<u32>,
    pub(in crate::engine) key_length: u32,
    pub(in crate::engine) value_length: u32,
    /// The widest one of all layers.
    pub(in crate::engine) feed_forward: u32,
    pub(in crate::engine) experts_used: u32,
    /// Whether some layers look back no further than so many tokens.
    pub(in crate::engine) has_window: bool,
    /// Whether keys and values are stored in a compressed form.
    pub(in crate::engine) is_latent: bool,
    /// Numbers that a sequence keeps in each recurrent layer; 0 where there are none.
    pub(in crate::engine) state: u64,
}

impl Hyperparameters {
    /// Reads them, and refuses those on which llama.cpp would end the process
    /// (`llama_model_base::load_hparams`).
    pub(in crate::engine) fn read(header: &GgufHeader) -> Result<Self, ModelFault> {
        let keys = ModelKeys::of(header)?;
        let layers = keys.required("block_count", LAYERS)?;
        let embedding = keys.required("embedding_length", EMBEDDING)?;
        let context = keys.required("context_length", 1..=MOST_CONTEXT)?;
        keys.number("nextn_predict_layers", 0..=layers - 1)?;
        let heads = keys.each_layer("attention.head_count", layers, MOST_HEADS)?;
        let heads = heads.unwrap_or_else(|| vec![0; layers as usize]);
        let kv_heads = keys.each_layer("attention.head_count_kv", layers, MOST_HEADS)?;
        let kv_heads = kv_heads.unwrap_or_else(|| heads.clone());
        if let Some((heads, kv_heads)) = heads
            .iter()
            .zip(&kv_heads)
            .find(|(heads, kv_heads)| **kv_heads > 0 && **heads % **kv_heads != 0)
        {
            return Err(keys.fault(
                "attention.head_count_kv",
                format_args!("is {kv_heads}, which does not divide the {heads} heads"),
            ));
        }
        let width = keys.head_width(embedding, heads[0])?;
        let length = |key| Ok(keys.number(key, HEAD_WIDTH)?.unwrap_or(width));
        let (key_length, value_length) = (
            length("attention.key_length")?,
            length("attention.value_length")?,
        );
        let widest = |key: &str, other| Ok(keys.number(key, HEAD_WIDTH)?.unwrap_or(other));
        let key_length_swa = widest("attention.key_length_swa", key_length)?;
        let value_length_swa = widest("attention.value_length_swa", value_length)?;
        keys.rotated("rope.dimension_count", key_length)?;
        keys.rotated("rope.dimension_count_swa", key_length_swa)?;
        let window = keys.number("attention.sliding_window", 0..=MOST_WINDOW)?;
        let feed_forward = keys.each_layer("feed_forward_length", layers, MOST_FEED_FORWARD)?;
        Ok(Self {
            layers,
            embedding,
            context,
            experts_used: keys.experts(layers)?,
            heads,
            kv_heads,
            key_length: key_length.max(key_length_swa),
            value_length: value_length.max(value_length_swa),
            feed_forward: feed_forward.into_iter().flatten().max().unwrap_or_default(),
            has_window: window.is_some_and(|tokens| tokens > 0),
            is_latent: keys
                .number("attention.kv_lora_rank", 0..=u32::MAX)?
                .is_some(),
            state: keys.recurrent_state(embedding)?,
        })
    }

    /// The most heads of a layer.
    pub(in crate::engine) fn most_heads(&self) -> u32 {
        self.heads.iter().copied().max().unwrap_or_default()
    }

    /// Bytes of the keys and values of one token in all layers, in 16 bits.
    pub(in crate::engine) fn cell_bytes(&self) -> u64 {
        const BYTES: u64 = 2;
        let heads: u64 = self.kv_heads.iter().map(|heads| u64::from(*heads)).sum();
        heads * u64::from(self.key_length + self.value_length) * BYTES
    }

    /// Whether every token of a sequence has a cell of its own in every layer, and all alike: a cache of so many
    /// cells takes what [`cell_bytes`](Self::cell_bytes) says, and a sequence can share its beginning.
    pub(in crate::engine) fn has_plain_cells(&self) -> bool {
        let is_even = self.kv_heads.windows(2).all(|pair| pair[0] == pair[1]);
        is_even && !self.has_window && !self.is_latent && self.state == 0
    }
}

/// The keys that begin with the name of the architecture.
struct ModelKeys<'h> {
    header: &'h GgufHeader,
    architecture: &'h str,
}

impl<'h> ModelKeys<'h> {
    fn of(header: &'h GgufHeader) -> Result<Self, ModelFault> {
        let architecture = header.architecture.as_str();
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if architecture.is_empty() || architecture.len() > 64 || !architecture.bytes().all(is_name)
        {
            return Err(ModelFault::new(
                "it does not say its architecture (`general.architecture`)",
            ));
        }
        Ok(Self {
            header,
            architecture,
        })
    }

    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn get(&self, key: &str) -> Option<&'h Value> {
        self.header.metadata.get(&self.name(key))
    }

    fn fault(&self, key: &str, why: std::fmt::Arguments) -> ModelFault {
        ModelFault::new(format!("`{}` {why}", self.name(key)))
    }

    fn within(
        &self,
        key: &str,
        number: u32,
        bounds: &RangeInclusive<u32>,
    ) -> Result<u32, ModelFault> {
        if bounds.contains(&number) {
            return Ok(number);
        }
        let (least, most) = (bounds.start(), bounds.end());
        Err(self.fault(
            key,
            format_args!("is {number}, and must be from {least} to {most}"),
        ))
    }

    /// A number that may be missing.
    fn number(&self, key: &str, bounds: RangeInclusive<u32>) -> Result<Option<u32>, ModelFault> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::U32(number)) => self.within(key, *number, &bounds).map(Some),
            Some(_) => Err(self.fault(key, format_args!("is no unsigned 32-bit number"))),
        }
    }

    fn required(&self, key: &str, bounds: RangeInclusive<u32>) -> Result<u32, ModelFault> {
        let number = self.number(key, bounds)?;
        number.ok_or_else(|| self.fault(key, format_args!("is missing")))
    }

    /// A number for each layer, or one for all.
    fn each_layer(
        &self,
        key: &str,
        layers: u32,
        most: u32,
    ) -> Result<Option<Vec<u32>>, ModelFault> {
        let numbers = match self.get(key) {
            None => return Ok(None),
            Some(Value::U32(number)) => vec![*number; layers as usize],
            Some(Value::U32s(numbers)) => numbers.clone(),
            // A number below zero is a huge one, as llama.cpp reads it.
            Some(Value::I32s(numbers)) => numbers.iter().map(|n| n.cast_unsigned()).collect(),
            Some(_) => {
                return Err(self.fault(key, format_args!("is no number, and no list of numbers")));
            }
        };
        if numbers.len() != layers as usize {
            let count = numbers.len();
            return Err(self.fault(
                key,
                format_args!("is a list of {count} numbers for {layers} layers"),
            ));
        }
        for number in &numbers {
            self.within(key, *number, &(0..=most))?;
        }
        Ok(Some(numbers))
    }

    /// Numbers of a head where no key says it.
    fn head_width(&self, embedding: u32, heads: u32) -> Result<u32, ModelFault> {
        let is_given = ["attention.key_length", "attention.value_length"]
            .iter()
            .all(|key| self.get(key).is_some());
        match (heads, is_given) {
            (0, _) => Ok(0),
            (_, false) if !embedding.is_multiple_of(heads) => Err(self.fault(
                "attention.head_count",
                format_args!("is {heads}, which does not divide the embedding of {embedding}"),
            )),
            _ => Ok(embedding / heads),
        }
    }

    /// The numbers of a head that are rotated, in pairs.
    fn rotated(&self, key: &str, width: u32) -> Result<(), ModelFault> {
        match self.number(key, 0..=u32::MAX)? {
            Some(count) if count % 2 != 0 || (width > 0 && count > width) => Err(self.fault(
                key,
                format_args!("is {count}, and must be even and no more than {width}"),
            )),
            _ => Ok(()),
        }
    }

    /// Experts that compute a token at most.
    fn experts(&self, layers: u32) -> Result<u32, ModelFault> {
        let experts = self.number("expert_count", 0..=MOST_EXPERTS)?.unwrap_or(0);
        let used = self.each_layer("expert_used_count", layers, experts)?;
        let used = used.into_iter().flatten().max().unwrap_or(0);
        if (experts > 0) != (used > 0) {
            return Err(self.fault(
                "expert_used_count",
                format_args!("is {used} of {experts} experts"),
            ));
        }
        let groups = self
            .number("expert_group_count", 0..=MOST_EXPERTS)?
            .unwrap_or(0);
        if groups > 0 && (groups >= experts || !experts.is_multiple_of(groups)) {
            return Err(self.fault(
                "expert_group_count",
                format_args!("is {groups}, which does not divide {experts} experts"),
            ));
        }
        let used_groups = self.number("expert_group_used_count", 0..=MOST_EXPERTS)?;
        if groups > 1 && !(1..groups).contains(&used_groups.unwrap_or(0)) {
            return Err(self.fault(
                "expert_group_used_count",
                format_args!("must be from 1 to less than the {groups} groups"),
            ));
        }
        Ok(used)
    }

    /// What a sequence keeps in a recurrent layer (`llama_hparams::n_embd_r` and `n_embd_s`).
    fn recurrent_state(&self, embedding: u32) -> Result<u64, ModelFault> {
        let number = |key| {
            let number = self.number(key, 0..=MOST_STATE)?;
            Ok::<_, ModelFault>(u64::from(number.unwrap_or(0)))
        };
        let embedding = u64::from(embedding);
        let (inner, state) = (number("ssm.inner_size")?, number("ssm.state_size")?);
        let convolution = number("ssm.conv_kernel")?;
        let groups = number("ssm.group_count")?;
        let ssm = convolution * (inner + 2 * groups * state) + state * inner;
        let wkv = embedding * number("wkv.head_size")?;
        let shift = if wkv > 0 { 2 * embedding } else { 0 };
        let short = embedding * number("shortconv.l_cache")?;
        let head = number("kda.head_dim")?;
        Ok(ssm + wkv + shift + short + head * head * 128)
    }
}
