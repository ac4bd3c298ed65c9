//! The card of an export: `README.md` with the front matter that the Hugging Face Hub reads.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use rankine_models::adapter_file::{AdapterFile, AdapterKey};
use rankine_models::companions::Companions;
use rankine_models::drift::Drift;
use rankine_models::gguf;
use serde::{Deserialize, Serialize};

use crate::{ExportInputs, Weights};

/// The name of the file.
pub(crate) const FILE: &str = "README.md";
/// What our names in the metadata of weights begin with.
const OURS: &str = "rankine";

/// What the card says of the training, where it is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CardFacts {
    /// The card's heading; the base model's name where absent.
    pub title: Option<String>,
    /// The base model as its user wrote it; what the adapter says where absent.
    pub base_model: Option<String>,
    /// The licence's identifier on the Hub; the base's where absent.
    pub license: Option<String>,
    /// What was trained on.
    pub datasets: Vec<DatasetFacts>,
    /// Records held out.
    pub validation_records: Option<u64>,
    /// Optimizer steps.
    pub steps: Option<u64>,
    /// Loss of the last steps on the training data.
    pub train_loss: Option<f64>,
    /// Loss on the records held out, before.
    pub eval_loss_before: Option<f64>,
    /// Loss on the records held out, after.
    pub eval_loss: Option<f64>,
    /// Further lines of the table, as name and value.
    pub figures: Vec<(String, String)>,
    /// Exactly what went in, as name and value: commits and hashes. The metadata of the weights says the same.
    #[serde(default)]
    pub provenance: Vec<(String, String)>,
}

/// A dataset on the card.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetFacts {
    /// Its Hub id or file name.
    pub name: String,
    /// Records trained on.
    pub records: u64,
}

/// The facts' provenance, else what the metadata of the adapter says.
fn made_of(inputs: &ExportInputs<'_>, adapter: Option<&AdapterFile>) -> Vec<(String, String)> {
    let stored = adapter.filter(|_| inputs.facts.provenance.is_empty()).map(AdapterFile::metadata);
    let Some(stored) = stored else { return inputs.facts.provenance.clone() };
    let ours = stored.iter().filter_map(|(name, value)| {
        let rest = name.strip_prefix(OURS)?;
        let name = if rest.is_empty() { OURS } else { rest.strip_prefix('.')? };
        Some((name, value))
    });
    ours.flat_map(|(name, value)| value.lines().map(move |line| (name.to_owned(), line.to_owned()))).collect()
}

/// `__metadata__` of the weights: what every tool expects, and what went in, under names that start with `rankine`.
pub(crate) fn metadata(inputs: &ExportInputs<'_>, adapter: Option<&AdapterFile>) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    for (name, value) in made_of(inputs, adapter) {
        let name = if name == OURS { name } else { format!("{OURS}.{name}") };
        // Several of one kind are one line each.
        metadata
            .entry(name)
            .and_modify(|before| *before = format!("{before}\n{value}"))
            .or_insert_with(|| value.clone());
    }
    metadata
}

/// The base model's name: the facts', else the adapter's.
pub(crate) fn base_model(inputs: &ExportInputs<'_>, adapter: Option<&AdapterFile>) -> Option<String> {
    inputs.facts.base_model.clone().or_else(|| adapter?.config.base_model_name_or_path.clone())
}

/// A card before it is known how far the export is from what was trained.
#[derive(Debug, Clone)]
pub(crate) struct Card {
    /// Front matter, heading and table.
    head: String,
    /// Paragraphs.
    notes: Vec<String>,
    /// What went in.
    made_of: Vec<(String, String)>,
    /// How it is used, in Markdown.
    usage: String,
}

impl Card {
    /// Adds a paragraph.
    pub(crate) fn say(&mut self, paragraph: &str) {
        self.notes.push(paragraph.to_owned());
    }

    /// Replaces the lines on how it is used.
    pub(crate) fn used_by(&mut self, usage: String) {
        self.usage = usage;
    }

