//! Whole texts to tokens and back, as the makers of a model's vocabulary mean it.

use std::borrow::Cow;

use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;

use super::{Pieces, SpecialToken, Token, Tokenizer, Vocabulary};

/// How a text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenizeOptions {
    /// Whether the tokens that the model wants around a text (its begin, its end) are added.
    pub bounds: bool,
    /// Whether the text of a control token stands for that token; otherwise it is plain text.
    pub markup: bool,
}

/// What becomes of control tokens in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlTokens {
    /// They stand there as templates write them.
    Written,
    /// They have no text.
    LeftOut,
}

impl Tokenizer {
    /// The tokens of a whole text.
    #[must_use]
    pub fn tokenize(&self, text: &str, reading: TokenizeOptions) -> Vec<Token> {
        let text = if self.is_word_piece() {
            decompose_hangul(text)
        } else {
            Cow::Borrowed(text)
        };
        self.encoder().tokens(self.vocab(), &text, reading)
    }

    /// The text of tokens, control tokens written out; U+FFFD stands for bytes that are no text.
    /// Ids that are not in the vocabulary have none.
    ///
    /// It is the text that [`tokenize`](Self::tokenize) makes these tokens of. llama.cpp's own function
    /// also removes spaces before punctuation where a vocabulary says `clean_up_tokenization_spaces`, as
    /// Llama 3's does: "a . b" would come back as "a. b".
    #[must_use]
    pub fn detokenize(&self, tokens: &[Token]) -> String {
        if self.is_word_piece() {
            return self.detokenize_words(tokens);
        }
        let bytes = self.text_pieces(tokens, ControlTokens::Written).concat();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What each of these tokens adds to a text that begins with them, in bytes.
    ///
    /// Not always its [`piece`](Pieces::piece): `SentencePiece` puts a space in front of a text, and of what
    /// follows a special token, which is not part of the text.
    #[must_use]
    pub fn text_pieces(&self, tokens: &[Token], control: ControlTokens) -> Vec<Cow<'_, [u8]>> {
        let adds_space = self.adds_space_prefix();
        let mut at_beginning = true;
        let piece = |token: &Token| {
            let piece = self.piece(*token);
            let begins = std::mem::replace(&mut at_beginning, self.is_special(*token));
            match piece.strip_prefix(b" ") {
                Some(rest) if adds_space && begins => Cow::Borrowed(rest),
                None if piece.is_empty() && control == ControlTokens::Written => {
                    self.written(*token)
                }
                _ => Cow::Borrowed(piece),
            }
        };
        tokens.iter().map(piece).collect()
    }

