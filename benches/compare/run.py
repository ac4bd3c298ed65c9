#!/usr/bin/env python3
"""Compares rankine with peft, TRL, transformers and llama.cpp on this machine, in alternation, as Markdown.

    python3 benches/compare/run.py env                            # the peers, in runs/compare/env: once, 7 GB
    python3 benches/compare/run.py step --model DIR --out step.md

The driver needs nothing but Python 3.11 and Linux.
"""
import argparse
import pathlib
import subprocess
import sys

import generate
import gpu
import merge
import ragged
import scale
import start
import step
from harness import ROOT

TABLES = {"step": step, "ragged": ragged, "start": start, "generate": generate, "scale": scale, "merge": merge, "gpu": gpu}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--env", type=pathlib.Path, default=ROOT / "runs/compare/env", help="the peers")
    commands.add_parser("env", parents=[common], help="install the peers")
    common.add_argument("--model", type=pathlib.Path, required=True, help="SmolLM2-135M-Instruct's folder")
    common.add_argument("--rankine", type=pathlib.Path, default=ROOT / "target/release/rankine", help="the binary")
    common.add_argument("--work", type=pathlib.Path, default=ROOT / "runs/compare/work", help="where files go")
    common.add_argument("--out", type=pathlib.Path, help="write the page here, too")
    common.add_argument("--rounds", type=int, default=3, help="times that every side runs")
    common.add_argument("--wait", type=float, default=60, help="seconds to wait for a quiet machine before each run")
    common.add_argument("--only", default="", help="only rows whose names contain this")
    for name, module in TABLES.items():
        command = commands.add_parser(name, parents=[common], help=module.__doc__.split("\n")[0])
        module.arguments(command)
    options = parser.parse_args()
    # Not resolved: the interpreter of a virtual environment is a link.
    options.python = options.env.absolute() / "bin/python"
    if options.command == "env":
        return install(options)
    options.model, options.rankine, options.work = (
        path.resolve() for path in (options.model, options.rankine, options.work)
    )
    if not options.rankine.is_file():
        parser.error(f"{options.rankine}: no such file; build it (cargo build --release) or name it with --rankine")
    if not options.python.is_file() and options.command != "scale":
        parser.error(f"{options.env}: no environment of the peers; make it with `{sys.argv[0]} env`")
    options.work.mkdir(parents=True, exist_ok=True)
    return TABLES[options.command].main(options)


def install(options):
    if not options.python.is_file():
        subprocess.run([sys.executable, "-m", "venv", options.env], check=True)
    requirements = pathlib.Path(__file__).with_name("requirements.txt")
    return subprocess.run([options.python, "-m", "pip", "install", "-r", requirements]).returncode


if __name__ == "__main__":
    sys.exit(main())
