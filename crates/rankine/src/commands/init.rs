//! `rankine init`: a new, untrained model folder, to be pretrained with `adapter: full`.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use rankine_models::companions::{GENERATION_FILE, TEMPLATE_FILES, TOKENIZER_FILES};
use rankine_models::config::DecoderConfig;
use rankine_models::model::Model;
use rankine_models::weights::{
    DEFAULT_MAX_SHARD_BYTES, PlannedTensor, StoredDtype, WeightWriter, WeightsError, encode,
};
use serde_json::{Map, Value as Json, json};

use super::open;
use super::tokenizer::{self, END_OF_TEXT, END_OF_TURN};
use crate::cli::InitArgs;
use crate::fault::{Failure, Fault, chain};
use crate::plan::stored_dtype;
use crate::terminal;
use crate::terminal::numbers::count;

/// Writes the folder.
///
/// # Errors
/// A config that is not supported, a tokenizer that cannot be trained, a folder that is not empty.
pub fn run(args: &InitArgs) -> Result<(), Failure> {
    let mut config = read_json(&args.config)?;
    if args.tokenizer.is_none() && args.train_tokenizer.is_empty() {
        let fault = Fault::new("a model needs a tokenizer");
        return Err(Failure::bad_input(
            fault.help("--train-tokenizer FILE... trains one, --tokenizer FILE takes one that is there"),
        ));
    }
    let occupied = fs::read_dir(&args.out).is_ok_and(|mut entries| entries.next().is_some()) || args.out.is_file();
    if occupied {
        let fault = Fault::new(format!("{}: something is there already", args.out.display()));
        return Err(Failure::bad_input(fault.help("give a folder that does not exist yet")));
    }
    // Checked before a tokenizer is trained for it.
    DecoderConfig::from_file(&args.config).map_err(|error| open::input(&error))?;
    let part = aside(&args.out);
    let made = remove(&part).and_then(|()| make(args, &mut config, &part)).and_then(|summary| {
        if args.out.is_dir() {
            fs::remove_dir(&args.out).map_err(|error| cannot("replace", &args.out, &error))?;
        }
        fs::rename(&part, &args.out).map_err(|error| cannot("write", &args.out, &error))?;
        Ok(summary)
    });
    if made.is_err() {
        // The error that is reported is the first one.
        let _ = fs::remove_dir_all(&part);
    }
    terminal::print(&format!("{}: {}\n", args.out.display(), made?))
}

/// Makes everything in `part` and says what it is.
fn make(args: &InitArgs, config: &mut Map<String, Json>, part: &Path) -> Result<String, Failure> {
    fs::create_dir_all(part).map_err(|error| cannot("create", part, &error))?;
    let asked = config.get("vocab_size").and_then(Json::as_u64).and_then(|size| usize::try_from(size).ok());
    let asked = args.vocab_size.or(asked).unwrap_or(DEFAULT_VOCABULARY);
    match &args.tokenizer {
        Some(file) => {
            let size = copy_tokenizer(file, part)?;
            config.insert("vocab_size".to_owned(), json!(size.max(asked)));
        }
        None => {
            let trained = tokenizer::train(&args.train_tokenizer, asked)?;
            write_json(&part.join("tokenizer_config.json"), &tokenizer::config(config))?;
            write(&part.join("tokenizer.json"), trained.json.as_bytes())?;
            let (end, turn) = (trained.id(END_OF_TEXT), trained.id(END_OF_TURN));
            config.insert("vocab_size".to_owned(), json!(trained.size));
            config.insert("bos_token_id".to_owned(), Json::Null);
            config.insert("eos_token_id".to_owned(), json!(end));
            config.insert("pad_token_id".to_owned(), json!(end));
            write_json(
                &part.join("generation_config.json"),
                &json!({"eos_token_id": [end, turn], "pad_token_id": end}),
            )?;
        }
    }
    let dtype = stored_dtype(args.dtype).unwrap_or(StoredDtype::F32);
    config.insert("torch_dtype".to_owned(), json!(dtype.torch_name()));
    let file = part.join("config.json");
    write_json(&file, &Json::Object(config.clone()))?;
    let decoder = DecoderConfig::from_file(&file).map_err(|error| open::input(&error))?;
    let (parameters, vocabulary) = (decoder.parameters(), decoder.vocab_size);
    let model = Model::random(decoder, args.seed, &Device::flex());
    write_weights(&model, part, dtype).map_err(|error| Failure::Failed(Fault::new(chain(&error))))?;
    Ok(format!("{} untrained parameters, vocabulary {}", count(parameters), count(vocabulary)))
}

/// Where neither the arguments nor the config say a size.
const DEFAULT_VOCABULARY: usize = 32_000;

fn write_weights(model: &Model, folder: &Path, dtype: StoredDtype) -> Result<(), WeightsError> {
    let tensors = model.all_tensors();
    let planned =
        tensors.iter().map(|(name, shape, _)| PlannedTensor { name: name.clone(), dtype, shape: shape.clone() });
    let writer = WeightWriter::plan(folder, planned.collect(), DEFAULT_MAX_SHARD_BYTES)?;
    writer.write(|planned, sink| {
        let found = tensors.iter().find(|(name, ..)| *name == planned.name);
        found.map_or(Ok(()), |(_, _, values)| sink.put(&encode(dtype, values)))
    })
}

/// Copies a tokenizer and what lies beside it; how many tokens it has.
fn copy_tokenizer(file: &Path, part: &Path) -> Result<usize, Failure> {
    let copy = |from: &Path, name: &str| {
        fs::copy(from, part.join(name))
            .map_err(|error| Failure::bad_input(Fault::new(format!("{}: {error}", from.display()))))
    };
    copy(file, "tokenizer.json")?;
    // The file itself may have another name.
    let beside = TOKENIZER_FILES.into_iter().filter(|name| *name != "tokenizer.json");
    for name in beside.chain(TEMPLATE_FILES).chain([GENERATION_FILE]) {
        let companion = file.with_file_name(name);
        if companion.is_file() {
            copy(&companion, name)?;
        }
    }
    let tokenizer = rankine_data::TextTokenizer::from_folder(part, None).map_err(crate::plan::data_failure)?;
    Ok(tokenizer.vocab_size())
}

fn read_json(file: &Path) -> Result<Map<String, Json>, Failure> {
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::bad_input(Fault::new(format!("{}: cannot be read: {error}", file.display()))))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::bad_input(Fault::new(format!("{}: not a JSON object: {error}", file.display()))))
}

fn write_json(file: &Path, value: &Json) -> Result<(), Failure> {
    write(file, format!("{value:#}\n").as_bytes())
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    fs::write(file, bytes).map_err(|error| cannot("write", file, &error))
}

fn remove(folder: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot("remove", folder, &error)),
        _ => Ok(()),
    }
}

fn cannot(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(Fault::new(format!("{}: cannot {verb}: {error}", path.display())))
}

/// `NAME.part` beside the folder.
fn aside(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    out.with_file_name(name)
}
