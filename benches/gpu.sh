#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: builds with the `cuda` feature, runs the whole test suite, trains the quickstart on the
# GPU and on the CPU, times LoRA steps beside peft and torch, and writes it all as Markdown.
#
#     benches/gpu.sh MODEL_DIR [OUT.md] [DEVICE]      SmolLM2-135M-Instruct's folder; gpu.md; cuda
#
# It needs the CUDA toolkit, access to GitHub for burn's LLVM bundle, and, for the peers, a Python with torch, transformers
# and peft (`PYTHON`, default python3); without those the peers' rows say so. Not run on a GPU yet: the machine that the
# project is made on has none.
set -uo pipefail
cd "$(dirname "$0")/.."

model=${1:?give the folder of SmolLM2-135M-Instruct}
out=${2:-gpu.md}
device=${3:-cuda}
feature=${device%%:*}
python=${PYTHON:-python3}
build=(--workspace --locked --release --features "rankine/$feature")
rankine="${CARGO_TARGET_DIR:-target}/release/rankine"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

say() { printf '%s\n' "$*" >>"$out"; }
# A section with what the command said, and whether it failed.
section() {
  local title=$1 log="$work/log"
  shift
  say "" "## $title" "" "\`$*\`" ""
  local begun=$SECONDS
  if "$@" >"$log" 2>&1; then say "passed in $((SECONDS - begun)) s"; else say "FAILED after $((SECONDS - begun)) s"; failed=1; fi
  say "" '```text'
  tail -n 60 "$log" >>"$out"
  say '```'
}

: >"$out"
say "# rankine on $device" "" "$(date -u +%F), $(git describe --always --dirty)" ""
say '```text' "$(nvidia-smi 2>/dev/null || rocm-smi 2>/dev/null || echo 'no nvidia-smi or rocm-smi')" '```'

section "Build" cargo build "${build[@]}"
section "Devices and self-test" "$rankine" devices "$device" --self-test
for dtype in f16 bf16; do
  section "Self-test in $dtype" "$rankine" devices "$device" --self-test --dtype "$dtype"
done
section "Tests" cargo test "${build[@]}"
for where in cpu "$device"; do
  section "Quickstart on $where" "$rankine" train recipes/quickstart.yaml \
    --set "device=$where" --set "output_dir=$work/quickstart-$where"
done

section "Peers" "$python" -m venv --system-site-packages "$work/env"
section "Steps beside peft" "$python" benches/compare/run.py gpu --model "$model" --device "$device" --env "$work/env" \
  --rankine "$rankine" --work "$work" --out "$work/steps.md"
[ -s "$work/steps.md" ] && { say ""; sed 's/^# /## /' "$work/steps.md" >>"$out"; }

say "" "Fusion and autotune are off in this build; with \`--features $feature,fusion,autotune\` the same script measures them."
printf 'written to %s\n' "$out"
exit $failed
