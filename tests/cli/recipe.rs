//! Recipes that are wrong: every fault at once, each with its line and the next step.

use rankine::fault::{BadInput, Fault};
use rankine::recipe::{self, Recipe};

use super::{folder, rankine};

const MINIMAL: &str = "base_model: tiny\ndatasets:\n  - path: x.jsonl\n";

fn parse(text: &str, sets: &[&str]) -> Result<Recipe, BadInput> {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    recipe::parse("recipe.yaml", text, &sets).map(|file| file.recipe)
}

#[track_caller]
fn good(text: &str, sets: &[&str]) -> Recipe {
    parse(text, sets).unwrap_or_else(|bad| panic!("{bad}"))
}

/// The faults of a text, with the 1-based line of each.
#[track_caller]
fn faults(text: &str, sets: &[&str]) -> Vec<(Option<usize>, Fault)> {
    let bad = parse(text, sets).expect_err("faults");
    let line = |fault: &Fault| {
        let place = fault.place?;
        let source = &bad.sources[place.source].text;
        (place.source == 0).then(|| source[..place.start].matches('\n').count() + 1)
    };
    bad.faults.iter().map(|fault| (line(fault), fault.clone())).collect()
}

fn help(fault: &Fault) -> &str {
    fault.help.as_deref().unwrap_or_default()
}

#[test]
fn what_is_left_out_stays_undecided() {
    let recipe = good(MINIMAL, &[]);
    assert_eq!((recipe.epochs, recipe.lora, recipe.seed), (None, None, None));
    assert_eq!(recipe.datasets[0].path, "x.jsonl");
}

#[test]
fn every_spelling_of_a_float_is_accepted() {
    for spelling in ["1e-5", "1e-05", "1.0E-5", "0.00001", "1.0e-5"] {
        let text = format!(
            "{MINIMAL}learning_rate: {spelling}\nbetas: [{spelling}, 0.9]\nlora:\n  alpha: {spelling}\n  \
             alpha_pattern: {{q_proj: {spelling}}}\nval_size: 0.5\nepochs: 2\n"
        );
        let recipe = good(&text, &[&format!("weight_decay={spelling}")]);
        let lora = recipe.lora.expect("lora");
        assert_eq!(recipe.learning_rate, Some(1e-5), "{spelling}");
        assert_eq!(recipe.betas, Some([1e-5, 0.9]));
        assert_eq!((lora.alpha, lora.alpha_pattern["q_proj"]), (1e-5, 1e-5));
        assert_eq!((recipe.weight_decay, recipe.epochs), (Some(1e-5), Some(2.0)));
    }
}

#[test]
fn text_that_looks_like_a_number_stays_text() {
    let recipe = good(
        &format!("{MINIMAL}revision: 1.0\nsample_prompts: [1, yes]\nlora: {{modules_to_save: [null_head]}}\n"),
        &[],
    );
    assert_eq!(recipe.revision.as_deref(), Some("1.0"));
    assert_eq!(recipe.sample_prompts, Some(vec!["1".to_owned(), "yes".to_owned()]));
}

#[test]
fn all_unknown_keys_are_reported_at_once_with_the_other_tools_spelling() {
    let text = "base_model: tiny\nlora_r: 8\nnum_epochs: 3\nload_in_4bit: true\nlora:\n  rank: 4\n  alhpa: 2\n\
                sequence_len: 512\ndatasets:\n  - path: x.jsonl\n    format: chat\nseeed: 1\nwandb_project: x\n\
                dropout: 0.1\n";
    let faults = faults(text, &[]);
    let expected = [
        (2, "lora_r", "`lora.r`"),
        (3, "num_epochs", "`epochs`"),
        (4, "load_in_4bit", "`quantize: nf4`"),
        (6, "rank", "`lora.r`"),
        (7, "alhpa", "`alpha`"),
        (8, "sequence_len", "`max_seq_len`"),
        (11, "format", "`type`"),
        (12, "seeed", "`seed`"),
        (13, "wandb_project", "--json"),
        (14, "dropout", "`lora.dropout`"),
    ];
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    for (line, key, hint) in expected {
        let found = faults.iter().find(|(_, fault)| fault.what.contains(&format!("`{key}`"))).expect(key);
        assert_eq!(found.0, Some(line), "{key}");
        assert!(help(&found.1).contains(hint), "{key}: {}", help(&found.1));
    }
}

#[test]
fn wrong_values_say_what_was_expected() {
    let text = "base_model: [a]\nadapter: loar\nlora:\n  r: eight\n  dropout: \"0.1\"\ndatasets: x.jsonl\n\
                packing: maybe\nlr_scheduler: cosine_with_min\nbetas: [0.9]\nmax_steps: -1\noptimizer: adamw_torch\ndtype: bfloat16\n\
                lora_target: q_proj\n";
    let faults = faults(text, &[]);
    let about = |key: &str| {
        let (_, fault) =
            faults.iter().find(|(_, fault)| fault.what.contains(key)).unwrap_or_else(|| panic!("{key}: {faults:#?}"));
        format!("{} ({})", fault.what, help(fault))
    };
    for (key, words) in [
        ("`base_model`", "expected text, found a list"),
        ("`adapter`", "did you mean `lora`"),
        ("`lora.r`", "expected a whole number, found `eight`"),
        ("`lora.dropout`", "without the quotes"),
        ("`datasets`", "each item begins with `- `"),
        ("`packing`", "true or false"),
        ("`lr_scheduler`", "`cosine-with-min`"),
        ("`betas`", "2"),
        ("`max_steps`", "at least 1"),
        ("`optimizer`", "`adamw` is the one AdamW here"),
        ("`dtype`", "`bf16`"),
        ("`lora_target`", "`lora.target_modules`"),
    ] {
        assert!(about(key).contains(words), "{key}: {}", about(key));
    }
}

