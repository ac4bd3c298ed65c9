#!/usr/bin/env python3
"""Runs every script here, one after the other. Exit code 1 if one fails."""
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
SCRIPTS = ["variants.py", "platforms.py", "train_parity.py", "adapter_in_peft.py", "merged_in_transformers.py", "gguf_base.py", "gguf_in_llama_cpp.py", "gguf_families.py", "hub_in_python.py"]

failed = []
for script in SCRIPTS:
    print(f"== {script}", flush=True)
    if subprocess.run([sys.executable, HERE / script, *sys.argv[1:]]).returncode != 0:
        failed.append(script)
sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
