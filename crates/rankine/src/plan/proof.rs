//! The checks of the data: run with every plan, and what stops a run.

use rankine_data::proof::{Finding, Proof, ProofConfig};

use super::Plan;
use crate::fault::{BadInput, Failure, Fault, Source};

impl Plan {
    /// What the checks ask for.
    pub(super) fn proof_config(&self) -> ProofConfig {
        ProofConfig {
            max_seq_len: self.data.max_seq_len,
            train_on: self.data.train_on,
            max_truncated_share: self.data.max_truncated_share,
            waive: self.data.waive.clone(),
        }
    }
}

/// Nothing where no check stops the run, else every one that does. `sources` are the recipe's.
pub(crate) fn refuse(proof: &Proof, sources: &[Source]) -> Result<(), BadInput> {
    let faults: Vec<Fault> = proof.stopping().map(fault).collect();
    if faults.is_empty() { Ok(()) } else { Err(BadInput { sources: sources.to_vec(), faults }) }
}

fn fault(finding: &Finding) -> Fault {
    Fault { help: finding.help.clone(), ..Fault::new(format!("{}: {}", finding.check, finding.details())) }
}

/// No example is left, though no check says why.
pub(super) fn nothing_left(records: usize) -> Failure {
    let what = format!("none of the {records} records has a token to train on");
    let help = "the checks that say why are waived: take them out of `waive`";
    Failure::bad_input(Fault::new(what).help(help))
}
