//! A model folder's tokenizer and chat template.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use crate::byte_bpe::ByteBpe;
use crate::error::DataError;
use crate::model_files::{TokenizerFiles, json_object, templates};
pub use crate::special::SpecialTokens;
use crate::special::eos_id_of_config;
use crate::template::{ChatTemplate, TemplateError};

/// Text to tokens and back, and conversations to text.
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    /// The same tokens in a fraction of the time, for tokenizers of the usual form.
    fast: Option<ByteBpe>,
    special: SpecialTokens,
    bos_id: Option<u32>,
    eos_id: Option<u32>,
    pad_id: Option<u32>,
    /// What the post-processor puts before and after a text.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    template: Option<ChatTemplate>,
    tool_template: Option<ChatTemplate>,
    /// How special tokens are written, longest first.
    spelled: Vec<String>,
    special_ids: Vec<u32>,
    fingerprint: String,
}

/// Tokens of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// One for each token.
    pub ids: Vec<u32>,
    /// The bytes of the text that each token stands for. Where a character is split over several tokens each
    /// has the whole character; a token that the post-processor adds has an empty range.
    pub offsets: Vec<(usize, usize)>,
}

impl TextTokenizer {
    /// Reads `tokenizer.json` and what belongs to it. `chat_template` takes the place of the folder's own: the
    /// template's text, the path of a `.jinja` file, or `chatml`.
    ///
    /// # Errors
    /// A missing or broken tokenizer, or a template that cannot be parsed.
    pub fn from_folder(folder: &Path, chat_template: Option<&str>) -> Result<Self, DataError> {
        Self::from_files(&TokenizerFiles::Folder(folder.to_owned()), chat_template)
    }

    /// As [`from_folder`](Self::from_folder), from wherever the files are.
    ///
    /// # Errors
    /// As [`from_folder`](Self::from_folder).
    pub fn from_files(files: &TokenizerFiles, chat_template: Option<&str>) -> Result<Self, DataError> {
        let Some(bytes) = files.read("tokenizer.json")? else {
            return Err(missing_tokenizer(files.place()));
        };
        let mut tokenizer = parsed(&files.place().join("tokenizer.json"), &bytes)?;
        // Limits that the file brings from its own training would cut and fill texts behind our back.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| DataError::Tokenizer(error.to_string()))?;

        let config = json_object(files, "tokenizer_config.json")?;
        let map = json_object(files, "special_tokens_map.json")?;
        let mut special = SpecialTokens::from_config(&config, &map);
        let id_of = |token: &Option<String>| token.as_deref().and_then(|token| tokenizer.token_to_id(token));
        let (bos_id, mut eos_id, pad_id) = (id_of(&special.bos), id_of(&special.eos), id_of(&special.pad));
        if eos_id.is_none()
            && let Some(id) = eos_id_of_config(files)
            && let Some(token) = tokenizer.id_to_token(id)
        {
            special.eos = Some(token);
            eos_id = Some(id);
        }

        let (mut prefix, mut suffix) = added_by_post_processor(&tokenizer)?;
        // These classes build their post-processor from the two flags, whatever tokenizer.json says.
        let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
        if ["Llama", "CodeLlama", "Gemma"]
            .iter()
            .any(|name| class.trim_end_matches("Fast") == format!("{name}Tokenizer"))
        {
            obey_flag(&config, "add_bos_token", bos_id, &mut prefix);
            obey_flag(&config, "add_eos_token", eos_id, &mut suffix);
        }

        let (template, tool_template) = templates(files, &config, chat_template, &special)?;
        let mut spelled: Vec<String> = tokenizer
            .get_added_tokens_decoder()
            .into_values()
            .filter(|token| token.special)
            .map(|token| token.content)
            .chain(special.eos.clone())
            .filter(|token| !token.is_empty())
            .collect();
        spelled.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        spelled.dedup();
        let mut special_ids: Vec<u32> = spelled.iter().filter_map(|token| tokenizer.token_to_id(token)).collect();
        special_ids.sort_unstable();

        let mut hash = Sha256::new();
        hash.update(&bytes);
        for text in [&template, &tool_template] {
            hash.update(text.as_ref().map_or("", ChatTemplate::source).as_bytes());
            hash.update([0]);
        }
        hash.update(format!("{special:?} {prefix:?} {suffix:?}"));
        Ok(Self {
            fingerprint: hex(&hash.finalize()),
            fast: guarded(|| Ok(ByteBpe::new(&tokenizer)))?,
            tokenizer,
            special,
            bos_id,
            eos_id,
            pad_id,
            prefix,
            suffix,
            template,
            tool_template,
            spelled,
            special_ids,
        })
    }

