#!/usr/bin/env bash
# Serves the adapter in this folder as "@NAME@" beside its base, on port 8000. Further arguments go to vLLM.
set -euo pipefail
here="$(cd "$(dirname "$0")/.." && pwd)"
exec vllm serve @BASE@ @ARGUMENTS@ "$@"
