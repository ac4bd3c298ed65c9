//! A plan in words.

use std::collections::BTreeMap;

use rankine_models::attach::AdapterLayout;
use rankine_models::model::Residency;
use rankine_nn::lora::AdapterKind;
use rankine_train::config::OptimizerKind;
use rankine_train::memory::MemoryForecast;
use serde_json::{Value as Json, json};

use super::device::dtype_name;
use super::{Forecast, GradientCheckpointing, Plan, Validation};
use crate::recipe::{BaseCompute, BaseResidency, MicroBatchSize};
use crate::terminal::numbers::{bytes, count, counted, float, percent};
use crate::terminal::table::columns;

impl Plan {
    /// The plan as `rankine plan` prints it.
    pub fn to_text(&self, forecast: &Forecast) -> String {
        let mut rows = Vec::new();
        let mut row = |name: &str, text: String| rows.push(vec![name.to_owned(), text]);
        self.model_rows(&mut row);
        self.data_rows(forecast, &mut row);
        self.training_rows(forecast, &mut row);
        self.output_rows(&mut row);
        format!("{}\n{}", columns(&rows, &[], ""), self.trained_table())
    }

    /// The plan as `rankine plan --json` prints it.
    pub fn to_json(&self, forecast: &Forecast) -> Json {
        let groups = trained_by_module(&self.adapter.layout);
        let trained: Vec<Json> = groups
            .iter()
            .map(|((module, tensor, shape), tensors)| {
                json!({
                    "module": module,
                    "tensor": tensor,
                    "shape": shape,
                    "tensors": tensors,
                    "parameters": tensors * shape.iter().product::<usize>(),
                })
            })
            .collect();
        json!({"plan": self, "forecast": forecast, "trained": trained, "memory": forecast.fit.memory})
    }

    fn model_rows(&self, row: &mut impl FnMut(&str, String)) {
        let model = &self.model;
        let config = &model.config;
        row("model", format!("{} ({}, {} parameters)", model.name(), model.model_type, count(model.parameters)));
        if let Some(commit) = &model.commit {
            row("", format!("commit {commit}, in {}", model.folder.display()));
        }
        let files = match model.weight_files.as_slice() {
            [one] => one.clone(),
            several => format!("{} shards", several.len()),
        };
        let stored = dtype_name(model.stored_dtype);
        let stored = if model.quantised { format!("quantised, read as {stored}") } else { format!("in {stored}") };
        row("", format!("{files}, {} {stored}", bytes(model.weight_bytes)));
        row(
            "",
            format!(
                "{} layers, hidden {}, {} heads ({} for keys and values), vocabulary {}, context {}",
                config.num_hidden_layers,
                count(config.hidden_size),
                config.num_attention_heads,
                config.num_key_value_heads,
                count(config.vocab_size),
                count(config.max_position_embeddings),
            ),
        );
        let compute = match model.base_compute {
            BaseCompute::F32 => String::new(),
            other => format!(", multiplied in {}", other.name()),
        };
        let held = match model.quantize {
            None => format!("frozen weights in {}", dtype_name(model.dtype)),
            Some(quantize) => format!("linear layers in {}, the rest in {}", quantize.name(), dtype_name(model.dtype)),
        };
        let auto = if model.device_auto { " (auto)" } else { "" };
        row("device", format!("{}{auto}, {held}{compute}", model.device));
        self.precision_rows(row);
        let kind = match self.adapter.kind {
            AdapterKind::Lora => "lora",
            AdapterKind::Dora => "dora",
            AdapterKind::Full => "full: every weight of the model is trained",
        };
        let Some(lora) = &self.adapter.lora else {
            return row("adapter", kind.to_owned());
        };
        let scale = if lora.use_rslora { "alpha / sqrt(r)" } else { "alpha / r" };
        let shape =
            format!("r {}, alpha {} (scale {scale}), dropout {}", lora.r, float(lora.alpha), float(lora.dropout));
        row("adapter", format!("{kind}, {shape}"));
        if let Some(path) = &self.adapter.adapter_path {
            row("", format!("going on from {}", path.display()));
        }
    }

    /// What a GPU computes in; the CPU computes everything in f32.
    fn precision_rows(&self, row: &mut impl FnMut(&str, String)) {
        let model = &self.model;
        if model.device.is_cpu() {
            return;
        }
        let rest = "residual stream, norms, softmax, loss and what is trained in f32";
        let (held, stored) = (dtype_name(model.dtype), dtype_name(model.stored_dtype));
        let from = if held == stored { String::new() } else { format!(" (stored in {stored})") };
        row("", format!("products with the base in {held}{from}; {rest}"));
        row("", "tested beside the CPU before the first step; a loss that is not finite ends the run".to_owned());
    }

