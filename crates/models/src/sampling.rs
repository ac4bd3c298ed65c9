//! From logits to the next token.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// How the next token is chosen. Filters apply in the order of the fields, as in transformers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Logits of tokens already in the sequence are divided by this where positive, multiplied where negative
    /// ([Keskar et al. 2019](https://arxiv.org/abs/1909.05858)). 1 is off.
    pub repetition_penalty: f32,
    /// Logits are divided by this; 0 is greedy.
    pub temperature: f32,
    /// Only the k likeliest tokens; 0 is off.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability; 1 is off.
    pub top_p: f32,
    /// Only tokens at least this share as likely as the likeliest; 0 is off.
    pub min_p: f32,
    /// Of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Self {
        Self { repetition_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 }
    }
}

impl Sampling {
    /// A sentence for each value out of range.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |holds: bool, name: &str, value: f32, expected: &str| {
            if !holds {
                faults.push(format!("{name} is {value}: {expected} is expected"));
            }
        };
        let (penalty, temperature) = (self.repetition_penalty, self.temperature);
        check(penalty > 0.0 && penalty.is_finite(), "repetition_penalty", penalty, "a number above 0");
        check(temperature >= 0.0 && temperature.is_finite(), "temperature", temperature, "0 (greedy) or more");
        check(self.top_p > 0.0 && self.top_p <= 1.0, "top_p", self.top_p, "a share above 0 and at most 1");
        check((0.0..1.0).contains(&self.min_p), "min_p", self.min_p, "a share from 0 to below 1");
        faults
    }
}

/// Draws tokens one after the other.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// A stream of draws from the seed.
    pub fn new(sampling: Sampling) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(sampling.seed);
        Self { sampling, rng }
    }

    /// The next token. `seen` is the sequence so far, prompt included.
    pub fn next(&mut self, logits: &[f32], seen: &[u32]) -> u32 {
        let mut logits = logits.to_vec();
        penalise(&mut logits, seen, self.sampling.repetition_penalty);
        if self.sampling.temperature <= 0.0 {
            return argmax(&logits);
        }
        let kept = self.kept(&logits);
        let total: f32 = kept.iter().map(|(_, p)| p).sum();
        let mut left = self.rng.random::<f32>() * total;
        for &(token, p) in &kept {
            left -= p;
            if left < 0.0 {
                return token;
            }
        }
        kept.last().map_or(0, |&(token, _)| token)
    }

    /// Tokens that survive the filters, the likeliest first, with their unnormalised probabilities.
    fn kept(&self, logits: &[f32]) -> Vec<(u32, f32)> {
        let s = &self.sampling;
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut kept: Vec<(u32, f32)> = (0..).zip(logits.iter().map(|l| ((l - max) / s.temperature).exp())).collect();
        // The index breaks ties, so that the order never depends on the sort.
        kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        if s.top_k > 0 {
            kept.truncate(s.top_k);
        }
        if s.top_p < 1.0 {
            let total: f32 = kept.iter().map(|(_, p)| p).sum();
            let mut sum = 0.0;
            let reach = kept.iter().position(|(_, p)| {
                sum += p;
                sum >= s.top_p * total
            });
            kept.truncate(reach.map_or(kept.len(), |last| last + 1));
        }
        if s.min_p > 0.0 {
            let least = kept.first().map_or(0.0, |(_, p)| p * s.min_p);
            kept.retain(|(_, p)| *p >= least);
        }
        kept
    }
}

fn penalise(logits: &mut [f32], seen: &[u32], penalty: f32) {
    if penalty == 1.0 {
        return;
    }
    let mut done = vec![false; logits.len()];
    for &token in seen {
        let token = token as usize;
        if token < logits.len() && !std::mem::replace(&mut done[token], true) {
            let logit = &mut logits[token];
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

/// The first of the highest.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (index, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = index;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 3.0];

    fn kept(sampling: Sampling) -> Vec<u32> {
        Sampler::new(sampling).kept(&LOGITS).into_iter().map(|(token, _)| token).collect()
    }

    #[test]
    fn greedy_takes_the_first_of_the_highest() {
        assert_eq!(Sampler::new(Sampling::default()).next(&LOGITS, &[]), 1);
    }

    #[test]
    fn a_penalty_moves_seen_tokens_down_once() {
        let mut sampler = Sampler::new(Sampling { repetition_penalty: 2.0, ..Sampling::default() });
        assert_eq!(sampler.next(&LOGITS, &[1, 1]), 4);
        assert_eq!(sampler.next(&LOGITS, &[1, 4]), 2);
        let mut logits = LOGITS;
        penalise(&mut logits, &[1, 1, 3, 900], 2.0);
        assert_eq!(logits, [1.0, 1.5, 2.0, -2.0, 3.0]);
    }

    #[test]
    fn filters_keep_the_likeliest() {
        let warm = Sampling { temperature: 1.0, ..Sampling::default() };
        assert_eq!(kept(warm.clone()), [1, 4, 2, 0, 3]);
        assert_eq!(kept(Sampling { top_k: 2, ..warm.clone() }), [1, 4]);
        // Probabilities 0.40, 0.40, 0.15, 0.05, 0.007.
        assert_eq!(kept(Sampling { top_p: 0.85, ..warm.clone() }), [1, 4, 2]);
        assert_eq!(kept(Sampling { top_p: 0.1, ..warm.clone() }), [1]);
        assert_eq!(kept(Sampling { min_p: 0.3, ..warm }), [1, 4, 2]);
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let sampling = Sampling { temperature: 1.0, seed: 7, ..Sampling::default() };
        let draw = || {
            let mut sampler = Sampler::new(sampling.clone());
            (0..4000).map(|_| sampler.next(&LOGITS, &[])).collect::<Vec<_>>()
        };
        let tokens = draw();
        assert_eq!(tokens, draw());
        let share = |token| tokens.iter().filter(|t| **t == token).count() as f64 / 4000.0;
        assert!((share(1) - 0.399).abs() < 0.03 && (share(2) - 0.147).abs() < 0.03, "{} {}", share(1), share(2));
    }

    #[test]
    fn values_out_of_range_are_all_reported() {
        let wild = Sampling { repetition_penalty: 0.0, temperature: -1.0, top_k: 0, top_p: 1.5, min_p: 1.0, seed: 0 };
        assert_eq!(wild.faults().len(), 4);
        assert!(Sampling::default().faults().is_empty());
    }
}
