//! Every kind of adapter and of model: losses and gradients beside peft's, on the device.

use rankine_data::Batch;
use rankine_models::model::to_host;

use super::{Tested, tested};
use crate::numerics::golden::{CASES, Golden, assert_close};
use crate::numerics::training::{GRADIENT, accumulate, example, trained_keys};

#[test]
fn losses_and_gradients_equal_peft() {
    let Some(Tested { device, _turn, .. }) = tested() else { return };
    for case in CASES {
        let golden = Golden::open(case);
        let mut model = golden.adapted_on(&device);
        let examples = [example(&golden, 0), example(&golden, 1)];
        let padded = Batch::from_examples(&[vec![&examples[0]], vec![&examples[1]]], 0);
        let (sum, tokens, gradients) = accumulate(&mut model, &[padded]);
        assert_eq!(tokens as f64, golden.scalar("adapter.tokens"), "{case}");
        let expected = golden.scalar("adapter.loss_sum");
        assert!((sum / expected - 1.0).abs() < 1e-5, "{case}: loss {sum}, {expected} expected");
        for (key, name) in trained_keys(&golden, &model) {
            let found = to_host(gradients.get(&name).unwrap());
            assert_close(&format!("{case} {key}"), &found, &golden.values(&format!("grad.{key}")), GRADIENT);
        }
    }
}
