//! What a model folder would hold beside its weights, made of the metadata.

use std::fs::File;
use std::path::{Path, PathBuf};

use rankine_ops::FileMap;
use serde_json::{Map, Value as Json, json};

use super::config::{RopeFactors, config};
use super::fault::{GgufError, GgufProblem};
use super::find::GgufFiles;
use super::ggml_type::GgmlType;
use super::header::Header;
use super::tensors::{ROPE_FACTORS, place_of};
use super::tokenizer::Tokenizer;
use crate::companions::{CONFIG_FILE, GENERATION_FILE};
use crate::weights::decode_into;

/// `config.json`, `generation_config.json`, `tokenizer.json` and `tokenizer_config.json` of a GGUF file.
#[derive(Debug)]
pub struct SmallFiles {
    file: PathBuf,
    header: Header,
    rope_factors: Option<Vec<f32>>,
}

impl SmallFiles {
    /// Reads the header of the first file.
    ///
    /// # Errors
    /// A file that cannot be read, or is not GGUF.
    pub fn open(found: &GgufFiles) -> Result<Self, GgufError> {
        let file = found.first().to_owned();
        let map = File::open(&file).and_then(|opened| FileMap::new(&opened));
        let map = map.map_err(|source| GgufError::Unreadable { file: file.clone(), source })?;
        let wrong = |problem| GgufError::Header { file: file.clone(), problem };
        let header = Header::read(&map).map_err(wrong)?;
        let rope_factors = rope_factors(&header, &map).map_err(wrong)?;
        Ok(Self { file, header, rope_factors })
    }

    /// The file that the metadata are of.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The licence's identifier, where the file names it.
    pub fn license(&self) -> Option<&str> {
        self.header.metadata.text("general.license")
    }

    /// The text of one of the files; `None` where a folder would not have it either.
    ///
    /// # Errors
    /// Metadata that describe no model, or no tokenizer, that is supported.
    pub fn read(&self, name: &str) -> Result<Option<String>, GgufError> {
        let text = |value: &Json| format!("{value:#}\n");
        Ok(match name {
            CONFIG_FILE => Some(text(&Json::Object(self.config()?))),
            GENERATION_FILE => Some(text(&self.generation_config()?)),
            // Compact: a vocabulary indented is twice as long.
            "tokenizer.json" => self.tokenizer()?.map(|tokenizer| tokenizer.json().to_string()),
            "tokenizer_config.json" => self.tokenizer()?.map(|tokenizer| text(&tokenizer.config())),
            _ => None,
        })
    }

    /// The fields of `config.json`.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn config(&self) -> Result<Map<String, Json>, GgufError> {
        config(&self.header, &RopeFactors(self.rope_factors.as_deref())).map_err(|faults| self.metadata(faults))
    }

    #[cfg(test)]
    pub(super) fn rope_factors(&self) -> Option<&[f32]> {
        self.rope_factors.as_deref()
    }

    /// `None` where the file has no tokenizer.
    fn tokenizer(&self) -> Result<Option<Tokenizer<'_>>, GgufError> {
        Tokenizer::read(&self.header.metadata).map_err(|faults| self.metadata(faults))
    }

    fn generation_config(&self) -> Result<Json, GgufError> {
        let mut settings = Map::new();
        if let Some(tokenizer) = self.tokenizer()? {
            if let Some(id) = tokenizer.bos_id() {
                settings.insert("bos_token_id".to_owned(), id.into());
            }
            match tokenizer.end_ids().as_slice() {
                [] => {}
                [one] => {
                    settings.insert("eos_token_id".to_owned(), json!(one));
                }
                several => {
                    settings.insert("eos_token_id".to_owned(), json!(several));
                }
            }
            if let Some(id) = tokenizer.pad_id() {
                settings.insert("pad_token_id".to_owned(), id.into());
            }
        }
        Ok(Json::Object(settings))
    }

    fn metadata(&self, faults: Vec<String>) -> GgufError {
        GgufError::Metadata { file: self.file.clone(), faults }
    }
}

/// The long-context factors, which are always singles.
fn rope_factors(header: &Header, map: &[u8]) -> Result<Option<Vec<f32>>, GgufProblem> {
    let Some(info) = header.tensors.iter().find(|tensor| tensor.name == ROPE_FACTORS) else { return Ok(None) };
    let place = place_of(info, header, map.len() as u64)?;
    if place.packing.kind != GgmlType::F32 {
        return Err(GgufProblem::Metadata(format!("`{ROPE_FACTORS}` is {}: F32 is expected", place.packing.kind)));
    }
    let bytes = &map[place.range];
    let mut values = vec![0.0; bytes.len() / 4];
    decode_into(place.packing.kind.float(), bytes, &mut values);
    Ok(Some(values))
}