    /// Encodes a text; special tokens that it spells become those tokens.
    ///
    /// # Errors
    /// A text that the tokenizer's model cannot represent.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Encoded, DataError> {
        let mut encoded = self.encoded(text)?;
        if add_special_tokens {
            // A text that already begins with the token does not get it twice.
            if !(self.prefix.len() == 1 && encoded.ids.first() == self.prefix.first()) {
                encoded.ids.splice(0..0, self.prefix.iter().copied());
                encoded.offsets.splice(0..0, self.prefix.iter().map(|_| (0, 0)));
            }
            encoded.ids.extend(&self.suffix);
            encoded.offsets.extend(self.suffix.iter().map(|_| (text.len(), text.len())));
        }
        Ok(encoded)
    }

    fn encoded(&self, text: &str) -> Result<Encoded, DataError> {
        if let Some(fast) = &self.fast
            && let Some(encoded) = guarded(|| Ok(fast.encode(&self.tokenizer, text)))?
        {
            return Ok(encoded);
        }
        let encoding = guarded(|| self.tokenizer.encode(text, false))?;
        Ok(Encoded { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() })
    }

    /// The tokens of a text that the model is to go on from: what the post-processor puts before a text (BOS,
    /// mostly), once, and nothing behind it. Prompts of training and of inference are both made here.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut ids = self.prefix.clone();
        ids.extend(self.encode(text, false)?.ids);
        self.single_bos(&mut ids);
        Ok(ids)
    }

    /// The tokens of a conversation that the model is to answer. `extra` are further variables of the template.
    ///
    /// # Errors
    /// No template, one that refuses the conversation, or as [`encode`](Self::encode).
    pub fn encode_chat(
        &self,
        messages: &[Value],
        tools: Option<&Value>,
        extra: &Map<String, Value>,
    ) -> Result<Vec<u32>, DataError> {
        let rendered = self.template_for(tools.is_some())?.render(messages, tools, true, extra)?;
        let mut ids = self.encode(&rendered.text, false)?.ids;
        self.single_bos(&mut ids);
        Ok(ids)
    }

    /// Decodes tokens.
    ///
    /// # Errors
    /// A decoder that fails on them.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, DataError> {
        guarded(|| self.tokenizer.decode(ids, skip_special))
    }

    /// Whether texts are encoded the fast way, which gives the same tokens.
    pub fn is_fast(&self) -> bool {
        self.fast.is_some()
    }

    /// The tokenizer itself.
    pub fn inner(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The template of conversations.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref()
    }

    /// The template of conversations with tools, which some folders have apart.
    pub fn tool_template(&self) -> Option<&ChatTemplate> {
        self.tool_template.as_ref().or(self.template.as_ref())
    }

    /// The template for a conversation, or an error that says what to do about having none.
    pub(crate) fn template_for(&self, with_tools: bool) -> Result<&ChatTemplate, TemplateError> {
        let template = if with_tools { self.tool_template() } else { self.chat_template() };
        template.ok_or_else(|| TemplateError::Missing {
            help: "base models often have none: set `chat_template: chatml` or the path of a .jinja file in the \
                   recipe, or use prompt/completion records"
                .to_owned(),
        })
    }

    /// The special tokens by name.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// Begins a text.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// Ends a text.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }

    /// Fills a batch, if the tokenizer names a token for that.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad_id
    }

    /// Tokens, the added ones included.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// A hash of everything that decides how a conversation becomes tokens.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    /// Takes one BOS away where there are two, of a text that spells it and the post-processor, or of a template
    /// that writes it twice. Says whether it did.
    pub(crate) fn single_bos(&self, ids: &mut Vec<u32>) -> bool {
        let doubled =
            self.bos_id.is_some() && ids.first().copied() == self.bos_id && ids.get(1).copied() == self.bos_id;
        if doubled {
            ids.remove(0);
        }
        doubled
    }

    /// Whether the token is a special one: an end of turn, a header, a beginning or end of text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special_ids.binary_search(&id).is_ok()
    }

    /// The first special token that a text spells.
    pub(crate) fn special_in(&self, text: &str) -> Option<&str> {
        let named = |rest: &str| {
            self.spelled.iter().map(String::as_str).find(|token| !token.trim().is_empty() && rest.starts_with(token))
        };
        // There may be hundreds of them, but they begin with one of two or three characters.
        let mut firsts = [false; 256];
        self.spelled.iter().filter_map(|token| token.bytes().next()).for_each(|byte| firsts[usize::from(byte)] = true);
        text.char_indices()
            .filter(|(at, _)| firsts[usize::from(text.as_bytes()[*at])])
            .find_map(|(at, _)| named(&text[at..]))
    }

    /// Whether the text ends in a special token.
    pub(crate) fn ends_with_special(&self, text: &str) -> bool {
        self.spelled.iter().any(|token| text.ends_with(token.as_str()))
    }
}

