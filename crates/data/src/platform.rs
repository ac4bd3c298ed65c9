//! Records in the fine-tuning formats of other platforms, one JSON object a line.
//!
//! A record is written as it is, written with a change that is listed, or left out with the reason: where nothing
//! is listed, reading the file again gives the same record.

mod alpaca;
mod bedrock;
mod dialogue;
mod limits;
mod openai;
mod prompt_completion;
mod sharegpt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Faults;
use crate::record::{Content, Record};
use limits::Limits;

/// A platform's format for training data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Platform {
    /// `{"messages": [...], "tools": [...]}` with arguments of tool calls as text.
    Openai,
    /// `{"prompt": "...", "completion": "..."}`: Titan, Cohere and Llama 3.1 on Amazon Bedrock.
    Bedrock,
    /// `{"schemaVersion": "bedrock-conversation-2024", ...}`: Nova, Llama 3.2 and 3.3 on Amazon Bedrock.
    BedrockConversation,
    /// `{"system": "...", "messages": [...]}`: Claude 3 Haiku on Amazon Bedrock.
    ClaudeHaiku,
    /// `{"conversations": [{"from": "human", "value": "..."}, ...]}`.
    Sharegpt,
    /// `{"instruction": "...", "input": "", "output": "..."}`.
    Alpaca,
    /// `{"prompt": ..., "completion": ...}`, texts or lists of messages, as TRL reads it.
    PromptCompletion,
}

/// A record in a platform's format.
struct Carried {
    value: Value,
    /// What is not as it was.
    changes: Vec<String>,
}

/// What became of a dataset.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversion {
    /// The file: JSON Lines.
    pub text: String,
    /// Records in it.
    pub written: usize,
    /// What is not as it was, each with its records.
    pub changes: Vec<(String, Faults)>,
    /// Records that the format has no place for, with the reason.
    pub left_out: Faults,
    /// What keeps models of the platform from taking the file, by model.
    pub limits: Vec<LimitFault>,
    /// Whether no model of the platform takes it.
    pub refused: bool,
}

/// A limit of a platform that a file does not keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitFault {
    /// The model or service.
    pub model: String,
    /// What it asks for and what was found.
    pub message: String,
}

impl Platform {
    /// Every platform.
    pub const ALL: [Self; 7] = [
        Self::Openai,
        Self::Bedrock,
        Self::BedrockConversation,
        Self::ClaudeHaiku,
        Self::Sharegpt,
        Self::Alpaca,
        Self::PromptCompletion,
    ];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Bedrock => "bedrock",
            Self::BedrockConversation => "bedrock-conversation",
            Self::ClaudeHaiku => "claude-haiku",
            Self::Sharegpt => "sharegpt",
            Self::Alpaca => "alpaca",
            Self::PromptCompletion => "prompt-completion",
        }
    }

    fn carry(self, content: &Content) -> Result<Carried, String> {
        match self {
            Self::Openai => openai::carry(content),
            Self::Bedrock => bedrock::prompt_completion(content),
            Self::BedrockConversation => bedrock::conversation(content),
            Self::ClaudeHaiku => bedrock::claude_haiku(content),
            Self::Sharegpt => sharegpt::carry(content),
            Self::Alpaca => alpaca::carry(content),
            Self::PromptCompletion => prompt_completion::carry(content),
        }
    }
}

/// Brings records into a platform's format.
pub fn convert(records: &[Record], platform: Platform) -> Conversion {
    let mut conversion = Conversion {
        text: String::new(),
        written: 0,
        changes: Vec::new(),
        left_out: Faults::default(),
        limits: Vec::new(),
        refused: false,
    };
    let mut limits = Limits::of(platform);
    for record in records {
        let carried = match platform.carry(&record.content) {
            Ok(carried) => carried,
            Err(reason) => {
                conversion.left_out.push(record.source.clone(), reason);
                continue;
            }
        };
        for change in carried.changes {
            let place = conversion.changes.iter().position(|(known, _)| *known == change).unwrap_or_else(|| {
                conversion.changes.push((change.clone(), Faults::default()));
                conversion.changes.len() - 1
            });
            conversion.changes[place].1.push(record.source.clone(), change);
        }
        limits.see(&record.source, &record.content);
        conversion.text.push_str(&carried.value.to_string());
        conversion.text.push('\n');
        conversion.written += 1;
    }
    (conversion.limits, conversion.refused) = limits.faults();
    conversion
}
