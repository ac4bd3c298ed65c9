//! Byte-level BPE, fast: what `tokenizers` gives, with words cut by hand, remembered, and no text carried along.
//!
//! `tokenizers` cuts with regular expressions and keeps for each word a copy with an alignment to the original.
//! Here added tokens are found with the same automaton, words are cut by [`Words`], and each word is merged by
//! the model of `tokenizers` itself the first time that it is seen. The bytes of tokens add up to the text, so
//! offsets need no alignment. A tokenizer of another form, and any text that does not add up, goes the slow way.

use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Mutex;
use std::{collections::HashMap, mem};

use daachorse::{DoubleArrayAhoCorasick, DoubleArrayAhoCorasickBuilder, MatchKind};
use tokenizers::models::ModelWrapper;
use tokenizers::{AddedToken, Model, Tokenizer};

use crate::tokenizer::Encoded;
use crate::words::Words;

/// Words that are remembered by a thread; after so many it starts anew.
const REMEMBERED: usize = 1 << 17;

/// Longer words are rare and would fill the memory.
const LONGEST: usize = 128;

/// Encodes texts of one tokenizer.
pub(crate) struct ByteBpe {
    words: Words,
    /// Added tokens as they are looked for in turn: those matched before normalization, then the others.
    added: Vec<DoubleArrayAhoCorasick<u32>>,
    bytes: [char; 256],
    memories: Vec<Mutex<Memory>>,
}

#[derive(Default)]
struct Memory {
    known: HashMap<Box<str>, (u32, u32), BuildHasherDefault<WordHasher>>,
    /// Token and its bytes; each known word has some of them, side by side.
    tokens: Vec<(u32, u32)>,
    spelled: String,
}

