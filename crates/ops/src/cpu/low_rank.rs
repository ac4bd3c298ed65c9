//! A frozen linear layer with a low-rank update: `y = x W^T + s (x A^T) B^T`.

use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;

use super::matrix::{Into, Threads, View, product};
use super::{Host, tensor};

/// What the backward pass needs.
#[derive(Debug, Clone)]
pub(super) struct Saved {
    pub(super) x: Host,          // [n, in]
    pub(super) weight: Host,     // [out, in]
    pub(super) a: Host,          // [r, in]
    pub(super) b: Host,          // [out, r]
    pub(super) hidden: Vec<f32>, // s x A^T, [n, r]
}

/// The gradients of what is tracked.
pub(super) struct Found {
    pub(super) x: Option<FlexTensor>,
    pub(super) a: FlexTensor,
    pub(super) b: FlexTensor,
}

/// `y` and `s x A^T`.
pub(super) fn forward(x: &Host, weight: &Host, a: &Host, b: &Host, scale: f32) -> (FlexTensor, Vec<f32>) {
    let ([n, input], [out, _], [r, _]) = (x.dims(), weight.dims(), a.dims());
    let mut hidden = vec![0.0; n * r];
    let x_view = View::whole(n, input);
    let hidden_view = View::whole(n, r);
    product(
        &mut hidden,
        hidden_view,
        x.values(),
        x_view,
        a.values(),
        View::whole(r, input).t(),
        scale,
        Into::Set,
        Threads::All,
    );
    let mut y = vec![0.0; n * out];
    let y_view = View::whole(n, out);
    product(
        &mut y,
        y_view,
        x.values(),
        x_view,
        weight.values(),
        View::whole(out, input).t(),
        1.0,
        Into::Set,
        Threads::All,
    );
    product(&mut y, y_view, &hidden, hidden_view, b.values(), View::whole(out, r).t(), 1.0, Into::Add, Threads::All);
    (tensor(y, Shape::new([n, out])), hidden)
}

/// `dh = s dy B`, `dx = dy W + dh A`, `dA = dh^T x`, `dB = dy^T (s x A^T)`. `dW` is never formed.
pub(super) fn backward(saved: &Saved, dy: &Host, scale: f32, wants_x: bool) -> Found {
    let ([n, input], [out, _], [r, _]) = (saved.x.dims(), saved.weight.dims(), saved.a.dims());
    let (x_view, dy_view, hidden_view) = (View::whole(n, input), View::whole(n, out), View::whole(n, r));
    let (a_view, b_view) = (View::whole(r, input), View::whole(out, r));
    let mut dh = vec![0.0; n * r];
    product(&mut dh, hidden_view, dy.values(), dy_view, saved.b.values(), b_view, scale, Into::Set, Threads::All);
    let mut da = vec![0.0; r * input];
    product(&mut da, a_view, &dh, hidden_view.t(), saved.x.values(), x_view, 1.0, Into::Set, Threads::All);
    let mut db = vec![0.0; out * r];
    product(&mut db, b_view, dy.values(), dy_view.t(), &saved.hidden, hidden_view, 1.0, Into::Set, Threads::All);
    let x = wants_x.then(|| {
        let mut dx = vec![0.0; n * input];
        let weight = View::whole(out, input);
        product(&mut dx, x_view, dy.values(), dy_view, saved.weight.values(), weight, 1.0, Into::Set, Threads::All);
        product(&mut dx, x_view, &dh, hidden_view, saved.a.values(), a_view, 1.0, Into::Add, Threads::All);
        tensor(dx, saved.x.shape())
    });
    Found { x, a: tensor(da, saved.a.shape()), b: tensor(db, saved.b.shape()) }
}
