#[path="numerics/golden.rs"]
mod golden;
#[path="numerics/models.rs"]
mod models;