impl ByteBpe {
    /// The fast way for a tokenizer, if it is of the form that there is one for.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Option<Self> {
        let ModelWrapper::BPE(model) = tokenizer.get_model() else { return None };
        let affix = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
        let plain = model.dropout.is_none_or(|share| share == 0.0)
            && !model.byte_fallback
            && !affix(model.get_continuing_subword_prefix())
            && !affix(&model.end_of_word_suffix);
        if !plain || tokenizer.get_normalizer().is_some() || tokenizer.get_encode_special_tokens() {
            return None;
        }
        let words = Words::of(&serde_json::to_value(tokenizer.get_pre_tokenizer()?).ok()?)?;
        let tokens: Vec<(u32, AddedToken)> = tokenizer.get_added_tokens_decoder().into_iter().collect();
        if tokens.iter().any(|(_, token)| token.single_word || token.lstrip || token.rstrip) {
            return None;
        }
        let mut added = Vec::new();
        for normalized in [false, true] {
            let of_turn: Vec<(&str, u32)> = tokens
                .iter()
                .filter(|(_, token)| token.normalized == normalized)
                .map(|(id, token)| (token.content.as_str(), *id))
                .collect();
            if !of_turn.is_empty() {
                let builder = DoubleArrayAhoCorasickBuilder::new().match_kind(MatchKind::LeftmostLongest);
                added.push(builder.build_with_values(of_turn).ok()?);
            }
        }
        let threads = rayon::current_num_threads().max(1);
        let memories = (0..threads).map(|_| Mutex::new(Memory::default())).collect();
        let fast = Self { words, added, bytes: byte_characters(), memories };
        fast.agrees(tokenizer).then_some(fast)
    }

    /// A few texts on which patterns part; a tokenizer for which they come out differently is not of the form.
    fn agrees(&self, tokenizer: &Tokenizer) -> bool {
        let texts = [
            "Don't  stop\n\n at 12345's  end;\tI'LL say: \"na\u{ef}ve caf\u{e9}\"!!\r\n  x ",
            "fn main() {\n    println!(\"{}\", 1 << 10);\n}\n\n\n",
            "\u{4f60}\u{597d}\u{ff0c}\u{4e16}\u{754c} \u{1f600}\u{200d} \u{a0}\u{3000}\u{661}\u{662}\u{663}\u{664} a\u{301}",
        ];
        texts.iter().all(|text| {
            let slow = tokenizer.encode(*text, false).ok();
            let fast = self.encode(tokenizer, text);
            slow.zip(fast).is_some_and(|(slow, fast)| slow.get_ids() == fast.ids)
        })
    }

    /// The tokens of a text; nothing where it has to go the slow way.
    pub(crate) fn encode(&self, tokenizer: &Tokenizer, text: &str) -> Option<Encoded> {
        let first = rayon::current_thread_index().unwrap_or(0);
        let free = (0..self.memories.len())
            .find_map(|turn| self.memories[(first + turn) % self.memories.len()].try_lock().ok());
        match free {
            Some(mut memory) => self.encode_with(tokenizer, text, &mut memory),
            None => self.encode_with(tokenizer, text, &mut Memory::default()),
        }
    }

    fn encode_with(&self, tokenizer: &Tokenizer, text: &str, memory: &mut Memory) -> Option<Encoded> {
        let mut encoded =
            Encoded { ids: Vec::with_capacity(text.len() / 3 + 1), offsets: Vec::with_capacity(text.len() / 3 + 1) };
        let done = self.pieces(text, 0, 0, &mut |piece, start, id| match id {
            Some(id) => {
                encoded.ids.push(id);
                encoded.offsets.push((start, start + piece.len()));
                true
            }
            None => {
                let mut at = start;
                self.words.each(piece, &mut |word| self.word(tokenizer, word, &mut at, memory, &mut encoded))
            }
        });
        if !done {
            return None;
        }
        if !text.is_ascii() {
            // As `tokenizers` has it: a token of part of a character stands for all of it.
            for (start, end) in &mut encoded.offsets {
                *start = text.floor_char_boundary(*start);
                *end = text.ceil_char_boundary(*end);
            }
        }
        Some(encoded)
    }

    /// The added tokens of a text that begins at `start`, and what lies between them, looked for in turn.
    fn pieces(
        &self,
        text: &str,
        start: usize,
        turn: usize,
        each: &mut dyn FnMut(&str, usize, Option<u32>) -> bool,
    ) -> bool {
        if text.is_empty() {
            return true;
        }
        let Some(added) = self.added.get(turn) else {
            return each(text, start, None);
        };
        let mut at = 0;
        for found in added.leftmost_find_iter(text) {
            if !self.pieces(&text[at..found.start()], start + at, turn + 1, each)
                || !each(&text[found.start()..found.end()], start + found.start(), Some(found.value()))
            {
                return false;
            }
            at = found.end();
        }
        self.pieces(&text[at..], start + at, turn + 1, each)
    }

    /// Adds the tokens of one word; false where their bytes are not those of the word.
    fn word(
        &self,
        tokenizer: &Tokenizer,
        word: &str,
        at: &mut usize,
        memory: &mut Memory,
        encoded: &mut Encoded,
    ) -> bool {
        let range = match memory.known.get(word) {
            Some(range) => *range,
            None => match self.merge(tokenizer, word, memory) {
                Some(range) => range,
                None => return false,
            },
        };
        for (id, bytes) in &memory.tokens[range.0 as usize..range.1 as usize] {
            encoded.ids.push(*id);
            encoded.offsets.push((*at, *at + *bytes as usize));
            *at += *bytes as usize;
        }
        true
    }

    /// Has the model merge a word, and remembers what came out.
    fn merge(&self, tokenizer: &Tokenizer, word: &str, memory: &mut Memory) -> Option<(u32, u32)> {
        if memory.known.len() >= REMEMBERED || memory.tokens.len() >= 8 * REMEMBERED {
            memory.known.clear();
            memory.tokens.clear();
        }
        let mut spelled = mem::take(&mut memory.spelled);
        spelled.clear();
        spelled.extend(word.bytes().map(|byte| self.bytes[byte as usize]));
        let tokens = tokenizer.get_model().tokenize(&spelled);
        memory.spelled = spelled;
        let start = u32::try_from(memory.tokens.len()).ok()?;
        let mut bytes = 0;
        for token in tokens.ok()? {
            let length = token.value.chars().count();
            bytes += length;
            memory.tokens.push((token.id, u32::try_from(length).ok()?));
        }
        let range = (start, u32::try_from(memory.tokens.len()).ok()?);
        if bytes != word.len() {
            memory.tokens.truncate(start as usize);
            return None;
        }
        if word.len() <= LONGEST {
            memory.known.insert(word.into(), range);
        }
        Some(range)
    }
}

/// GPT-2's spelling of bytes as characters that can be seen.
fn byte_characters() -> [char; 256] {
    let mut next = 256;
    std::array::from_fn(|byte| {
        let shown = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if shown { byte as u32 } else { next };
        next += u32::from(!shown);
        char::from_u32(code).unwrap_or_default()
    })
}

/// Words are short and their hashes are of no use to an attacker who can give any text at all: multiply and
/// rotate, eight bytes at a time.
#[derive(Default)]
struct WordHasher(u64);

impl WordHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for WordHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<8>();
        chunks.iter().for_each(|chunk| self.add(u64::from_le_bytes(*chunk)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.add(u64::from_le_bytes(last) ^ ((rest.len() as u64) << 56));
    }

    fn write_u8(&mut self, byte: u8) {
        self.add(u64::from(byte));
    }

    fn finish(&self) -> u64 {
        // The table takes its bits from both ends.
        self.0 ^ (self.0 >> 29)
    }
}
