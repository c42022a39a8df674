//! What turns text into a model's tokens and back.

use std::sync::Arc;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token_type::LlamaTokenAttr;

use super::tokenize::Encoder;
use super::{ModelInfo, Pieces, SpecialKind, SpecialToken, Token, TokenizeOptions, Vocabulary};

/// A model's vocabulary, and what is known of the model. It holds no weights: whoever works for a
/// client may keep it, also when the model is gone.
#[derive(Debug)]
pub struct Tokenizer {
    /// What llama.cpp loads of a file when it is asked for the vocabulary alone.
    vocab: LlamaModel,
    encoder: Encoder,
    info: Arc<ModelInfo>,
    specials: Vec<SpecialToken>,
    pieces: PieceTable,
    ends: Vec<Token>,
}

impl Tokenizer {
    pub(super) fn new(vocab: LlamaModel, pieces: PieceTable, info: Arc<ModelInfo>) -> Self {
        Self {
            encoder: Encoder::of(&vocab),
            specials: read_specials(&vocab),
            ends: read_ends(&vocab),
            vocab,
            info,
            pieces,
        }
    }

    /// What is known of the model.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    pub(super) fn vocab(&self) -> &LlamaModel {
        &self.vocab
    }

    pub(super) fn encoder(&self) -> &Encoder {
        &self.encoder
    }
}

/// Text of which nothing stands for a control token.
const PLAIN: TokenizeOptions = TokenizeOptions {
    bounds: false,
    markup: false,
};

impl Vocabulary for Tokenizer {
    fn encode(&self, text: &str) -> Vec<Token> {
        self.encoder.tokens(&self.vocab, text, PLAIN)
    }

    fn encode_all(&self, texts: &[&str]) -> Vec<Token> {
        self.encoder.tokens_of_all(&self.vocab, texts)
    }

    fn specials(&self) -> &[SpecialToken] {
        &self.specials
    }

    fn bos(&self) -> Option<Token> {
        let vocab = self.vocab.vocab();
        let bos = vocab.bos();
        (vocab.should_add_bos() && bos.0 >= 0).then_some(Token(bos.0))
    }
}

impl Pieces for Tokenizer {
    fn piece(&self, token: Token) -> &[u8] {
        self.pieces.get(token)
    }

    fn is_end(&self, token: Token) -> bool {
        self.ends.contains(&token)
    }
}

/// Every token's bytes in one allocation: 150,000 small vectors would cost ten times the memory.
#[derive(Debug)]
pub(super) struct PieceTable {
    bytes: Vec<u8>,
    /// Piece `i` is `bytes[bounds[i]..bounds[i + 1]]`.
    bounds: Vec<u32>,
}

impl PieceTable {
    pub(super) fn read(vocab: &LlamaModel) -> Self {
        let vocab = vocab.vocab();
        let mut bytes = Vec::new();
        let mut bounds = vec![0];
        for token in vocab.tokens() {
            bytes.extend(vocab.token_to_piece(token, false, None));
            bounds.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        Self { bytes, bounds }
    }

    pub(super) fn longest(&self) -> usize {
        let lengths = self.bounds.windows(2).map(|pair| pair[1] - pair[0]);
        lengths.max().unwrap_or(1).max(1) as usize
    }

    fn get(&self, token: Token) -> &[u8] {
        let bounds = usize::try_from(token.0)
            .ok()
            .and_then(|i| Some((*self.bounds.get(i)?, *self.bounds.get(i + 1)?)));
        match bounds {
            Some((start, end)) => &self.bytes[start as usize..end as usize],
            None => &[],
        }
    }
}

fn read_specials(vocab: &LlamaModel) -> Vec<SpecialToken> {
    let vocab = vocab.vocab();
    vocab
        .tokens()
        .filter_map(|token| {
            let kind = if vocab.is_control(token) {
                SpecialKind::Control
            } else if vocab.attr(token).contains(LlamaTokenAttr::UserDefined) {
                SpecialKind::UserDefined
            } else {
                return None;
            };
            let text = String::from_utf8(vocab.token_to_piece(token, true, None)).ok()?;
            (!text.is_empty()).then_some(SpecialToken {
                text,
                token: Token(token.0),
                kind,
            })
        })
        .collect()
}

fn read_ends(vocab: &LlamaModel) -> Vec<Token> {
    let vocab = vocab.vocab();
    vocab
        .tokens()
        .filter(|token| vocab.is_eog(*token))
        .map(|token| Token(token.0))
        .collect()
}
