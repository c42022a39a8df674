//! The plain driver: llama.cpp through `llama-cpp-2`, nothing of ours in between. One sequence in one context;
//! the prompt in one go, then a token at a time.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::rc::Rc;

use edgellm::engine::{Attention, Token};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_sys_2::{LLAMA_FLASH_ATTN_TYPE_DISABLED, LLAMA_FLASH_ATTN_TYPE_ENABLED};

/// More than any prompt and answer here.
const CONTEXT: u32 = 2048;
const BATCH: u32 = 512;

/// See the module's text.
pub struct Plain {
    context: LlamaContext<'static>,
    /// What is in the context.
    held: Vec<Token>,
    known: HashMap<Vec<Token>, Rc<[f32]>>,
}

impl Plain {
    /// Of a model that was loaded by edgellm before, which set llama.cpp up.
    pub fn new(path: &Path, attention: Attention) -> Self {
        // Dropping the proof that llama.cpp is set up would tear it down, for edgellm as well; the
        // others live as long as the process, too, which is short.
        let backend: &'static LlamaBackend = Box::leak(Box::new(LlamaBackend {}));
        let model = LlamaModel::load_from_file(backend, path, &LlamaModelParams::default());
        let model: &'static LlamaModel = Box::leak(Box::new(model.expect("a model")));
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(CONTEXT))
            .with_n_batch(BATCH)
            .with_n_ubatch(BATCH)
            .with_n_threads(1)
            .with_n_threads_batch(1)
            .with_flash_attention_policy(match attention {
                Attention::Plain => LLAMA_FLASH_ATTN_TYPE_DISABLED,
                Attention::Flash => LLAMA_FLASH_ATTN_TYPE_ENABLED,
            });
        Self {
            context: model.new_context(backend, params).expect("a context"),
            held: Vec::new(),
            known: HashMap::new(),
        }
    }

    /// The logits behind `beginning`, the first `prompt` tokens of which are a prompt.
    pub fn logits(&mut self, beginning: &[Token], prompt: usize) -> Rc<[f32]> {
        if let Some(known) = self.known.get(beginning) {
            return Rc::clone(known);
        }
        let (_, before) = beginning.split_last().expect("a token");
        if self.held != before || self.held.len() < prompt {
            self.context.clear_kv_cache();
            self.held.clear();
            for chunk in beginning[..prompt].chunks(BATCH as usize) {
                self.decode(chunk);
            }
        }
        for token in &beginning[self.held.len()..] {
            self.decode(&[*token]);
        }
        Rc::clone(&self.known[beginning])
    }

    /// Computes `tokens` behind what there is and notes the logits behind the last one.
    fn decode(&mut self, tokens: &[Token]) {
        let mut batch = LlamaBatch::new(tokens.len(), 1);
        for (index, token) in tokens.iter().enumerate() {
            let position = i32::try_from(self.held.len() + index).expect("small");
            let is_last = index + 1 == tokens.len();
            (batch.add(LlamaToken(token.0), position, &[0], is_last)).expect("there is room");
        }
        self.context.decode(&mut batch).expect("computed");
        self.held.extend(tokens);
        let logits = self.context.get_logits_ith(batch.n_tokens() - 1);
        self.known.insert(self.held.clone(), logits.into());
    }
}
