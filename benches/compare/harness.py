"""Runs commands in alternation and measures them from outside, the same way for every tool."""
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PEERS = pathlib.Path(__file__).resolve().parent / "peers"
TICK = os.sysconf("SC_CLK_TCK")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile")


@dataclasses.dataclass
class Side:
    """One row of a table: a command and how its figures are read from what it did."""

    name: str
    command: list
    read: callable  # Finished -> {figure: number or text}
    environment: dict = dataclasses.field(default_factory=dict)
    until: callable = None  # a line of stdout after which the command has done what is measured
    before: callable = None  # unmeasured preparation


@dataclasses.dataclass
class Finished:
    lines: list
    seconds: float  # to the end, or to the line that `until` waits for
    cpu_seconds: float  # likewise
    peak_bytes: int
    others: float  # share of the machine that other processes used meanwhile

    def json(self):
        """The last line that is a JSON object."""
        return json.loads(next(line for line in reversed(self.lines) if line.startswith("{")))


class Failed(Exception):
    """What happened, and the end of what the command said."""


def run(side):
    """Runs the command of a side once."""
    if side.before:
        side.before()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", **side.environment}
    busy, total = machine_time()
    begun = time.perf_counter()
    lines, reached = [], None
    with tempfile.TemporaryFile("w+") as errors:
        command = [str(word) for word in side.command]
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        except OSError as error:
            raise Failed(f"{command[0]}: {error.strerror}") from error
        for line in map(str.rstrip, process.stdout):
            lines.append(line)
            if side.until and side.until(line):
                reached = time.perf_counter() - begun, process_time(process.pid)
                process.send_signal(signal.SIGKILL)
                break
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        if (side.until and not reached) or (not side.until and process.returncode != 0):
            errors.seek(0)
            raise Failed(f"exit code {process.returncode}", errors.read()[-2000:])
    cpu = usage.ru_utime + usage.ru_stime
    busy, total = (after - before for after, before in zip(machine_time(), (busy, total)))
    others = max(0.0, busy - cpu) / max(total, 1e-9)
    seconds, cpu = reached or (seconds, cpu)
    return Finished(lines, seconds, cpu, usage.ru_maxrss * 1024, others)


def alternate(sides, rounds, wait):
    """Every side once a round, each round from another start. {name: [figures]}, and what failed as text."""
    results = {side.name: [] for side in sides}
    failures = {}
    for number in range(rounds):
        start = number % len(sides)
        for side in sides[start:] + sides[:start]:
            if side.name in failures:
                continue
            wait_for_quiet(wait)
            try:
                finished = run(side)
                figures = side.read(finished)
            except (Failed, StopIteration, KeyError, ValueError) as error:
                failures[side.name] = f"failed: {error.args[0] if error.args else type(error).__name__}"
                print(f"round {number + 1}  {side.name}:", *error.args, file=sys.stderr, flush=True)
                continue
            figures.setdefault("peak", finished.peak_bytes)
            figures["others"] = finished.others
            results[side.name].append(figures)
            shown = "  ".join(f"{key} {text(key, value)}" for key, value in figures.items())
            print(f"round {number + 1}  {side.name}: {shown}", file=sys.stderr, flush=True)
    return results, failures


def best(figures, key, choose=max):
    return choose(figure[key] for figure in figures)


def median(figures, key):
    return statistics.median(figure[key] for figure in figures)


def text(key, value):
    """A figure as people read it."""
    if value is None:
        return ""
    if key == "peak":
        return f"{value / 1e9:.2f} GB"
    if key == "others":
        return f"{value:.0%}"
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return str(value).replace("|", "\\|")


# ---------------------------------------------------------------------------------------------------
# The machine
# ---------------------------------------------------------------------------------------------------


def machine_time():
    """(busy, total) seconds of all cores since the start. Stolen time is busy: it is not ours."""
    fields = [int(field) for field in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / TICK, sum(fields) / TICK


def process_time(pid):
    """User and system seconds of a running process, all threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def wait_for_quiet(limit):
    """Until nearly nothing else runs, at most `limit` seconds. A run that was disturbed shows it in its row."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        before = machine_time()
        time.sleep(2)
        busy, total = (after - earlier for after, earlier in zip(machine_time(), before))
        if busy / total < 0.05:
            return


def machine():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = [flag for flag in FLAGS if flag in facts.get("flags", "").split()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    name = facts.get("model name", platform.machine())
    if "cpu family" in facts:
        name += f" (family {facts['cpu family']}, model {facts['model']})"
    return f"{name}, {os.cpu_count()} cores, {' '.join(flags)}, {memory:.0f} GB"


def versions(options):
    """Of everything that is compared."""
    code = (
        "import importlib.metadata as m, json, platform;"
        "names = 'torch transformers peft trl llama-cpp-python'.split();"
        "print(json.dumps({'python': platform.python_version(), **{n: m.version(n) for n in names"
        " if n in {d.name.lower().replace('_', '-') for d in m.distributions()}}}))"
    )
    found = {}
    if options.python and options.python.exists():
        found = json.loads(subprocess.run([options.python, "-c", code], capture_output=True, text=True).stdout or "{}")
    says = subprocess.run([options.rankine, "--version"], capture_output=True, text=True).stdout.strip()
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    return ", ".join([f"{says} (commit {commit})", *(f"{name} {version}" for name, version in found.items())])


# ---------------------------------------------------------------------------------------------------
# Markdown
# ---------------------------------------------------------------------------------------------------


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def command_text(side, options):
    """What to type, with the places of this machine named instead of spelt."""
    words = [f"{key}={value}" for key, value in side.environment.items()] + [str(word) for word in side.command]
    line = shlex.join(words)
    line = line.replace(shlex.quote(getattr(options, "prompt", None) or " "), '"$PROMPT"')
    places = {options.python: "python", options.rankine: "rankine", options.model: "MODEL", options.work: "WORK"}
    for place, name in places.items():
        line = line.replace(str(place), name) if place else line
    return line.replace(f"{ROOT}/", "")


def document(title, about, body, sides, options):
    """Writes the whole page, and prints it."""
    page = (
        f"# {title}\n\n{about}\n\n{body}\n"
        f"{machine()}; {datetime.date.today()}; {versions(options)}.\n\n"
        "```sh\n" + "\n".join(dict.fromkeys(command_text(side, options) for side in sides)) + "\n```\n"
    )
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        part = options.out.with_suffix(options.out.suffix + ".part")
        part.write_text(page, encoding="utf-8")
        part.replace(options.out)
    print(page)
