//! `target: sagemaker`: a folder for SageMaker's LMI (DJL) containers, which serve it with vLLM.
//!
//! Merged, the folder is uploaded as it is and mounted at `/opt/ml/model`. As an adapter, the base is named in
//! `serving.properties` and the adapter lies under `adapters/`.

use std::fs;
use std::path::{Path, PathBuf};

use rankine_models::adapter_file::read_config;
use rankine_models::weights::{StoredDtype, WeightFiles, sync_folder, write_aside};
use serde_json::{Value, json};

use crate::card::Card;
use crate::deploy::{self, filled};
use crate::error::ExportError;
use crate::merged::{self, Spelling};
use crate::peft::{self, Placed};
use crate::vllm;
use crate::{Draft, Made};

/// What the container reads beside the weights.
pub(crate) const PROPERTIES: &str = "serving.properties";
/// Where the container looks for adapters.
pub(crate) const ADAPTERS: &str = "adapters";

/// The adapter's folder in an export.
pub(crate) fn adapter_folder(folder: &Path, name: &str) -> PathBuf {
    folder.join(ADAPTERS).join(name)
}

pub(crate) fn write_merged(draft: &mut Draft<'_>) -> Result<Made, ExportError> {
    let mut made = merged::write(draft, Spelling::OfTheBase)?;
    let Draft { folder, name, .. } = *draft;
    let weights = WeightFiles::open(folder)?;
    let dtype = weights.names().filter_map(|name| weights.get(name)).find(|tensor| tensor.shape.len() == 2);
    let dtype = match dtype.map_or(StoredDtype::BF16, |tensor| tensor.dtype) {
        StoredDtype::F32 => "fp32",
        StoredDtype::F16 => "fp16",
        StoredDtype::BF16 => "bf16",
    };
    write_deploy(folder, name, &environment("/opt/ml/model", dtype, None))?;
    used_by(&mut made.card, name);
    Ok(made)
}

pub(crate) fn write_adapter(draft: &Draft<'_>) -> Result<Made, ExportError> {
    let Draft { inputs, folder, name, .. } = *draft;
    let placed = Placed::open(inputs)?;
    let adapter = adapter_folder(folder, name);
    fs::create_dir_all(&adapter).map_err(ExportError::io(&adapter, "create"))?;
    let mut card = peft::write_portable(draft, &placed, &adapter)?;
    sync_folder(&folder.join(ADAPTERS))?;
    let rank = read_config(&adapter)?.r;
    let base = placed.base_model.as_deref().unwrap_or("BASE_MODEL");
    let max = vllm::max_rank(rank).unwrap_or(rank);
    let properties = format!(
        "engine=Python\noption.model_id={base}\noption.rolling_batch=disable\noption.async_mode=true\n\
         option.entryPoint=djl_python.lmi_vllm.vllm_async_service\noption.dtype=bf16\noption.enable_lora=true\n\
         option.max_lora_rank={max}\n"
    );
    write_aside(&folder.join(PROPERTIES), properties.as_bytes())?;
    write_deploy(folder, name, &environment(base, "bf16", Some(max)))?;
    used_by(&mut card, name);
    Ok(placed.made(card))
}

/// The container's environment.
fn environment(model: &str, dtype: &str, max_rank: Option<usize>) -> Value {
    let mut environment = json!({
        "HF_MODEL_ID": model,
        "OPTION_ROLLING_BATCH": "disable",
        "OPTION_ASYNC_MODE": "true",
        "OPTION_ENTRYPOINT": "djl_python.lmi_vllm.vllm_async_service",
        "OPTION_DTYPE": dtype,
    });
    if let Some(rank) = max_rank {
        environment["OPTION_ENABLE_LORA"] = "true".into();
        environment["OPTION_MAX_LORA_RANK"] = rank.to_string().into();
    }
    environment
}

fn write_deploy(folder: &Path, name: &str, environment: &Value) -> Result<(), ExportError> {
    let model = json!({
        "ModelName": name,
        "ExecutionRoleArn": "ROLE_ARN",
        "PrimaryContainer": {
            "Image": "IMAGE",
            "Environment": environment,
            "ModelDataSource": {
                "S3DataSource": { "S3Uri": "s3://BUCKET/PREFIX/", "S3DataType": "S3Prefix", "CompressionType": "None" },
            },
        },
    });
    deploy::write(folder, "environment.json", &format!("{environment:#}\n"))?;
    deploy::write(folder, "create-model.json", &format!("{model:#}\n"))?;
    let script = filled(include_str!("../templates/sagemaker/deploy.sh"), &[("NAME", name)]);
    deploy::write(folder, "deploy.sh", &script)
}

fn used_by(card: &mut Card, name: &str) {
    card.used_by(format!(
        "`deploy/deploy.sh` uploads the folder and makes a model and an endpoint of it (AWS CLI 2). `IMAGE` is an LMI image with \
         vLLM from AWS's list of deep learning containers.\n\n```sh\n\
         BUCKET=my-bucket ROLE_ARN=arn:aws:iam::... IMAGE=... REGION=us-east-1 deploy/deploy.sh\n\
         aws sagemaker-runtime invoke-endpoint --endpoint-name {name} --content-type application/json \\\n    \
         --cli-binary-format raw-in-base64-out --body '{{\"inputs\": \"...\", \"parameters\": {{\"max_new_tokens\": 64}}}}' \
         answer.json\n```\n\nThe endpoint is paid for until it is deleted: `aws sagemaker delete-endpoint --endpoint-name {name}`.\n"
    ));
}