    /// The text of the file.
    pub(crate) fn render(&self, proof: Option<&Drift>) -> String {
        let mut text = self.head.clone();
        self.notes.iter().for_each(|note| _ = writeln!(text, "\n{note}"));
        if let Some(proof) = proof {
            let _ = writeln!(
                text,
                "\nThe files were read back and compared with base and adapter in f32 on {} held-out tokens: no logit \
                 differs by more than {:.2e} (the largest is {:.1}), and {} of {} likeliest tokens are the same. The KL \
                 divergence of the next token is {:.2e} on average, and 99 of 100 are below {:.2e}.",
                proof.positions,
                proof.max_abs,
                proof.max_logit,
                proof.same_argmax,
                proof.positions,
                proof.kl_mean,
                proof.kl_p99
            );
        }
        provenance(&mut text, &self.made_of);
        let _ = write!(text, "\n## Use\n\n{}", self.usage);
        text
    }
}

/// The card of an adapter.
pub(crate) fn adapter(inputs: &ExportInputs<'_>, adapter: &AdapterFile, base_model: Option<&str>) -> Card {
    let mut tags = vec![if adapter.config.use_dora { "dora" } else { "lora" }.to_owned(), "transformers".to_owned()];
    if let Some(id) = base_model.filter(|name| is_hub_id(name)) {
        tags.insert(0, format!("base_model:adapter:{id}"));
    }
    let mut head = front_matter(inputs, base_model, "adapter", "peft", &tags);
    heading(&mut head, inputs, base_model, "adapter");
    table(&mut head, inputs, Some(adapter), base_model);
    let load = match gguf_name(inputs.base) {
        None => "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\n\n\
                 model = AutoPeftModelForCausalLM.from_pretrained(\"path/to/this/folder\")\n"
            .to_owned(),
        // peft does not look into GGUF files by itself.
        Some(name) => format!(
            "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
             base = AutoModelForCausalLM.from_pretrained(\"path/to/the/base\", gguf_file=\"{name}\")\n\
             model = PeftModel.from_pretrained(base, \"path/to/this/folder\")\n"
        ),
    };
    let usage = format!("```python\n{load}tokenizer = AutoTokenizer.from_pretrained(\"path/to/this/folder\")\n```\n");
    Card { head, notes: Vec::new(), made_of: made_of(inputs, Some(adapter)), usage }
}

/// The name of the file, where the base is a GGUF file.
fn gguf_name(base: &Path) -> Option<String> {
    let found = gguf::find(base).ok().flatten()?;
    let name = found.first().file_name()?.to_str()?.to_owned();
    // It goes into a line of Python.
    (!name.contains(['"', '\\', '\n', '`'])).then_some(name)
}

/// The card of a merged model.
pub(crate) fn merged(
    inputs: &ExportInputs<'_>,
    adapter: Option<&AdapterFile>,
    base_model: Option<&str>,
    changed_tensors: usize,
) -> Card {
    let mut head = front_matter(inputs, base_model, "finetune", "transformers", &[]);
    heading(&mut head, inputs, base_model, "merged");
    table(&mut head, inputs, adapter, base_model);
    let usage = "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
         model = AutoModelForCausalLM.from_pretrained(\"path/to/this/folder\")\n\
         tokenizer = AutoTokenizer.from_pretrained(\"path/to/this/folder\")\n```\n"
        .to_owned();
    let mut card = Card { head, notes: Vec::new(), made_of: made_of(inputs, adapter), usage };
    if adapter.is_some() {
        card.say(&format!("The adapter was merged into {changed_tensors} tensors in f32; the others are the base's."));
    }
    card
}

/// The card of a GGUF file, of a model or of the adapter alone; `usage` is what runs it.
pub(crate) fn gguf(
    inputs: &ExportInputs<'_>,
    adapter: Option<&AdapterFile>,
    base_model: Option<&str>,
    weights: Weights,
    usage: String,
) -> Card {
    let (relation, what) = match weights {
        Weights::Merged => ("finetune", "GGUF"),
        Weights::Adapter => ("adapter", "adapter GGUF"),
    };
    let mut head = front_matter(inputs, base_model, relation, "gguf", &["llama.cpp".to_owned()]);
    heading(&mut head, inputs, base_model, what);
    table(&mut head, inputs, adapter, base_model);
    Card { head, notes: Vec::new(), made_of: made_of(inputs, adapter), usage }
}

/// The licence's identifier: what the user said, else the base's.
pub(crate) fn license(inputs: &ExportInputs<'_>) -> Option<String> {
    let license = inputs.facts.license.clone().or_else(|| base_license(inputs.base));
    license.filter(|name| is_identifier(name))
}

fn front_matter(
    inputs: &ExportInputs<'_>,
    base_model: Option<&str>,
    relation: &str,
    library: &str,
    tags: &[String],
) -> String {
    let mut text = "---\n".to_owned();
    // The Hub refuses a card whose base_model is not an id, so a folder is named below only.
    if let Some(id) = base_model.filter(|name| is_hub_id(name)) {
        let _ = writeln!(text, "base_model: {id}\nbase_model_relation: {relation}");
    }
    let _ = writeln!(text, "library_name: {library}\npipeline_tag: text-generation");
    if let Some(license) = license(inputs) {
        let _ = writeln!(text, "license: {license}");
    }
    let datasets: Vec<&str> = inputs.facts.datasets.iter().map(|d| d.name.as_str()).filter(|n| is_hub_id(n)).collect();
    list(&mut text, "datasets", &datasets);
    list(&mut text, "tags", tags);
    text.push_str("---\n");
    text
}

fn list(text: &mut String, key: &str, items: &[impl AsRef<str>]) {
    if !items.is_empty() {
        let _ = writeln!(text, "{key}:");
        items.iter().for_each(|item| _ = writeln!(text, "- {}", item.as_ref()));
    }
}

fn heading(card: &mut String, inputs: &ExportInputs<'_>, base_model: Option<&str>, what: &str) {
    let name = base_model.map(|name| name.trim_end_matches('/').rsplit('/').next().unwrap_or(name));
    let title = match (&inputs.facts.title, name) {
        (Some(title), _) => title.clone(),
        (None, Some(name)) => format!("{name} {what}"),
        (None, None) => format!("Fine-tuned {what} model"),
    };
    let _ = writeln!(card, "\n# {}\n\nMade with rankine {}.\n", one_line(&title), env!("CARGO_PKG_VERSION"));
}

fn table(card: &mut String, inputs: &ExportInputs<'_>, adapter: Option<&AdapterFile>, base_model: Option<&str>) {
    let facts = inputs.facts;
    let mut rows: Vec<(&str, String)> = Vec::new();
    rows.extend(base_model.map(|name| ("Base model", name.to_owned())));
    if let Some(adapter) = adapter {
        rows.extend(adapter_rows(adapter));
    }
    rows.extend(facts.datasets.iter().map(|d| ("Trained on", format!("{} ({} records)", d.name, d.records))));
    rows.extend(facts.validation_records.map(|n| ("Held out", format!("{n} records"))));
    rows.extend(facts.steps.map(|n| ("Steps", n.to_string())));
    rows.extend(facts.train_loss.map(|loss| ("Training loss at the end", format!("{loss:.4}"))));
    rows.extend(facts.eval_loss_before.map(|loss| ("Held-out loss before", format!("{loss:.4}"))));
    rows.extend(facts.eval_loss.map(|loss| ("Held-out loss after", format!("{loss:.4}"))));
    rows.extend(facts.figures.iter().map(|(name, value)| (name.as_str(), value.clone())));
    if rows.is_empty() {
        return;
    }
    card.push_str("| | |\n|---|---|\n");
    rows.iter().for_each(|(name, value)| _ = writeln!(card, "| {} | {} |", one_line(name), one_line(value)));
}

fn provenance(card: &mut String, made_of: &[(String, String)]) {
    if made_of.is_empty() {
        return;
    }
    card.push_str("\n## Made of\n\n");
    made_of.iter().for_each(|(name, value)| _ = writeln!(card, "- {name}: `{}`", one_line(value)));
}

fn adapter_rows(adapter: &AdapterFile) -> Vec<(&'static str, String)> {
    let config = &adapter.config;
    let mut targets: Vec<&str> = Vec::new();
    let mut saved: Vec<&str> = Vec::new();
    for key in adapter.keys() {
        match key {
            AdapterKey::LoraA { module } | AdapterKey::EmbeddingA { module } => {
                targets.push(module.rsplit('.').next().unwrap_or(module));
            }
            AdapterKey::Saved { name } => saved.push(name),
            _ => {}
        }
    }
    targets.sort_unstable();
    targets.dedup();
    let kind = match (config.use_dora, config.use_rslora) {
        (false, false) => "LoRA",
        (true, false) => "DoRA",
        (false, true) => "LoRA, rank-stabilised scale",
        (true, true) => "DoRA, rank-stabilised scale",
    };
    let by_pattern = |map_is_empty: bool| if map_is_empty { "" } else { " (others by pattern)" };
    let mut rows = vec![
        ("Method", kind.to_owned()),
        ("Rank", format!("{}{}", config.r, by_pattern(config.rank_pattern.is_empty()))),
        ("Alpha", format!("{}{}", config.lora_alpha, by_pattern(config.alpha_pattern.is_empty()))),
        ("Adapted", targets.join(", ")),
    ];
    if !saved.is_empty() {
        rows.push(("Trained in full", saved.join(", ")));
    }
    rows
}

/// The `license` of the base's own card, or of a GGUF file's metadata.
fn base_license(base: &Path) -> Option<String> {
    if let Ok(Companions::Gguf(files)) = Companions::of(base) {
        return files.license().map(str::to_owned);
    }
    let mut text = String::new();
    File::open(base.join(FILE)).ok()?.take(1 << 16).read_to_string(&mut text).ok()?;
    let matter = text.strip_prefix("---")?.split("\n---").next()?;
    let license = matter.lines().find_map(|line| line.strip_prefix("license:"))?;
    Some(license.trim().trim_matches(['"', '\'']).to_owned())
}

/// `organisation/name`, and nothing that YAML could read as something else. A folder of that name is not meant for it.
pub(crate) fn is_hub_id(name: &str) -> bool {
    name.split_once('/').is_some_and(|(one, other)| is_identifier(one) && is_identifier(other))
        && !Path::new(name).is_dir()
}

fn is_identifier(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain) && !name.contains("..")
}

/// Text that stays in its line and its cell.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs<'a>(base: &'a Path, facts: &'a CardFacts) -> ExportInputs<'a> {
        ExportInputs { base, adapter: None, tokenizer: None, chat_template: None, facts }
    }

    #[test]
    fn the_front_matter_is_what_the_hub_reads() {
        let base = tempfile::tempdir().unwrap();
        std::fs::write(base.path().join(FILE), "---\nlanguage: en\nlicense: \"apache-2.0\"\n---\n# Base\n").unwrap();
        let datasets =
            [("org/data", 3), ("local.jsonl", 4)].map(|(name, records)| DatasetFacts { name: name.into(), records });
        let facts = CardFacts { datasets: datasets.to_vec(), eval_loss: Some(1.25), ..CardFacts::default() };
        let card = merged(&inputs(base.path(), &facts), None, Some("org/base"), 0).render(None);
        let expected = "---\nbase_model: org/base\nbase_model_relation: finetune\nlibrary_name: transformers\n\
                        pipeline_tag: text-generation\nlicense: apache-2.0\ndatasets:\n- org/data\n---\n";
        assert!(card.starts_with(expected), "{card}");
        for line in ["# base merged", "| Trained on | local.jsonl (4 records) |", "| Held-out loss after | 1.2500 |"] {
            assert!(card.contains(line), "{line} in\n{card}");
        }
    }

    #[test]
    fn what_is_written_by_users_cannot_break_the_card() {
        let base = tempfile::tempdir().unwrap();
        let facts = CardFacts {
            title: Some("a\n---\nb".into()),
            license: Some("mit\nevil: yes".into()),
            figures: vec![("x|y".into(), "1\n2".into())],
            ..CardFacts::default()
        };
        let card = merged(&inputs(base.path(), &facts), None, Some("./models/a: b"), 0).render(None);
        assert!(!card.contains("base_model:") && !card.contains("evil"), "{card}");
        assert!(card.contains("# a --- b\n") && card.contains("| x\\|y | 1 2 |"), "{card}");
        assert!(card.contains("| Base model | ./models/a: b |"));
        for (name, id) in [
            ("gpt2", false),
            ("a/b", true),
            ("a/b/c", false),
            ("/a", false),
            ("../a", false),
            ("a/b c", false),
            ("", false),
        ] {
            assert_eq!(is_hub_id(name), id, "{name}");
        }
    }
}
