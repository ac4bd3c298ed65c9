#!/usr/bin/env python3
"""The Hub, with Python on one side of each exchange: the tests' server serves huggingface_hub, and the cache is shared.

`cargo build -p rankine-hub --features hub --example hub_server` first. Needs no model; with --model its files are used, too.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from checks import check, end

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKEN, STRANGER = "hf_test", "hf_stranger"


def arguments():
    import argparse

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--rankine", type=pathlib.Path, default=target / "debug/rankine", help="the binary")
    parser.add_argument("--server", type=pathlib.Path, default=target / "debug/examples/hub_server")
    parser.add_argument("--model", type=pathlib.Path, help="a model's folder (SmolLM2-135M's)")
    parser.add_argument("--work", type=pathlib.Path, help="not used: everything goes to a temporary folder")
    return parser.parse_args()


def noise(count, seed):
    import random

    return random.Random(seed).randbytes(count)


def repositories(root, model):
    """Folders as the server takes them."""
    parts = {
        "models/org/shards": {
            "README.md": b"---\nlicense: mit\n---\n",
            "config.json": b'{"model_type": "llama"}',
            "model-00001-of-00002.safetensors": noise(3_000_000, 1),
            "model-00002-of-00002.safetensors": noise(2_000_000, 2),
            "model.safetensors.index.json": b"{}",
            "pytorch_model.bin": noise(1000, 3),
            "tokenizer.json": noise(400_000, 4),
            "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
        },
        "models/org/gated-one": {"config.json": b"{}", "model.safetensors": noise(1000, 5)},
        "models/org/private-one": {"config.json": b"{}", "model.safetensors": noise(1000, 6)},
        "datasets/org/data": {
            "README.md": b"---\nconfigs: []\n---\n",
            "data/train-00000-of-00001.jsonl": b'{"prompt": "a", "completion": "b"}\n' * 3,
        },
    }
    for name, files in parts.items():
        for path, content in files.items():
            place = root / name / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    if model:
        shutil.copytree(model, root / "models/org/real", ignore=shutil.ignore_patterns("*.gguf"))


class Server:
    def __init__(self, binary, root, *words):
        self.process = subprocess.Popen([binary, "--root", root, *map(str, words)], stdout=subprocess.PIPE, text=True)
        self.endpoint = self.process.stdout.readline().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def contents(folder):
    files = [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def rankine(args, home, endpoint, *words, token=None, offline=False):
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint}
    env |= {"HF_TOKEN": token} if token else {}
    env |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    return subprocess.run([args.rankine, *map(str, words)], capture_output=True, text=True, env=env)


def python(home, endpoint, code, token=None, offline=False):
    """huggingface_hub in a process of its own: it reads its settings once."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    env |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    env |= {"HF_TOKEN": token} if token else {}
    env |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    code = "import json\nfrom huggingface_hub import *\nfrom huggingface_hub.errors import *\n" + code
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


