//! What is likely behind the message of an import that failed.

/// Something to look at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LikelyCause {
    /// What is likely wrong.
    pub cause: &'static str,
    /// What to do about it.
    pub fix: &'static str,
}

/// Words of messages, all of which must be there, and what they point to; the first that fits.
const CAUSES: [(&[&str], LikelyCause); 13] = [
    (
        &["quantiz"],
        LikelyCause {
            cause: "the weights or config.json are quantised, and imports take BF16, F16 or F32 alone",
            fix: "export again: `rankine export --target bedrock` writes none",
        },
    ),
    (
        &["architecture"],
        LikelyCause {
            cause: "Bedrock has no server for this architecture",
            fix: "`rankine check FOLDER --target bedrock` names those that it takes; train one of them",
        },
    ),
    (
        &["model type"],
        LikelyCause {
            cause: "Bedrock has no server for this architecture",
            fix: "`rankine check FOLDER --target bedrock` names those that it takes; train one of them",
        },
    ),
    (
        &["tokenizer"],
        LikelyCause {
            cause: "a file of the tokenizer is missing, or `tokenizer_class` is none that transformers 4.51.3 has",
            fix: "export with `--target bedrock`, which writes tokenizer.json and a class that it has, and upload again",
        },
    ),
    (
        &["could not find"],
        LikelyCause {
            cause: "the files do not lie directly under the folder that was given, or one is missing",
            fix: "give the folder that holds config.json itself; `aws s3 ls` shows it",
        },
    ),
    (
        &["config.json"],
        LikelyCause {
            cause: "config.json is missing from the folder, or is not in the spelling of transformers 4.51.3",
            fix: "give the folder that holds it itself, exported with `--target bedrock`",
        },
    ),
    (
        &["max_position_embeddings"],
        LikelyCause {
            cause: "the context is longer than 131072 tokens",
            fix: "train a model with a shorter context, or set max_position_embeddings to 131072 and export again",
        },
    ),
    (
        &["adapter"],
        LikelyCause {
            cause: "the folder holds an adapter, and imports take merged weights",
            fix: "`rankine export --target bedrock` merges them",
        },
    ),
    (
        &["safetensors"],
        LikelyCause {
            cause: "a weights file is damaged, not whole, or in no format that is read",
            fix: "upload again: `rankine export --out s3://...` compares what arrived",
        },
    ),
    (
        &["role"],
        LikelyCause {
            cause: "Bedrock may not take the role: its trust policy names another account or region, or it is new",
            fix: "compare it with deploy/trust-policy.json of the export, wait a minute and import again",
        },
    ),
    (
        &["access denied"],
        LikelyCause {
            cause: "the role may not read the bucket (s3:GetObject and s3:ListBucket), or a KMS key of it",
            fix: "compare its permissions with deploy/s3-policy.json of the export; the bucket is in the same region",
        },
    ),
    (
        &["size"],
        LikelyCause {
            cause: "the weights are more than 200 GB (100 GB with images)",
            fix: "export in bf16, or train a smaller model",
        },
    ),
    (
        &["s3"],
        LikelyCause {
            cause: "the bucket is in another region, or the role may not read it",
            fix: "a bucket in the region of the import; its policy and the role's as in deploy/ of the export",
        },
    ),
];

/// What is likely behind a failure's message; `None` where nothing fits.
pub fn likely_cause(message: &str) -> Option<LikelyCause> {
    let message = message.to_lowercase().replace("accessdenied", "access denied");
    CAUSES.iter().find(|(words, _)| words.iter().all(|word| message.contains(word))).map(|(_, cause)| *cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_point_to_what_is_behind_them() {
        for (message, word) in [
            ("Model architecture GemmaForCausalLM is not supported.", "no server for this architecture"),
            ("Amazon Bedrock could not find the required config.json in the S3 location", "directly under"),
            ("Failed to parse config.json", "spelling"),
            ("The provided role ARN is invalid", "trust policy"),
            ("AccessDenied when calling GetObject on s3://b/k", "may not read the bucket"),
            ("Quantized weights are not supported by this architecture", "quantised"),
            ("Unsupported tokenizer class TokenizersBackend", "tokenizer"),
            ("max_position_embeddings exceeds the limit", "131072"),
            ("Error reading safetensors header", "damaged"),
        ] {
            let found = likely_cause(message).unwrap_or_else(|| panic!("nothing for {message}"));
            assert!(found.cause.contains(word), "{message}: {}", found.cause);
        }
        assert_eq!(likely_cause("Internal failure"), None);
    }
}
