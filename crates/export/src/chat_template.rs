//! The chat template that the chats of an export are rendered with, wherever it is.

use rankine_models::companions::{Companions, TEMPLATE_FILES};
use serde_json::{Map, Value};

use crate::ExportInputs;
use crate::base::parse;
use crate::error::ExportError;

/// The template that was trained with; else the tokenizer's own, for which transformers looks in `chat_template.jinja` and
/// then in `tokenizer_config.json`; `chat_template.json` is that of old processors, and counts where there is no other.
///
/// Of several named ones it is the one called `default`, as in transformers, which renders no chat where there is none of
/// that name.
pub(crate) fn chat_template(inputs: &ExportInputs<'_>) -> Result<Option<String>, ExportError> {
    if let Some(template) = inputs.chat_template {
        return Ok(Some(template.to_owned()));
    }
    let place = inputs.tokenizer.unwrap_or(inputs.base);
    let from = Companions::of(place)?;
    let [jinja, json] = TEMPLATE_FILES;
    if let Some(bytes) = from.read(jinja)? {
        let not_text = |_| ExportError::NotText { file: place.join(jinja) };
        return String::from_utf8(bytes).map(Some).map_err(not_text);
    }
    for name in ["tokenizer_config.json", json] {
        if let Some(bytes) = from.read(name)?
            && let Some(template) = rendered_one(&parse(&bytes, place.join(name))?)
        {
            return Ok(Some(template));
        }
    }
    Ok(None)
}

/// The template itself, or the one called `default`.
fn rendered_one(fields: &Map<String, Value>) -> Option<String> {
    let template = match fields.get("chat_template")? {
        Value::Array(named) => &named.iter().find(|one| one["name"] == "default")?["template"],
        only => only,
    };
    template.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use rankine_data::TextTokenizer;
    use serde_json::json;

    use super::*;
    use crate::CardFacts;

    fn found(folder: &Path, trained: Option<&str>) -> Result<Option<String>, ExportError> {
        let facts = CardFacts::default();
        chat_template(&ExportInputs {
            base: folder,
            adapter: None,
            tokenizer: None,
            chat_template: trained,
            facts: &facts,
        })
    }

    fn write(folder: &Path, name: &str, text: impl AsRef<[u8]>) {
        fs::write(folder.join(name), text).unwrap();
    }

    /// Each case adds a place that goes before those of the cases before it.
    #[test]
    fn it_is_the_one_that_a_training_on_the_folder_takes() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/templates/tokenizer.json");
        fs::copy(golden, here.join("tokenizer.json")).unwrap();
        let trained_with = || {
            let tokenizer = TextTokenizer::from_folder(here, None).unwrap();
            tokenizer.chat_template().map(|template| template.source().to_owned())
        };
        let named =
            |name: &str| json!({"chat_template": [{"name": "rag", "template": "r"}, {"name": name, "template": "d"}]});
        let config = "tokenizer_config.json";
        for (file, text, expected) in [
            (config, json!({}).to_string(), None),
            (config, json!({"chat_template": null}).to_string(), None),
            (config, named("tool_use").to_string(), None),
            (config, named("default").to_string(), Some("d")),
            (config, json!({"chat_template": "one"}).to_string(), Some("one")),
            ("chat_template.jinja", "of its own: ü".to_owned(), Some("of its own: ü")),
        ] {
            write(here, file, text);
            assert_eq!(found(here, None).unwrap().as_deref(), expected, "{file}");
            assert_eq!(trained_with().as_deref(), expected, "{file}");
        }
        assert_eq!(found(here, Some("chosen")).unwrap().as_deref(), Some("chosen"));
    }

    #[test]
    fn a_processors_template_counts_where_there_is_no_other() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "chat_template.json", json!({"chat_template": "processor's"}).to_string());
        assert_eq!(found(folder.path(), None).unwrap().as_deref(), Some("processor's"));
        write(folder.path(), "tokenizer_config.json", json!({"chat_template": "tokenizer's"}).to_string());
        assert_eq!(found(folder.path(), None).unwrap().as_deref(), Some("tokenizer's"));
    }

    #[test]
    fn what_is_no_text_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "chat_template.jinja", b"\xff{{ messages }}");
        let text = found(folder.path(), None).unwrap_err().to_string();
        assert!(text.contains("chat_template.jinja: not UTF-8"), "{text}");
        fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
        write(folder.path(), "tokenizer_config.json", "[]");
        let text = found(folder.path(), None).unwrap_err().to_string();
        assert!(text.contains("tokenizer_config.json: not a JSON object"), "{text}");
    }
}
