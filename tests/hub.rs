//! Models and datasets by name: fetched, locked, repeated offline, refused, pushed, and killed on the way.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value as Json;

use crate::cli::{Run, command, ended, folder, rankine};
use crate::hub_server::{STRANGER, Server, TOKEN, What, sha256};

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "vocab_size": 280,
    "tie_word_embeddings": true, "hidden_act": "silu", "rms_norm_eps": 1e-5}"#;

const RECIPE: &str = "base_model: org/tiny\nlora: {r: 4, alpha: 8}\ndatasets: [{path: org/sums}]\n\
    val_datasets: [{path: held.jsonl}]\nmax_steps: 2\nmicro_batch_size: 2\n\
    gradient_accumulation_steps: 1\nlearning_rate: 1e-2\n";

fn sums(from: usize, to: usize) -> String {
    (from..to).map(|n| format!("{{\"prompt\": \"{n} + 1 =\", \"completion\": \" {}\"}}\n", n + 1)).collect()
}

/// A Hub with a model and a dataset, and a folder with a recipe that names them.
fn workshop() -> (Server, tempfile::TempDir) {
    let here = folder(&[
        ("config.json", CONFIG),
        ("x.jsonl", &sums(0, 8)),
        ("held.jsonl", &sums(8, 10)),
        ("recipe.yaml", RECIPE),
    ]);
    let init = ["init", "config.json", "--out", "hub/models/org/tiny", "--train-tokenizer", "x.jsonl"];
    rankine(here.path(), &init).ends(0);
    let data = here.path().join("hub/datasets/org/sums");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("train.jsonl"), sums(0, 8)).unwrap();
    fs::write(data.join("README.md"), "# Sums\n").unwrap();
    let server = Server::start();
    server.load(&here.path().join("hub"));
    fs::remove_dir_all(here.path().join("hub")).unwrap();
    (server, here)
}

/// The program with a connection to the server.
fn online(server: &Server, folder: &Path, arguments: &[&str], token: Option<&str>) -> Run {
    let mut command = command(folder, arguments);
    command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", server.endpoint());
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    ended(command, "")
}