#[test]
fn what_is_required_is_asked_for() {
    let faults = faults("adapter: lora\ndatasets:\n  - type: chat\n", &[]);
    let words: Vec<&str> = faults.iter().map(|(_, fault)| fault.what.as_str()).collect();
    assert_eq!(words, ["`datasets[0].path` is missing", "`base_model` is missing"]);
    assert_eq!(faults[0].0, Some(3));
    assert_eq!(parse("", &[]).expect_err("empty").faults.len(), 2);
    assert_eq!(parse("datasets:\nbase_model:\n", &[]).expect_err("empty").faults.len(), 2);
}

#[test]
fn what_is_not_yaml_shows_its_line() {
    for (text, line) in [
        ("base_model: tiny\nlora: {r: 8\nseed: 1\n", 3),
        ("base_model: tiny\n\tr: 8\n", 2),
        ("base_model: \"tiny\nseed: 1\n", 1),
        ("a: 1\n---\nb: 2\n", 3),
        ("seed: 1\nseed: 2\n", 2),
        ("seed: *nothing\n", 1),
    ] {
        let faults = faults(text, &[]);
        assert_eq!(faults.len(), 1, "{text}: {faults:#?}");
        assert_eq!(faults[0].0, Some(line), "{text}: {:?}", faults[0].1);
    }
    assert!(faults("- a\n- b\n", &[])[0].1.what.contains("a recipe is a mapping"));
}

#[test]
fn set_changes_any_key() {
    let recipe = good(
        &format!("{MINIMAL}lora: {{r: 4}}\nepochs: 7\n"),
        &[
            "lora.r=8",
            "lora.target_modules=[q_proj, v_proj]",
            "datasets.0.type=text",
            "datasets[1].path=y.jsonl",
            "learning_rate=1e-5",
            "epochs=",
            "seed=1",
            "seed=2",
            "sample_prompts=[\"a = b\"]",
        ],
    );
    let lora = recipe.lora.expect("lora");
    assert_eq!(lora.r, 8);
    assert_eq!(serde_json::json!(lora.target_modules), serde_json::json!(["q_proj", "v_proj"]));
    assert_eq!(recipe.datasets[1].path, "y.jsonl");
    assert_eq!((recipe.learning_rate, recipe.epochs, recipe.seed), (Some(1e-5), None, Some(2)));
    assert_eq!(recipe.sample_prompts, Some(vec!["a = b".to_owned()]));
    assert_eq!(good("", &["base_model=x", "datasets=[{path: x}]"]).base_model, "x");
}

#[test]
fn a_fault_in_a_set_argument_names_the_argument() {
    for (set, words) in [
        ("lora.rr=8", "`rr` is not a key of `lora`"),
        ("lora.r=x", "`lora.r`: expected a whole number"),
        ("lora", "has no `=`"),
        ("=8", "a name is missing"),
        ("datasets.5.path=x", "there is no item 5: the list has 1"),
        ("datasets.first.path=x", "`first` is no position"),
        ("base_model.path=x", "cannot be set inside the value `tiny`"),
        ("seed=[1", "this is not YAML"),
    ] {
        let bad = parse(MINIMAL, &[set]).expect_err(set);
        assert_eq!(bad.faults.len(), 1, "{set}: {:#?}", bad.faults);
        let place = bad.faults[0].place.expect("a place");
        assert_eq!(bad.sources[place.source].text, set);
        assert!(bad.faults[0].what.contains(words), "{set}: {}", bad.faults[0].what);
    }
}

#[test]
fn the_program_shows_the_line_and_ends_with_2() {
    let folder = folder(&[("bad.yaml", "base_model: tiny\nlora_r: 8\ndatasets:\n  - path: x.jsonl\nepochs: many\n")]);
    let run = rankine(folder.path(), &["plan", "bad.yaml"]);
    run.ends(2).says("bad.yaml:2:1").says("lora_r: 8").says("help: here it is `lora.r`").says("bad.yaml: 2 faults");
    assert!(run.stdout.is_empty() && !run.stderr.contains('\u{1b}'), "{}", run.stderr);
    let run = rankine(folder.path(), &["plan", "bad.yaml", "--set", "lora_r=", "--set", "lora.r=0x"]);
    run.ends(2).says("--set").says("lora.r=0x");
    rankine(folder.path(), &["plan", "none.yaml"]).ends(2).says("the recipe cannot be read");
    rankine(folder.path(), &["plan", "."]).ends(2).says("the recipe cannot be read");
    rankine(folder.path(), &["no-such-command"]).ends(2);
}
