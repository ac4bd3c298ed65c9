//! Text out of tokens as they come, never splitting a character, ended by stop strings.

use tokenizers::Tokenizer;

use crate::generate::GenerateError;

/// Turns tokens into text piece by piece.
///
/// A byte-level token may hold half a character, and a stop string may arrive in pieces: text is held back until
/// neither can be the case.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    stop: &'a [String],
    ids: Vec<u32>,
    /// Tokens before this were turned into text; those from `context` on are decoded again, since a decoder may
    /// treat the first token of a sequence differently.
    context: usize,
    read: usize,
    /// Decoded, and not yet given out.
    held: String,
    stopped: bool,
}

impl<'a> TextStream<'a> {
    /// `stop` holds the strings that end the text; none of them is given out.
    pub fn new(tokenizer: &'a Tokenizer, stop: &'a [String]) -> Self {
        Self { tokenizer, stop, ids: Vec::new(), context: 0, read: 0, held: String::new(), stopped: false }
    }

    /// Takes a token and returns the text that is certain by now.
    ///
    /// # Errors
    /// A tokenizer that cannot decode.
    pub fn push(&mut self, id: u32) -> Result<String, GenerateError> {
        self.ids.push(id);
        let before = self.decode(self.context, self.read)?;
        let now = self.decode(self.context, self.ids.len())?;
        // The replacement character stands for a character that is not whole yet.
        if now.ends_with('\u{FFFD}') || now.len() <= before.len() || !now.is_char_boundary(before.len()) {
            return Ok(String::new());
        }
        self.held.push_str(&now[before.len()..]);
        self.context = self.read;
        self.read = self.ids.len();
        Ok(self.release(false))
    }

    /// The text that was held back, at the end.
    ///
    /// # Errors
    /// A tokenizer that cannot decode.
    pub fn finish(&mut self) -> Result<String, GenerateError> {
        let before = self.decode(self.context, self.read)?;
        let now = self.decode(self.context, self.ids.len())?;
        self.held.push_str(now.get(before.len()..).unwrap_or_default());
        self.read = self.ids.len();
        Ok(self.release(true))
    }

    /// Whether a stop string came.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    fn release(&mut self, all: bool) -> String {
        if self.stopped {
            self.held.clear();
            return String::new();
        }
        if let Some(at) = self.stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let keep = if all { 0 } else { self.possible_stop() };
        let rest = self.held.split_off(self.held.len() - keep);
        std::mem::replace(&mut self.held, rest)
    }

    /// Bytes at the end that may be the beginning of a stop string.
    fn possible_stop(&self) -> usize {
        let starts = |stop: &String| {
            let ends = stop.char_indices().map(|(at, _)| at).filter(|at| *at > 0);
            ends.filter(|at| self.held.ends_with(&stop[..*at])).max().unwrap_or(0)
        };
        self.stop.iter().map(starts).max().unwrap_or(0)
    }

    fn decode(&self, from: usize, to: usize) -> Result<String, GenerateError> {
        self.tokenizer.decode(&self.ids[from..to], true).map_err(|error| GenerateError::Decode(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Map, Value, json};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    /// A token for each byte.
    fn bytes() -> Tokenizer {
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let vocab: Map<String, Value> = alphabet.iter().zip(0..).map(|(c, id)| (c.to_string(), json!(id))).collect();
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        });
        Tokenizer::from_bytes(json.to_string()).unwrap()
    }

    fn stream(text: &str, stop: &[String]) -> (Vec<String>, bool) {
        let tokenizer = bytes();
        let ids = tokenizer.encode(text, false).unwrap().get_ids().to_vec();
        let mut stream = TextStream::new(&tokenizer, stop);
        let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        (pieces, stream.stopped())
    }

    #[test]
    fn characters_come_whole() {
        let text = "né 🙂 日本";
        let (pieces, stopped) = stream(text, &[]);
        assert_eq!(pieces.concat(), text);
        assert!(!pieces.iter().any(|piece| piece.contains('\u{FFFD}')) && !stopped);
        assert_eq!(pieces.iter().filter(|piece| piece.as_str() == "🙂").count(), 1);
    }

    #[test]
    fn a_stop_string_in_pieces_is_never_given_out() {
        let stop = ["</s>".to_owned(), "\n\nUser:".to_owned()];
        let (pieces, stopped) = stream("Hi <b>\n\nUser: x", &stop);
        assert_eq!((pieces.concat().as_str(), stopped), ("Hi <b>", true));
        let (pieces, stopped) = stream("a </ b\n\nUse", &stop);
        assert_eq!((pieces.concat().as_str(), stopped), ("a </ b\n\nUse", false));
    }
}