fn json(path: &Path) -> Json {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The adapter's tensors without the header, which names what went in.
fn metadata(adapter: &Path) -> BTreeMap<String, String> {
    let bytes = fs::read(adapter.join("adapter_model.safetensors")).unwrap();
    let (_, about) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    about.metadata().clone().unwrap_or_default().into_iter().collect()
}

#[test]
fn a_recipe_by_names_trains_is_locked_and_repeats_offline() {
    let (server, here) = workshop();
    let place = here.path();
    let run = online(&server, place, &["train", "recipe.yaml"], None);
    run.ends(0).says("org/tiny: ").says("recipe on org/tiny: ");
    let commit = server.state().repositories["models/org/tiny"].refs["main"].clone();
    let data = server.state().repositories["datasets/org/sums"].refs["main"].clone();

    // The lock, the run's folder, the card and the weights say the same.
    let locked = json(&place.join("rankine.lock"))["recipes"]["recipe"].clone();
    assert_eq!(locked, json(&place.join("runs/recipe/provenance.json")));
    let expected = serde_json::json!([
        {"kind": "model", "name": "org/tiny", "revision": "main", "commit": commit},
        {"kind": "dataset", "name": "org/sums", "revision": "main", "commit": data},
    ]);
    assert_eq!(locked["repositories"], expected);
    assert_eq!(locked["files"], serde_json::json!({"held.jsonl": sha256(sums(8, 10).as_bytes())}));
    let adapter = place.join("runs/recipe/adapter");
    let card = fs::read_to_string(adapter.join("README.md")).unwrap();
    for words in [
        "base_model: org/tiny\n".to_owned(),
        "datasets:\n- org/sums\n".to_owned(),
        format!("- base_model: `org/tiny@{commit}`"),
        format!("- dataset: `org/sums@{data}`"),
    ] {
        assert!(card.contains(&words), "`{words}` is not in:\n{card}");
    }
    let found = metadata(&adapter);
    assert_eq!(found["rankine.base_model"], format!("org/tiny@{commit}"));
    assert_eq!(found["rankine.dataset"], format!("org/sums@{data}"));
    assert_eq!((found["format"].as_str(), found["rankine"].as_str()), ("pt", env!("CARGO_PKG_VERSION")));
    assert_eq!(json(&place.join("runs/recipe/plan.json"))["plan"]["model"]["commit"], commit);

    // The branch moves; the lock does not, and needs no connection.
    let mut files = server.state().repositories["models/org/tiny"].commits[&commit].clone();
    files.insert("README.md".to_owned(), std::sync::Arc::new(b"another".to_vec()));
    let moved = server.state().commit("models/org/tiny", "main", files);
    let again = ["train", "recipe.yaml", "--locked", "--set", "output_dir=again"];
    rankine(place, &again).ends(0);
    let weights = |run: &str| fs::read(place.join(run).join("adapter/adapter_model.safetensors")).unwrap();
    assert_eq!(weights("again"), weights("runs/recipe"), "to the bit");
    let other = online(&server, place, &["train", "recipe.yaml", "--set", "output_dir=other"], None);
    other.ends(0).says(&format!("model `org/tiny` at `main` was {commit}, and is {moved} now"));
    assert_eq!(json(&place.join("rankine.lock"))["recipes"]["recipe"]["repositories"][0]["commit"], moved);
}

#[test]
fn a_lock_refuses_what_is_not_in_it() {
    let (server, here) = workshop();
    let place = here.path();
    let locked = |sets: &[&str]| {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        online(&server, place, &["plan", "recipe.yaml", "--locked"].into_iter().chain(sets).collect::<Vec<_>>(), None)
    };
    locked(&[]).ends(2).says("there is no rankine.lock").says("run once without `--locked`");
    online(&server, place, &["train", "recipe.yaml", "--quiet"], None).ends(0);
    locked(&[]).ends(0);
    locked(&["learning_rate=1e-3"]).ends(0);
    locked(&["revision=v2"]).ends(2).says("rankine.lock has no model `org/tiny` at revision `v2`");
    locked(&["datasets=[{path: org/other}]"]).ends(2).says("rankine.lock has no dataset `org/other`");
    locked(&["chat_template=\"{{ messages[0].content }}\""]).ends(2).says("the chat template has changed");
    locked(&["datasets=[{path: x.jsonl}]"])
        .ends(2)
        .says("`x.jsonl` is not in it")
        .says("dataset `org/sums` at `main` is not used any more");
    fs::write(place.join("held.jsonl"), sums(11, 13)).unwrap();
    locked(&[]).ends(2).says("`held.jsonl` has changed");
    let text = fs::read_to_string(place.join("rankine.lock")).unwrap();
    let version = format!("\"rankine\": \"{}\"", env!("CARGO_PKG_VERSION"));
    fs::write(place.join("rankine.lock"), text.replace(&version, "\"rankine\": \"0.0.1\"")).unwrap();
    locked(&[]).ends(2).says("made by rankine 0.0.1").says("`held.jsonl` has changed");
    fs::write(place.join("rankine.lock"), "{").unwrap();
    locked(&[]).ends(2).says("rankine.lock:").says("delete it");
}

#[test]
fn refusals_stand_at_their_line_and_nothing_is_fetched_for_a_wrong_recipe() {
    let (server, here) = workshop();
    let place = here.path();
    let plan = |sets: &[&str], token| {
        let sets = sets.iter().flat_map(|set| ["--set", set]);
        online(&server, place, &["plan", "recipe.yaml"].into_iter().chain(sets).collect::<Vec<_>>(), token)
    };
    plan(&["base_model=org/none"], None).ends(2).says("there is no model `org/none`").says("base_model");
    plan(&["base_model=org/sums"], None).ends(2).says("there is a dataset of that name");
    plan(&["revision=v9"], None).ends(2).says("has no revision `v9`; it has `main`").says("revision");
    plan(&[], Some("hf_bad")).ends(2).says("refuses the token from HF_TOKEN");
    server.state().repositories.get_mut("models/org/tiny").unwrap().gated = true;
    let gated = plan(&[], Some(STRANGER));
    gated.ends(2).says("is gated").says(&format!("accept the licence at {}/org/tiny", server.endpoint()));
    gated.says("recipe.yaml:1");
    server.state().repositories.get_mut("models/org/tiny").unwrap().gated = false;
    // No fault of the recipe: another exit code.
    server.fault("/api/", 100, What::Status(429, vec![("Retry-After", "600".into())]));
    plan(&[], None).ends(1).says("asks to wait 600 s").says("set a token");
    server.state().faults.clear();
    rankine(place, &["plan", "recipe.yaml"]).ends(2).says("HF_HUB_OFFLINE is set").says("rankine pull");
    let fetched = server.requests("/lfs/").len();
    plan(&["lora.r=0"], None).ends(2).says("lora.r");
    plan(&["datasets=[{path: nowhere.jsonl}]"], None).ends(2).says("there is no `./nowhere.jsonl`");
    server.commit("models/org/odd", &[("config.json", b"{\"model_type\": \"mamba\"}"), ("model.safetensors", b"x")]);
    plan(&["base_model=org/odd"], None).ends(2).says("mamba");
    assert_eq!(server.requests("/lfs/").len(), fetched, "no weights");
}

#[test]
fn pull_lists_and_push() {
    let (server, here) = workshop();
    let place = here.path();
    let pulled = online(&server, place, &["pull", "org/tiny"], None);
    pulled.ends(0).says("model org/tiny at");
    let folder = pulled.stdout.trim();
    assert!(Path::new(folder).join("model.safetensors").is_file(), "{folder}");
    online(&server, place, &["pull", "org/sums", "--json"], None).ends(0);
    online(&server, place, &["pull", "datasets/org/sums@main", "--include", "*.jsonl"], None).ends(0);
    online(&server, place, &["pull", "org/none"], None).ends(2).says("there is no model `org/none`");
    online(&server, place, &["pull", "org/tiny@v3"], None).ends(2).says("it has `main`");
    online(&server, place, &["pull", "a b"], None).ends(2).says("no name of a repository");
    let listed = rankine(place, &["cache"]);
    listed.ends(0);
    assert!(listed.stdout.contains("org/tiny") && listed.stdout.contains("2 repositories"), "{}", listed.stdout);
    let listed: Json = serde_json::from_str(&rankine(place, &["cache", "--json"]).stdout).unwrap();
    assert_eq!(listed["repositories"][0]["name"], "org/tiny");
    assert_eq!(listed["repositories"][0]["commits"][0]["revisions"], serde_json::json!(["main"]));
    // A model by name needs nothing else, and offline nothing at all.
    rankine(place, &["generate", "org/tiny", "--prompt", "1 + 1 =", "--max-new-tokens", "2"]).ends(0);

    online(&server, place, &["train", "recipe.yaml", "--quiet", "--set", "export=[{target: merged}]"], None).ends(0);
    online(&server, place, &["push", "runs/recipe", "tester/sums"], None).ends(2).says("uploads need a token");
    online(&server, place, &["push", "runs/recipe", "sums"], Some(TOKEN)).ends(2).says("give `org/name`");
    online(&server, place, &["push", ".huggingface", "tester/sums"], Some(TOKEN))
        .ends(2)
        .says("is no adapter, model or finished run");
    let pushed = online(&server, place, &["push", "runs/recipe", "tester/sums"], Some(TOKEN));
    pushed.ends(0).says("an adapter from runs/recipe/adapter").says("a new private repository");
    assert_eq!(pushed.stdout.trim(), format!("{}/tester/sums", server.endpoint()));
    assert!(server.state().repositories["models/tester/sums"].private);
    online(&server, place, &["push", "runs/recipe/merged", "tester/merged", "--public"], Some(TOKEN)).ends(0);
    assert!(!server.state().repositories["models/tester/merged"].private);
    // What was pushed is what is pulled.
    let back = online(&server, place, &["pull", "tester/sums"], Some(TOKEN));
    back.ends(0);
    for name in ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"] {
        let (there, here) = (Path::new(back.stdout.trim()).join(name), place.join("runs/recipe/adapter").join(name));
        assert_eq!(fs::read(there).unwrap(), fs::read(here).unwrap(), "{name}");
    }
    let merged =
        online(&server, place, &["generate", "tester/merged", "--prompt", "1 + 1 =", "--max-new-tokens", "2"], None);
    merged.ends(0);
}