    fn data_rows(&self, forecast: &Forecast, row: &mut impl FnMut(&str, String)) {
        for (index, dataset) in forecast.datasets.iter().enumerate() {
            let first = index == 0 || forecast.datasets[index - 1].validation != dataset.validation;
            let name = match (first, dataset.validation) {
                (false, _) => "",
                (true, false) => "data",
                (true, true) => "validation",
            };
            let detected = if dataset.detected { " (detected)" } else { "" };
            let about = if self.data.stream.is_some() && !dataset.validation { "about " } else { "" };
            let files = match dataset.files.as_slice() {
                [_] => String::new(),
                several => format!(" in {} files", several.len()),
            };
            row(
                name,
                format!(
                    "{}: {about}{}{files}, {}{detected}",
                    dataset.path,
                    counted(dataset.records, "record"),
                    dataset.record_type
                ),
            );
        }
        if let Validation::Part(_) = self.data.validation {
            row(
                "validation",
                format!("{} of these, chosen by the seed", counted(forecast.validation_examples, "example")),
            );
        }
        let train = &forecast.train;
        let packing = if self.data.packing { ", packed" } else { "" };
        let limit = format!("sequences of at most {}{packing}", count(self.data.max_seq_len));
        match self.data.stream {
            Some(buffer) => {
                row("tokens", limit);
                let at_a_time = counted(buffer, "record");
                row(
                    "",
                    format!("read while training, {at_a_time} at a time; each block is checked when its turn comes"),
                );
            }
            None => {
                let tokens = (count(train.tokens), count(train.trained_tokens));
                row("tokens", format!("{}, of which {} are trained on", tokens.0, tokens.1));
                row("", format!("{limit}; longest record {}", count(train.longest)));
            }
        }
        let all = [Some(train), forecast.validation.as_ref()];
        let sum = |of: fn(&rankine_data::TokenizeReport) -> usize| {
            all.iter().flatten().map(|report| of(report)).sum::<usize>()
        };
        for (number, words) in [
            (sum(|report| report.truncated), "longer than max_seq_len: the end is cut off"),
            (sum(|report| report.dropped), "without a trained token: left out"),
            (sum(|report| report.without_stop), "not ending in a stop token: stopping is not learnt from them"),
            (sum(|report| report.boundary_merges), "whose prompt and completion share a token: encoded apart"),
            (
                sum(|report| report.split_records),
                "become several examples, as the chat template rewrites earlier turns",
            ),
        ] {
            if number > 0 {
                row("", format!("note: {} {words}", counted(number, "record")));
            }
        }
        if let Some(source) = &forecast.chat_template {
            row("template", source.clone());
        }
    }

    fn training_rows(&self, forecast: &Forecast, row: &mut impl FnMut(&str, String)) {
        let training = &self.training;
        let length = match training.max_steps {
            Some(_) => "max_steps".to_owned(),
            None => format!("{} x {} an epoch", float(training.epochs), count(forecast.steps_per_epoch)),
        };
        let fit = &forecast.fit;
        let sequences = fit.micro_batch_size * fit.gradient_accumulation_steps;
        let by = if matches!(training.micro_batch_size, MicroBatchSize::Auto(_)) { " (auto)" } else { "" };
        row("steps", format!("{} ({length})", count(forecast.total_steps)));
        row(
            "batch",
            format!(
                "{} a step (micro_batch_size {}{by} x gradient_accumulation_steps {})",
                counted(sequences, "sequence"),
                fit.micro_batch_size,
                fit.gradient_accumulation_steps
            ),
        );
        let (asked, decided) = (training.gradient_checkpointing, fit.gradient_checkpointing);
        if asked != GradientCheckpointing::None {
            let by = if asked == GradientCheckpointing::Auto { " (auto)" } else { "" };
            row("", format!("activations computed again: {decided}{by}"));
        }
        if fit.residency == Residency::Stream {
            let by = if self.model.base_residency == BaseResidency::Auto { " (auto)" } else { "" };
            row("", format!("the base's linear layers stay in their files{by}"));
        }
        if let Some(memory) = fit.memory {
            row("memory", format!("about {} at its peak", bytes(memory.total())));
            let MemoryForecast { base, trained, optimizer, activations, scratch, program } = memory;
            let [base, trained, optimizer, activations, scratch, program] =
                [base, trained, optimizer, activations, scratch, program].map(bytes);
            row("", format!("base {base}, trained with gradients {trained}, optimizer {optimizer}"));
            row("", format!("activations {activations}, scratch {scratch}, program {program}"));
        }
        row(
            "learning",
            format!(
                "rate {}, {}, {} of warm-up",
                float(training.learning_rate),
                word(&training.lr_scheduler),
                counted(forecast.warmup_steps, "step")
            ),
        );
        row("optimizer", self.optimizer_words());
        if let Some(alpha) = training.neftune_alpha {
            row("", format!("NEFTune noise {}", float(alpha)));
        }
        let every = |steps: usize| format!("every {}", counted(steps, "step"));
        let evaluation = match forecast.eval_steps {
            None => "none: there is no validation data".to_owned(),
            Some(steps) => format!("before the first step, {}, after the last", every(steps)),
        };
        row("evaluation", evaluation);
        if let Some(patience) = training.early_stopping_patience {
            row("", format!("ends after {} without a lower loss", counted(patience, "evaluation")));
        }
        let best = if training.load_best { ", ends with the best" } else { "" };
        row(
            "checkpoints",
            format!("{}, the last {} kept{best}", every(forecast.save_steps), training.save_total_limit),
        );
        row("seed", training.seed.to_string());
    }

