//! What platforms ask of a training file, as they document it.

use super::{LimitFault, Platform};
use crate::record::{Content, RecordSource};

/// Characters of a token where the platform's own tokenizer is not known: what Amazon's documentation counts with.
const CHARACTERS_OF_A_TOKEN: usize = 6;

/// The limits of one model or service.
struct Limit {
    model: &'static str,
    fewest: usize,
    most: Option<usize>,
    /// Tokens of a record.
    tokens: Option<usize>,
}

/// Limits and what has been seen so far.
pub(super) struct Limits {
    models: Vec<Limit>,
    records: usize,
    /// The longest record in tokens, about.
    longest: Option<(usize, RecordSource)>,
}

impl Limits {
    pub(super) fn of(platform: Platform) -> Self {
        let limit = |model, fewest, most, tokens| Limit { model, fewest, most, tokens };
        let models = match platform {
            Platform::Openai => vec![limit("OpenAI", 10, None, None)],
            Platform::Bedrock => {
                vec![limit("Titan and Cohere", 1, None, None), limit("Llama 3.1", 100, Some(10_000), Some(16_000))]
            }
            Platform::BedrockConversation => {
                vec![limit("Nova", 1, Some(20_000), None), limit("Llama 3.2 and 3.3", 100, Some(10_000), Some(16_000))]
            }
            Platform::ClaudeHaiku => vec![limit("Claude 3 Haiku", 32, Some(10_000), None)],
            Platform::Sharegpt | Platform::Alpaca | Platform::PromptCompletion => Vec::new(),
        };
        Self { models, records: 0, longest: None }
    }

    /// Counts a record that is written.
    pub(super) fn see(&mut self, source: &RecordSource, content: &Content) {
        self.records += 1;
        let tokens = characters(content) / CHARACTERS_OF_A_TOKEN;
        if self.longest.as_ref().is_none_or(|(longest, _)| tokens > *longest) {
            self.longest = Some((tokens, source.clone()));
        }
    }

    /// What is not kept, and whether no model takes the file.
    pub(super) fn faults(&self) -> (Vec<LimitFault>, bool) {
        let mut faults = Vec::new();
        let mut taken = self.models.is_empty();
        for limit in &self.models {
            let before = faults.len();
            let mut fault = |message| faults.push(LimitFault { model: limit.model.to_owned(), message });
            if self.records < limit.fewest {
                fault(format!("takes at least {} records, and there are {}", limit.fewest, self.records));
            }
            if let Some(most) = limit.most.filter(|most| self.records > *most) {
                fault(format!("takes at most {most} records, and there are {}", self.records));
            }
            if let (Some(most), Some((longest, source))) = (limit.tokens, &self.longest)
                && *longest > most
            {
                fault(format!("takes at most {most} tokens a record, and {source} has about {longest}"));
            }
            taken |= faults.len() == before;
        }
        (faults, !taken)
    }
}

fn characters(content: &Content) -> usize {
    match content {
        Content::Text(text) => text.chars().count(),
        Content::PromptCompletion { prompt, completion } => prompt.chars().count() + completion.chars().count(),
        Content::Chat { messages, .. } => messages
            .iter()
            .filter_map(|message| message.get("content")?.as_str())
            .map(|text| text.chars().count())
            .sum(),
    }
}