impl fmt::Debug for TextTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextTokenizer")
            .field("special", &self.special)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Some files that can be read make the library panic when it encodes, others already when it reads.
fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, DataError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|error| DataError::Tokenizer(error.to_string())),
        Err(_) => Err(DataError::Tokenizer(
            "its parts contradict each other; fetch the model folder's tokenizer.json again".to_owned(),
        )),
    }
}

fn parsed(path: &Path, bytes: &[u8]) -> Result<Tokenizer, DataError> {
    let faulty = |reason: String| DataError::File {
        path: path.to_path_buf(),
        message: format!("not a tokenizer of this form: {reason}; fetch the model folder again"),
    };
    // The place of a broken bracket is better known to a plain parser.
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|error| faulty(error.to_string()))?;
    guarded(|| Tokenizer::from_bytes(bytes)).map_err(|error| faulty(error.to_string()))
}

fn added_by_post_processor(tokenizer: &Tokenizer) -> Result<(Vec<u32>, Vec<u32>), DataError> {
    let encoding = guarded(|| tokenizer.encode("a", true))?;
    let added = encoding.get_special_tokens_mask();
    let ids = encoding.get_ids();
    let first = added.iter().position(|mask| *mask == 0).unwrap_or(added.len());
    let last = added.iter().rposition(|mask| *mask == 0).map_or(added.len(), |last| last + 1);
    Ok((ids[..first].to_vec(), ids[last..].to_vec()))
}

fn obey_flag(config: &Map<String, Value>, flag: &str, token: Option<u32>, added: &mut Vec<u32>) {
    match (config.get(flag).and_then(Value::as_bool), token) {
        (Some(false), _) => added.clear(),
        (Some(true), Some(token)) if !added.contains(&token) => added.push(token),
        _ => {}
    }
}

fn missing_tokenizer(folder: &Path) -> DataError {
    let found: Vec<&str> = ["tokenizer.model", "vocab.json", "merges.txt", "spiece.model", "tekken.json"]
        .into_iter()
        .filter(|name| folder.join(name).is_file())
        .collect();
    DataError::MissingTokenizer {
        folder: folder.to_path_buf(),
        looked_for: "tokenizer.json (with tokenizer_config.json and chat_template.jinja beside it)".to_owned(),
        help: if !folder.is_dir() {
            "the folder is not there; check the path".to_owned()
        } else if found.is_empty() {
            "fetch the model's tokenizer files, or copy them from the base model".to_owned()
        } else {
            format!(
                "the folder has the slow form ({}); convert it once with transformers: \
                 AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
                found.join(", ")
            )
        },
    }
}
