//! Fused differentiable operations: one composed body each, and faster kernels where they pay.