def main():
    args = arguments()
    work = pathlib.Path(tempfile.mkdtemp())
    root = work / "root"
    repositories(root, args.model)
    wanted = {name: data for name, data in contents(root / "models/org/shards").items() if not name.endswith(".bin")}

    with Server(args.server, root) as server:
        endpoint = server.endpoint
        print("== huggingface_hub from the tests' server")
        one = work / "one"
        done = python(one, endpoint, "print(snapshot_download('org/shards', ignore_patterns='*.bin'))")
        check("snapshot_download", done.returncode == 0, done.stderr[-2000:])
        theirs = pathlib.Path(done.stdout.strip())
        check("the same files", contents(theirs) == wanted)
        done = python(one, endpoint, "print(snapshot_download('org/data', repo_type='dataset'))")
        check("a dataset", contents(done.stdout.strip() or ".") == contents(root / "datasets/org/data"), done.stderr[-2000:])
        info = "i = HfApi().model_info('org/shards'); print(json.dumps([i.id, i.sha, len(i.siblings)]))"
        check("model_info", json.loads(python(one, endpoint, info).stdout or "[0]")[0] == "org/shards")
        for name, token, error in [
            ("org/nothing", None, "RepositoryNotFoundError"),
            ("org/private-one", None, "RepositoryNotFoundError"),
            ("org/private-one", STRANGER, "RepositoryNotFoundError"),
            ("org/gated-one", None, "GatedRepoError"),
            ("org/gated-one", STRANGER, "GatedRepoError"),
        ]:
            done = python(one, endpoint, f"hf_hub_download('{name}', 'config.json')", token=token)
            check(f"{name} as {token}: {error}", error in done.stderr, done.stderr[-2000:])
        done = python(one, endpoint, "hf_hub_download('org/shards', 'config.json', revision='v9')")
        check("RevisionNotFoundError", "RevisionNotFoundError" in done.stderr, done.stderr[-2000:])
        done = python(one, endpoint, "hf_hub_download('org/shards', 'nothing.json')")
        check("EntryNotFoundError", "EntryNotFoundError" in done.stderr, done.stderr[-2000:])
        done = python(one, endpoint, "hf_hub_download('org/gated-one', 'config.json')", token=TOKEN)
        check("with a token that may", done.returncode == 0, done.stderr[-2000:])

        print("== one cache for both")
        offline = rankine(args, one, endpoint, "pull", "org/shards", offline=True)
        check("what Python fetched, rankine finds offline", offline.stdout.strip() == str(theirs), offline.stderr)
        two = work / "two"
        ours = rankine(args, two, endpoint, "pull", "org/shards")
        check("rankine pull", ours.returncode == 0, ours.stderr)
        check("the same files as Python's", contents(ours.stdout.strip()) == wanted)
        for words, where in [("", "by the branch"), (", revision=%r" % pathlib.Path(ours.stdout.strip()).name, "by the commit")]:
            code = f"print(snapshot_download('org/shards', ignore_patterns=['*.bin']{words}))"
            found = python(two, endpoint, code, offline=True)
            check(f"what rankine fetched, Python finds offline {where}", found.stdout.strip() == ours.stdout.strip(), found.stderr[-2000:])
        code = "print(snapshot_download('org/shards', ignore_patterns=['*.bin']))"
        before = sorted(path.name for path in (two / "hub/models--org--shards/blobs").iterdir())
        found = python(two, endpoint, code)
        after = sorted(path.name for path in (two / "hub/models--org--shards/blobs").iterdir())
        check("online, Python fetches nothing again", found.stdout == ours.stdout and before == after, found.stderr[-2000:])
        # Python names blobs in its own way: the names must be the same.
        theirs_blobs = sorted(path.name for path in (one / "hub/models--org--shards/blobs").iterdir())
        check("blobs have the names that Python gives them", theirs_blobs == after, (theirs_blobs, after))
        code = "r = scan_cache_dir(); print(json.dumps([sorted(x.repo_id for x in r.repos), len(r.warnings), r.size_on_disk]))"
        scanned = json.loads(python(two, endpoint, code).stdout or "[[], 1, 0]")
        listed = json.loads(rankine(args, two, endpoint, "cache", "--json").stdout)
        check("scan_cache_dir sees a sound cache", scanned[:2] == [["org/shards"], 0], scanned)
        check("rankine cache counts what Python counts", listed["bytes"] == scanned[2], (listed["bytes"], scanned[2]))

        print("== uploads")
        adapter = work / "adapter"
        adapter.mkdir()
        for name, data in {"adapter_config.json": b'{"r": 8}', "README.md": b"---\nlicense: mit\n---\n# a\n",
                           "adapter_model.safetensors": noise(2_500_000, 7)}.items():
            (adapter / name).write_bytes(data)
        pushed = rankine(args, two, endpoint, "push", adapter, "tester/ours", token=TOKEN)
        check("rankine push", pushed.returncode == 0, pushed.stderr)
        code = "print(snapshot_download('tester/ours'))"
        found = python(work / "three", endpoint, code, token=TOKEN)
        got = {name: data for name, data in contents(found.stdout.strip() or work / "none").items() if name[0] != "."}
        check("Python downloads what rankine pushed", got == contents(adapter), found.stderr[-2000:])
        found = python(work / "three", endpoint, code)
        check("and without a token it is private", "RepositoryNotFoundError" in found.stderr or found.stdout, found.stderr[-500:])
        code = f"create_repo('tester/theirs', private=True); print(upload_folder(repo_id='tester/theirs', folder_path={str(adapter)!r}).oid)"
        found = python(work / "three", endpoint, code, token=TOKEN)
        check("upload_folder to the tests' server", found.returncode == 0, found.stderr[-2000:])
        back = rankine(args, work / "four", endpoint, "pull", f"tester/theirs@{found.stdout.strip()}", token=TOKEN)
        got = contents(back.stdout.strip() or work / "none")
        check("rankine pulls what Python uploaded", got == contents(adapter), back.stderr)

        if args.model:
            print("== a real model")
            real = rankine(args, work / "real", endpoint, "pull", "org/real")
            check("rankine pull", contents(real.stdout.strip() or work / "none") == contents(root / "models/org/real"), real.stderr)
            print(real.stderr.strip())
            code = "from transformers import AutoConfig, AutoTokenizer; c = AutoConfig.from_pretrained('org/real'); t = AutoTokenizer.from_pretrained('org/real'); print(c.model_type, len(t))"
            found = python(work / "real", endpoint, code, offline=True)
            check("transformers loads it offline, by name", found.returncode == 0, found.stderr[-2000:])
            print(found.stdout.strip())

    print("== a server that cuts every transfer")
    with Server(args.server, root, "--cut-every", 700_000) as server:
        cut = rankine(args, work / "cut", server.endpoint, "pull", "org/shards")
        check("rankine pull", contents(cut.stdout.strip() or work / "none") == wanted, cut.stderr)
        found = python(work / "cut2", server.endpoint, "print(snapshot_download('org/shards', ignore_patterns='*.bin'))")
        whole = found.returncode == 0 and contents(found.stdout.strip()) == wanted
        print(f"     (huggingface_hub there: {'whole' if whole else 'fails: ' + found.stderr.strip().splitlines()[-1][:200]})")

    shutil.rmtree(work)
    import huggingface_hub

    print(f"huggingface_hub {huggingface_hub.__version__}")
    end()


if __name__ == "__main__":
    main()
