//! A SentencePiece vocabulary's scores, from the merges that `tokenizer.json` has in their place. `merges.rs` is the way
//! back.

use std::collections::{HashMap, HashSet};

use super::merges::merges;
use super::tokenizer::Kind;
use super::vocabulary::{Token, VocabularyFiles};

/// What stands for a space.
pub(super) const SPACE: &str = "\u{2581}";

/// Scores that give the file's merges in their order, or why there are none.
///
/// SentencePiece joins the neighbours whose whole has the best score; a merge list joins those that come first. Both are
/// the same where every way to make a token stands together in the list, and every way is in it.
pub(super) fn scores(files: &VocabularyFiles, tokens: &[Token]) -> Result<Vec<f32>, String> {
    let mut pairs = Vec::new();
    for merge in files.tokenizer["model"]["merges"].as_array().into_iter().flatten() {
        let pair = match merge.as_str() {
            Some(line) => line.split_once(' '),
            None => merge[0].as_str().zip(merge[1].as_str()),
        };
        pairs.push(pair.ok_or_else(|| format!("`model.merges` has {merge}: two tokens are expected"))?);
    }
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (token.text.as_str(), id)).collect();
    // What follows the merged ones: single characters, in the order of the vocabulary.
    let mut scores: Vec<f32> = (0..tokens.len()).map(|id| -((pairs.len() + id) as f32)).collect();
    let mut ranks: HashMap<String, usize> = HashMap::new();
    let mut last = String::new();
    for (left, right) in &pairs {
        let whole = [*left, *right].concat();
        if whole != last {
            let rank = ranks.len();
            let id =
                *ids.get(whole.as_str()).ok_or_else(|| format!("`model.merges` makes {whole:?}, which is no token"))?;
            if ranks.insert(whole.clone(), rank).is_some() {
                return Err(format!(
                    "`model.merges` makes {whole:?} at two places with others between them, which SentencePiece's \
                     scores cannot say"
                ));
            }
            scores[id] = -(rank as f32);
            last = whole;
        }
    }
    for (token, score) in tokens.iter().zip(&mut scores) {
        match token.kind {
            Kind::Byte | Kind::Unknown => *score = 0.0,
            Kind::Control | Kind::UserDefined => *score = -1000.0,
            Kind::Unused => *score = -10_000.0,
            Kind::Normal => {}
        }
    }
    let table: Vec<(&str, f32)> =
        tokens.iter().zip(&scores).map(|(token, score)| (token.text.as_str(), *score)).collect();
    let skipped: HashSet<&str> = tokens
        .iter()
        .filter(|token| !matches!(token.kind, Kind::Normal | Kind::UserDefined))
        .map(|token| token.text.as_str())
        .collect();
    let all: HashSet<(&str, &str)> = merges(&table, &skipped).into_iter().collect();
    let listed: HashSet<(&str, &str)> = pairs.iter().copied().collect();
    let missing = all.difference(&listed).filter(|(left, right)| !added(tokens, &ids, left, right)).count();
    if missing > 0 {
        return Err(format!(
            "{missing} ways to make a token are not in `model.merges`, and SentencePiece would take them"
        ));
    }
    Ok(scores)
}

/// Whether a token of the pair, or what they make, is cut out of the text before it is merged.
fn added(tokens: &[Token], ids: &HashMap<&str, usize>, left: &str, right: &str) -> bool {
    let whole = [left, right].concat();
    let user_defined = |text: &str| ids.get(text).is_some_and(|id| tokens[*id].kind == Kind::UserDefined);
    user_defined(left) || user_defined(right) || user_defined(&whole)
}