#[test]
fn a_pull_that_is_killed_and_started_again_ends_in_the_same_files() {
    let server = Server::start();
    let noise: Vec<u8> = (0..2_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let other: Vec<u8> = noise.iter().rev().copied().collect();
    server.commit(
        "models/org/big",
        &[
            ("config.json", b"{}"),
            ("model-00001-of-00002.safetensors", &noise),
            ("model-00002-of-00002.safetensors", &other),
            ("model.safetensors.index.json", b"{}"),
            ("tokenizer.json", &noise[..200_000]),
        ],
    );
    server.state().speed = Some(2_000_000);
    let place = folder(&[]);
    let start = || {
        let mut command = command(place.path(), &["pull", "org/big", "--quiet"]);
        command.env_remove("HF_HUB_OFFLINE").env("HF_ENDPOINT", server.endpoint());
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let blobs = place.path().join(".huggingface/hub/models--org--big/blobs");
    let mut left = Vec::new();
    for round in 1..=6 {
        let mut child = start();
        std::thread::sleep(Duration::from_millis(120 * round));
        // SIGKILL on Unix.
        let _ = child.kill();
        child.wait().unwrap();
        // What has a name is whole, whenever it was killed.
        for entry in fs::read_dir(&blobs).into_iter().flatten().flatten() {
            let (name, bytes) = (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
            left.push(name.clone());
            if name.len() == 64 {
                assert_eq!(sha256(&bytes), name);
            }
        }
    }
    assert!(left.iter().any(|name| name.ends_with(".incomplete")), "killed in the middle: {left:?}");
    server.state().speed = None;
    server.forget_requests();
    let run = online(&server, place.path(), &["pull", "org/big"], None);
    run.ends(0);
    let ranges = server.requests("/lfs/").into_iter().filter(|seen| seen.range.is_some()).count();
    let found = Path::new(run.stdout.trim());
    assert_eq!(fs::read(found.join("model-00001-of-00002.safetensors")).unwrap(), noise);
    assert_eq!(fs::read(found.join("model-00002-of-00002.safetensors")).unwrap(), other);
    assert_eq!(fs::read(found.join("tokenizer.json")).unwrap(), &noise[..200_000]);
    let names: Vec<String> =
        fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| !name.ends_with(".incomplete")), "{names:?}");
    assert!(ranges <= 2, "goes on, not anew: {ranges}");
}

#[test]
fn a_dataset_by_name_is_the_config_and_split_that_were_asked_for() {
    let (server, here) = workshop();
    let place = here.path();
    let card = "---\nconfigs:\n- config_name: small\n  data_files:\n  - {split: train, path: s/*.jsonl}\n  - {split: extra, path: x/*.jsonl}\n\
                - config_name: large\n  data_files: l/*.jsonl\n---\n";
    let files: [(&str, &[u8]); 5] = [
        ("README.md", card.as_bytes()),
        ("s/0.jsonl", &sums(0, 8).into_bytes()[..]),
        ("s/1.jsonl", &sums(8, 16).into_bytes()[..]),
        ("x/0.jsonl", &sums(16, 20).into_bytes()[..]),
        ("l/0.jsonl", &sums(20, 30).into_bytes()[..]),
    ]
    .map(|(name, bytes)| (name, &*Vec::leak(bytes.to_vec())));
    server.commit_on("datasets/org/cards", "main", &files);
    let recipe = |dataset: &str| RECIPE.replace("{path: org/sums}", dataset);
    let plan = |dataset: &str| {
        fs::write(place.join("named.yaml"), recipe(dataset)).unwrap();
        online(&server, place, &["plan", "named.yaml", "--json"], None)
    };
    plan("{path: org/cards}").ends(2).says("several configs; choose one: `name:` one of `small`, `large`");
    plan("{path: org/cards, name: small, split: test}").ends(2).says("no split `test`, but `train`, `extra`");
    let run = plan("{path: org/cards, name: small, split: \"train[:75%]+extra[1:]\"}");
    run.ends(0);
    let planned: Json = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(planned["forecast"]["datasets"][0]["records"], 15, "12 of 16, and 3 of 4");
    let fetched = |name: &str| {
        let asked = format!("/{name}");
        walk(&place.join(".huggingface")).iter().any(|path| path.to_string_lossy().ends_with(&asked))
    };
    assert!(fetched("s/1.jsonl") && fetched("x/0.jsonl") && !fetched("l/0.jsonl"), "only what is read is fetched");
}

#[test]
fn a_dataset_that_cannot_be_read_is_the_hubs_parquet_and_repeats_offline() {
    const SUMS: &[u8] = include_bytes!("golden/parquet/sums.parquet");
    const CHATS: &[u8] = include_bytes!("golden/parquet/chats.parquet");
    let (server, here) = workshop();
    let place = here.path();
    server.commit_on("datasets/org/script", "main", &[("script.py", b"pass"), ("README.md", b"# S\n")]);
    let copies = [
        ("default/train/0000.parquet", SUMS),
        ("default/test/0000.parquet", SUMS),
        ("chats/train/0000.parquet", CHATS),
        ("chats/partial-test/0000.parquet", CHATS),
    ];
    let commit = server.commit_on("datasets/org/script", "refs/convert/parquet", &copies);
    let datasets =
        "{path: org/script, split: \"train[:50%]\"}, {path: org/script, name: chats, split: \"train[-25%:]\"}";
    let recipe = RECIPE
        .replace("{path: org/sums}", datasets)
        .replace("{path: held.jsonl}", "{path: org/script, name: chats, split: \"train[:2]\"}");
    fs::write(place.join("recipe.yaml"), recipe).unwrap();
    online(&server, place, &["train", "recipe.yaml"], None).ends(0);
    let planned = json(&place.join("runs/recipe/plan.json"));
    let found = planned["forecast"]["datasets"].as_array().unwrap().iter();
    let found: Vec<_> = found.map(|dataset| (&dataset["records"], &dataset["record_type"])).collect();
    let kinds =
        [(8, "prompt-completion"), (3, "chat"), (2, "chat")].map(|(count, kind)| (Json::from(count), Json::from(kind)));
    assert_eq!(found, kinds.iter().map(|(count, kind)| (count, kind)).collect::<Vec<_>>());
    let fetched: Vec<_> =
        walk(&place.join(".huggingface")).into_iter().filter(|path| path.ends_with("0000.parquet")).collect();
    assert_eq!(fetched.len(), 2, "what is not read is not fetched: {fetched:?}");
    let locked = json(&place.join("rankine.lock"))["recipes"]["recipe"]["repositories"].clone();
    let script = serde_json::json!({"kind": "dataset", "name": "org/script", "revision": "main", "commit": commit});
    assert_eq!(locked[1], script);
    assert_eq!(locked.as_array().unwrap().len(), 2, "each repository once");

    // What is pulled is enough for a recipe.
    let other = folder(&[("held.jsonl", &sums(8, 10)), ("recipe.yaml", &RECIPE.replace("org/sums", "org/script"))]);
    let pulled = online(&server, other.path(), &["pull", "datasets/org/script", "--json"], None);
    pulled.ends(0);
    assert_eq!(serde_json::from_str::<Json>(&pulled.stdout).unwrap()["files"].as_array().unwrap().len(), 4);
    online(&server, other.path(), &["pull", "org/tiny"], None).ends(0);
    rankine(other.path(), &["plan", "recipe.yaml"]).ends(0);

    // Offline it is the same run, by the lock and without; and the lock's, when the copies are made anew.
    rankine(place, &["train", "recipe.yaml", "--set", "output_dir=offline"]).ends(0);
    let copies = [("default/train/0000.parquet", SUMS), ("chats/train/0000.parquet", SUMS)];
    let moved = server.commit_on("datasets/org/script", "refs/convert/parquet", &copies);
    online(&server, place, &["train", "recipe.yaml", "--locked", "--set", "output_dir=locked"], None).ends(0);
    rankine(place, &["train", "recipe.yaml", "--locked", "--set", "output_dir=both"]).ends(0);
    let weights = |run: &str| fs::read(place.join(run).join("adapter/adapter_model.safetensors")).unwrap();
    for run in ["offline", "locked", "both"] {
        assert_eq!(weights(run), weights("runs/recipe"), "{run}, to the bit");
    }
    let run = online(&server, place, &["plan", "recipe.yaml", "--json"], None);
    let planned: Json = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(planned["forecast"]["datasets"][1]["record_type"], "prompt-completion");
    assert_ne!(commit, moved);

    // And what has been converted and cannot be read says so.
    server.commit_on("datasets/org/broken", "main", &[("script.py", b"pass")]);
    server.commit_on("datasets/org/broken", "refs/convert/parquet", &[("default/train/0000.parquet", b"none")]);
    fs::write(place.join("broken.yaml"), RECIPE.replace("org/sums", "org/broken")).unwrap();
    let run = online(&server, place, &["plan", "broken.yaml"], None);
    run.ends(2).says("default/train/0000.parquet: not a readable Parquet file");
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