    fn optimizer_words(&self) -> String {
        let (training, optimizer) = (&self.training, &self.training.optimizer);
        let betas = format!("betas {} and {}", float(optimizer.beta1), float(optimizer.beta2));
        let mut words = match optimizer.kind {
            OptimizerKind::Adamw => format!("adamw, {betas}, eps {}", float(optimizer.eps)),
            OptimizerKind::Lion => format!("lion, {betas}"),
            OptimizerKind::Sgd => format!("sgd, momentum {}", float(optimizer.beta1)),
            OptimizerKind::Adafactor => "adafactor".to_owned(),
        };
        words.push_str(&format!(", weight decay {}", float(optimizer.weight_decay)));
        match training.max_grad_norm {
            Some(norm) => words.push_str(&format!(", gradients clipped at norm {}", float(norm))),
            None => words.push_str(", gradients not clipped"),
        }
        if let Some(ratio) = optimizer.loraplus_lr_ratio {
            words.push_str(&format!(", B matrices at {} x the rate", float(ratio)));
        }
        words
    }

    fn output_rows(&self, row: &mut impl FnMut(&str, String)) {
        let folder = &self.output.output_dir;
        let resume = if self.output.resume { ", going on from its newest checkpoint" } else { "" };
        row("output", format!("{}{resume}", folder.display()));
        for export in &self.output.export {
            let target = export.config.target.what();
            let dtype = export.config.dtype.map_or(String::new(), |dtype| format!(" in {}", dtype_name(dtype.into())));
            row("", format!("{target}{dtype}: {}", export.out.display()));
        }
    }

    /// Every kind of trained tensor: how many there are and what they add up to.
    fn trained_table(&self) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        for ((module, tensor, shape), tensors) in trained_by_module(&self.adapter.layout) {
            let parameters = tensors * shape.iter().product::<usize>();
            let shape: Vec<String> = shape.iter().map(|dim| count(*dim)).collect();
            rows.push(vec![
                module,
                tensor,
                format!("[{}]", shape.join(", ")),
                format!("x {}", count(tensors)),
                count(parameters),
            ]);
        }
        let trained = self.adapter.trained_parameters;
        let share = percent(trained, self.model.parameters);
        let title = format!(
            "trained: {} parameters, {share} of the model's {}\n",
            count(trained),
            count(self.model.parameters)
        );
        title + &columns(&rows, &[4], "  ")
    }
}

type Groups = BTreeMap<(String, String, Vec<usize>), usize>;

/// Trained tensors, those that differ only in their layer counted together.
fn trained_by_module(layout: &AdapterLayout) -> Groups {
    let mut groups = Groups::new();
    for tensor in &layout.trained {
        let parts: Vec<&str> = tensor.name.split('.').collect();
        let is_tensor = |part: &str| part.starts_with("lora_") || part == "weight" || part == "bias";
        let split = parts.iter().position(|part| is_tensor(part)).unwrap_or(parts.len());
        let module: Vec<&str> = parts[..split]
            .iter()
            .map(|part| if part.bytes().all(|byte| byte.is_ascii_digit()) { "*" } else { part })
            .collect();
        let name = parts[split..].join(".");
        let name = name.strip_suffix(".weight").unwrap_or(&name).to_owned();
        *groups.entry((module.join("."), name, tensor.shape.clone())).or_default() += 1;
    }
    groups
}

/// An enum's word, as a recipe writes it.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Json::String(word)) => word,
        _ => String::new(),
    }
}
