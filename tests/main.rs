//! The one test binary of the program: its numbers, its runs, its words, and the house's rules.

mod cli;
mod house;
mod numerics;
mod resume;
