#[path="numerics/golden.rs"]
mod golden;
#[path="numerics/training.rs"]
mod training;
#[path="numerics/models.rs"]
mod models;
