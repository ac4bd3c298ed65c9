#!/bin/sh
# The kernels' own tests on AArch64, emulated: sh crates/ops/tests/neon.sh [cargo's arguments]
#
# Only `crates/ops/src/kernel` is compiled, in a crate of its own: it needs neither burn nor the rest of `ops`.
# Wants Rust with the standard library of AArch64, a linker and an emulator. On Debian:
#   dpkg --add-architecture arm64
#   apt install cargo rustc libstd-rust-dev:arm64 gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
# or, with rustup instead of Debian's Rust: rustup target add aarch64-unknown-linux-gnu
set -eu

root=$(cd "$(dirname "$0")/../../.." && pwd)
crate="$root/target/neon"
mkdir -p "$crate"
cat > "$crate/Cargo.toml" <<'END'
[package]
name = "neon"
edition = "2024"

[lib]
path = "lib.rs"
doctest = false

[dependencies]
half = "2"
rayon = "1"

# As the workspace compiles `ops`.
[profile.dev]
opt-level = 3
debug = "line-tables-only"
debug-assertions = false
overflow-checks = false

[workspace]
END
cat > "$crate/lib.rs" <<'END'
#![allow(dead_code, unused_imports, reason = "what the rest of `ops` uses")]
#[path = "../../crates/ops/src/kernel/mod.rs"]
mod kernel;
END

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
cd "$crate"
exec cargo test --target aarch64-unknown-linux-gnu "$@"