    /// How a token is written by itself: its text, or a control token's name.
    #[must_use]
    pub fn written(&self, token: Token) -> Cow<'_, [u8]> {
        match self.piece(token) {
            [] => Cow::Owned(self.control_text(token)),
            piece => Cow::Borrowed(piece),
        }
    }

    /// `WordPiece` does not keep spaces, so no joining of pieces gives the text back. llama.cpp's
    /// function tidies up as these vocabularies are meant to.
    fn detokenize_words(&self, tokens: &[Token]) -> String {
        let vocab = self.vocab().vocab();
        let known: Vec<_> = tokens
            .iter()
            .filter_map(|token| self.known(*token))
            .collect();
        // llama.cpp counts the bytes in 31 bits. Behind a division it tidies up as at a beginning.
        let longest = self
            .info()
            .longest_piece
            .max(self.encoder().longest_special());
        let most = i32::MAX as usize / longest;
        let texts = known
            .chunks(most)
            .map(|tokens| vocab.detokenize(tokens, false, true));
        String::from_utf8_lossy(&texts.collect::<Vec<_>>().concat()).into_owned()
    }

    /// Whether a space is put in front of every text, found by trying: what vocabularies say of it is
    /// of account for some kinds only.
    fn adds_space_prefix(&self) -> bool {
        let first = self.encode("a").first().copied();
        first.is_some_and(|token| self.piece(token).starts_with(b" "))
    }

    /// Whether a text is read anew behind the token. Control tokens have no piece.
    fn is_special(&self, token: Token) -> bool {
        self.piece(token).is_empty()
            || self.known(token).is_some_and(|token| {
                let attributes = self.vocab().vocab().attr(token);
                attributes.contains(LlamaTokenAttr::UserDefined)
            })
    }

    fn control_text(&self, token: Token) -> Vec<u8> {
        let vocab = self.vocab().vocab();
        self.known(token)
            .map(|token| vocab.token_to_piece(token, true, None))
            .unwrap_or_default()
    }

    fn is_word_piece(&self) -> bool {
        // `LlamaVocab::vocab_type` panics over most of the types.
        let kind = self.vocab().meta_val_str("tokenizer.ggml.model");
        kind.is_ok_and(|kind| kind == "bert")
    }

    /// What stands between two texts that a model learnt from, which is what OpenAI's completions begin
    /// with where nothing else is given.
    #[must_use]
    pub fn text_border(&self) -> Option<Token> {
        let named = |special: &&SpecialToken| special.text == "<|endoftext|>";
        if let Some(special) = self.specials().iter().find(named) {
            return Some(special.token);
        }
        let vocab = self.vocab().vocab();
        let known = [vocab.bos(), vocab.eos()].into_iter();
        known.map(|token| Token(token.0)).find(|token| token.0 >= 0)
    }

    /// How the vocabulary writes a token, e.g. `Ġthe` or `▁the`; empty for ids that are not in it.
    #[must_use]
    pub fn token_text(&self, token: Token) -> String {
        let vocab = self.vocab().vocab();
        self.known(token)
            .and_then(|token| vocab.text(token))
            .map(|text| text.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    /// llama.cpp ends the process over ids that are not in the vocabulary.
    fn known(&self, token: Token) -> Option<LlamaToken> {
        let id = usize::try_from(token.0).ok()?;
        (id < self.info().vocabulary).then_some(LlamaToken(token.0))
    }
}

/// Korean syllables as the letters that they are made of (Unicode 3.12, "Hangul Syllable
/// Decomposition"), which is how `WordPiece` vocabularies have them. llama.cpp, where it should
/// decompose, keeps the first letter of each syllable and loses the others.
fn decompose_hangul(text: &str) -> Cow<'_, str> {
    const SYLLABLES: std::ops::RangeInclusive<char> = '\u{AC00}'..='\u{D7A3}';
    const LEADS: u32 = 0x1100;
    const VOWELS: u32 = 0x1161;
    // The letter before the first: no tail is tail 0.
    const TAILS: u32 = 0x11A7;
    const VOWEL_COUNT: u32 = 21;
    const TAIL_COUNT: u32 = 28;
    if !text.contains(|char| SYLLABLES.contains(&char)) {
        return Cow::Borrowed(text);
    }
    let letters = text.chars().flat_map(|char| {
        if !SYLLABLES.contains(&char) {
            return [Some(char), None, None];
        }
        let index = u32::from(char) - u32::from(*SYLLABLES.start());
        let tail = index % TAIL_COUNT;
        [
            char::from_u32(LEADS + index / (VOWEL_COUNT * TAIL_COUNT)),
            char::from_u32(VOWELS + index / TAIL_COUNT % VOWEL_COUNT),
            (tail > 0).then(|| char::from_u32(TAILS + tail)).flatten(),
        ]
    });
    Cow::Owned(letters.flatten().collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::super::gguf_editor::{GgufEditor, KIOSK};
    use super::super::{LoadWatch, load_model};
    use super::*;

    const PLAIN: TokenizeOptions = TokenizeOptions {
        bounds: false,
        markup: false,
    };
    const WHOLE: TokenizeOptions = TokenizeOptions {
        bounds: true,
        markup: true,
    };

    /// Texts that llama.cpp's function does not give back where a vocabulary cleans spaces up.
    const UNTIDY: [&str; 12] = [
        "tea . done , now",
        "what ? no !",
        "the long 'sword' it 's",
        "they 've , we 're , I 'm , a ' b",
        " leading and trailing ",
        "  two  spaces  ",
        " ",
        "",
        "\n \n. \t,",
        "日本語 שלום e\u{301} 👩‍👩‍👧 \u{202e}abc\u{202c} \0 \u{feff}",
        "\u{2581}not a space\u{2581}",
        ". , ? !",
    ];

    fn bpe(pre: &str) -> Tokenizer {
        let edited = GgufEditor::kiosk().text("tokenizer.ggml.pre", pre);
        edited.load().expect("loads")
    }

    /// A small `SentencePiece` vocabulary with all bytes, `<s0>` to `<s2>` as control tokens and `<u>` as
    /// a user-defined one.
    fn sentence_piece(adds_space: bool) -> Tokenizer {
        let kiosk = load_model(Path::new(KIOSK), &LoadWatch::default());
        let (kiosk, _) = kiosk.expect("the shipped model");
        let words = [" ", " t", "e", "a", "te", " te", " tea", ".", " ."];
        let text = |id: usize| match id {
            0..3 => format!("<s{id}>"),
            3..259 => format!("<0x{:02X}>", id - 3),
            259 => "<u>".to_owned(),
            id => match words.get(id - 260) {
                Some(word) => word.replace(' ', "\u{2581}"),
                None => format!("unused{id}"),
            },
        };
        let kind = |id| match id {
            0..3 => 3,
            3..259 => 6,
            259 => 4,
            _ => 1,
        };
        let ids = 0..kiosk.info().vocabulary;
        let edited = GgufEditor::kiosk()
            .text("tokenizer.ggml.model", "llama")
            .texts(
                "tokenizer.ggml.tokens",
                &ids.clone().map(text).collect::<Vec<_>>(),
            )
            .numbers(
                "tokenizer.ggml.token_type",
                &ids.map(kind).collect::<Vec<_>>(),
            )
            .flag("tokenizer.ggml.add_space_prefix", adds_space);
        edited.load().expect("loads")
    }

    fn comes_back(model: &Tokenizer, text: &str) {
        assert_eq!(model.detokenize(&model.tokenize(text, PLAIN)), text);
    }

    #[test]
    fn a_text_comes_back_from_its_tokens_whatever_its_spaces() {
        for model in [bpe("default"), bpe("llama-bpe"), bpe("gpt-2")] {
            for text in UNTIDY {
                comes_back(&model, text);
            }
        }
        // `SentencePiece` writes spaces as U+2581, and cannot tell the two apart.
        for model in [sentence_piece(true), sentence_piece(false)] {
            for text in UNTIDY.iter().filter(|text| !text.contains('\u{2581}')) {
                comes_back(&model, text);
            }
        }
    }

    #[test]
    fn the_space_in_front_is_left_out_at_a_beginning_and_behind_special_tokens_alone() {
        let model = sentence_piece(true);
        for text in [
            "tea<s1>tea",
            "tea<s1> tea<u> tea<u>.",
            "<s0>  tea tea",
            "<u>",
        ] {
            let tokens = model.tokenize(text, WHOLE);
            let back = model.detokenize(&tokens);
            assert_eq!(
                back.strip_prefix("<s1>").unwrap_or(&back),
                text,
                "{tokens:?}"
            );
        }
        // A part of a text has the space that stands before it.
        let tea = model.tokenize(" tea", PLAIN).pop().expect("a token");
        assert_eq!(model.detokenize(&[tea, tea]), "tea tea");
        let plain = sentence_piece(false);
        assert_eq!(plain.detokenize(&plain.tokenize(" tea", PLAIN)), " tea");
    }

    #[test]
    fn pieces_of_a_text_have_no_control_tokens_where_these_are_left_out() {
        let model = sentence_piece(true);
        let tokens = model.tokenize("<s0>tea tea", WHOLE);
        let pieces = model.text_pieces(&tokens, ControlTokens::LeftOut);
        assert_eq!(pieces.len(), tokens.len());
        assert_eq!(pieces.concat(), b"tea tea");
        let written = model.text_pieces(&tokens, ControlTokens::Written);
        assert!(written.concat().ends_with(b"<s0>tea tea"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn any_text_comes_back(text in "[a-c .,?!'stmvreld\n😀é日]{0,40}") {
            thread_local! {
                static MODELS: [Tokenizer; 3] = [bpe("llama-bpe"), sentence_piece(true), sentence_piece(false)];
            }
            MODELS.with(|models| {
                for model in models {
                    comes_back(model, &text);
                }
            });
        }
    }

    #[test]
    fn korean_syllables_become_letters_and_other_text_stays() {
        assert_eq!(
            decompose_hangul("커피 2 한"),
            "\u{110F}\u{1165}\u{1111}\u{1175} 2 \u{1112}\u{1161}\u{11AB}"
        );
        assert_eq!(
            decompose_hangul("\u{AC00}\u{D7A3}"),
            "\u{1100}\u{1161}\u{1112}\u{1175}\u{11C2}"
        );
        assert!(matches!(decompose_hangul("Kaffee é"), Cow::Borrowed(_)));
    }
}
