#!/usr/bin/env bash
# Type-checks the `cuda` and `rocm` features where they cannot be linked: burn's CUDA backend downloads an LLVM bundle as it
# is built, which a machine that reaches only package registries cannot. Its build scripts leave it out for docs.rs, and
# take an empty folder for an installed one. Nothing that this makes can run.
set -euo pipefail
cd "$(dirname "$0")/.."

target="${CARGO_TARGET_DIR:-target}"
version=$(sed -n '/^name = "tracel-llvm-bundler"$/{n;s/^version = "\(.*\)"$/\1/p}' Cargo.lock)
# Beside the build, not where a real bundle would be.
export XDG_DATA_HOME="$(mkdir -p "$target" && cd "$target" && pwd)/no-llvm"
bundle="$XDG_DATA_HOME/tracel/tracel-llvm-$version"
mkdir -p "$bundle" && touch "$bundle/.tracel-llvm-installed"
DOCS_RS=1 cargo check --workspace --locked --features rankine/cuda,rankine/rocm
