//! The checks by name.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A check that stops a run unless the recipe waives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// A record without a token to train on.
    NothingTrained,
    /// A record of which everything is trained on, the prompt too.
    EverythingTrained,
    /// A record that does not teach where an answer ends.
    StopNotTrained,
    /// Two beginnings of text in a row.
    BosDoubled,
    /// A template for which answers cannot be told from prompts.
    TemplateNotPrefixStable,
    /// More answers cut off than the recipe allows.
    AnswersTruncated,
    /// A validation record that is trained on.
    ValidationInTraining,
    /// A template that leaves out what a record has.
    TemplateDrops,
    /// Special tokens spelled out where only text belongs.
    SpecialTokensInContent,
}

impl Check {
    /// In the order of a report.
    pub const ALL: [Self; 9] = [
        Self::NothingTrained,
        Self::EverythingTrained,
        Self::StopNotTrained,
        Self::BosDoubled,
        Self::TemplateNotPrefixStable,
        Self::AnswersTruncated,
        Self::ValidationInTraining,
        Self::TemplateDrops,
        Self::SpecialTokensInContent,
    ];

    /// As a recipe writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NothingTrained => "nothing-trained",
            Self::EverythingTrained => "everything-trained",
            Self::StopNotTrained => "stop-not-trained",
            Self::BosDoubled => "bos-doubled",
            Self::TemplateNotPrefixStable => "template-not-prefix-stable",
            Self::AnswersTruncated => "answers-truncated",
            Self::ValidationInTraining => "validation-in-training",
            Self::TemplateDrops => "template-drops",
            Self::SpecialTokensInContent => "special-tokens-in-content",
        }
    }

    /// What holds where the check passes.
    pub fn claim(self) -> &'static str {
        match self {
            Self::NothingTrained => "every record has a token to train on",
            Self::EverythingTrained => "no record is trained on from its first token to its last",
            Self::StopNotTrained => "every record trains the token that ends an answer",
            Self::BosDoubled => "no text begins twice",
            Self::TemplateNotPrefixStable => "every answer can be told from its prompt",
            Self::AnswersTruncated => "answers fit into max_seq_len",
            Self::ValidationInTraining => "no validation record is trained on",
            Self::TemplateDrops => "the template shows every message, tool and call",
            Self::SpecialTokensInContent => "no message but the assistant's spells a special token",
        }
    }

    /// What to do where it fails; the name to waive it by is said besides.
    pub(crate) fn help(self) -> &'static str {
        match self {
            Self::NothingTrained => {
                "give them an answer of the assistant that has no `weight: 0`, remove them, or set `train_on: all`"
            }
            Self::EverythingTrained => {
                "the prompt is empty, or the template's {% generation %} block is around everything; name the prompt's \
                 field (`fields: {prompt: question}`), correct the template, or say what is meant with `train_on: all`"
            }
            Self::StopNotTrained => {
                "end each answer of the template with the token that ends a turn, inside its {% generation %} block if \
                 it has one; without it the model never learns to stop"
            }
            Self::BosDoubled => "take the beginning-of-text token out of the data, or out of the template",
            Self::TemplateNotPrefixStable => {
                "use a template with {% generation %} tags around the answer, or `train_on: all`; waived, these records \
                 are left out"
            }
            Self::AnswersTruncated => {
                "raise `max_seq_len`, shorten or remove these records, or allow a larger share with \
                 `max_truncated_share`"
            }
            Self::ValidationInTraining => "remove them from one of the two, or hold out with `val_size` instead",
            Self::TemplateDrops => {
                "use a `chat_template` that knows them (the model's tool template, for tools), or take them out of the \
                 data, which the model never sees"
            }
            Self::SpecialTokensInContent => {
                "the tokenizer makes the special token of it, so that a message can end a turn or begin one; take it \
                 out of the text or spell it in another way"
            }
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_recipes_say() {
        for check in Check::ALL {
            assert_eq!(serde_json::to_value(check).unwrap(), check.name());
        }
    }
}
