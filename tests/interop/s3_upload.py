#!/usr/bin/env python3
"""Uploads to moto's S3, which cuts no corner that ours might: signatures, sizes of parts, ETags, IAM's refusals.

`pip install 'moto[s3,server]' boto3`, and a rankine that was built with `--features s3`. Needs no model.
"""
import hashlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import boto3
import moto
from checks import check, end

ROOT = pathlib.Path(__file__).resolve().parents[2]
PART = 16 << 20


def arguments():
    import argparse

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    parser.add_argument("--rankine", type=pathlib.Path, default=target / "debug/rankine", help="the binary")
    parser.add_argument("--model", type=pathlib.Path, help="not used: files are made up")
    parser.add_argument("--work", type=pathlib.Path, help="not used: everything goes to a temporary folder")
    return parser.parse_args()


class Moto:
    """A server of its own, which asks for valid signatures after so many requests."""

    def __init__(self, free_requests):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        env = os.environ | {"INITIAL_NO_AUTH_ACTION_COUNT": str(free_requests)}
        server = pathlib.Path(sys.executable).parent / "moto_server"
        command = [server, "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        for _ in range(200):
            try:
                urllib.request.urlopen(self.endpoint + "/moto-api/", timeout=1).close()
                return
            except OSError:
                time.sleep(0.1)
        sys.exit("moto does not start")

    def client(self, service, key="root", secret="root"):
        return boto3.client(service, endpoint_url=self.endpoint, region_name="us-east-1",
                            aws_access_key_id=key, aws_secret_access_key=secret)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def environment(server, key="key", secret="secret", region="us-east-1"):
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return env | {"AWS_ENDPOINT_URL": server.endpoint, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret,
                  "AWS_REGION": region, "AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}


def rankine(args, env, *words):
    return subprocess.run([args.rankine, *map(str, words)], capture_output=True, text=True, env=env)


def model(folder, big=2 * PART + 1_234_567):
    """Shards of three parts, one part to the byte, and small files."""
    folder.mkdir()
    noise = random.Random(7).randbytes
    for name, data in {
        "config.json": b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}',
        "README.md": b"---\nlicense: mit\n---\n",
        "tokenizer.json": noise(300_000),
        "model-00001-of-00002.safetensors": noise(big),
        "model-00002-of-00002.safetensors": noise(PART),
    }.items():
        (folder / name).write_bytes(data)
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def objects(s3, bucket, prefix):
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    found = {}
    for entry in listed:
        body = s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
        found[entry["Key"].removeprefix(prefix)] = (body, entry["ETag"].strip('"'))
    return found


def etag(data):
    """As S3 makes it of parts."""
    parts = [hashlib.md5(data[at : at + PART]).digest() for at in range(0, max(len(data), 1), PART)]
    return hashlib.md5(data).hexdigest() if len(parts) == 1 else f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"


def uploads(args, work):
    print("== uploads")
    with Moto(10**9) as server:
        s3 = server.client("s3")
        s3.create_bucket(Bucket="models")
        env = environment(server)
        folder = model(work / "model")
        began = time.time()
        done = rankine(args, env, "push", folder, "s3://models/tuned/smol")
        check("rankine push", done.returncode == 0 and done.stdout.strip() == "s3://models/tuned/smol", done.stderr)
        print(f"     {sum(map(len, contents(folder).values())) >> 20} MiB in {time.time() - began:.1f} s")
        found = objects(s3, "models", "tuned/smol/")
        marker = json.loads(found.pop("rankine-upload.json")[0])
        check("every byte", {name: body for name, (body, _) in found.items()} == contents(folder))
        check("the ETags that were foreseen", all(found[name][1] == etag(data) for name, data in contents(folder).items()),
              {name: tag for name, (_, tag) in found.items()})
        check("the marker says so", marker["state"] == "whole" and all(
            marker["files"][name] == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "etag": etag(data)}
            for name, data in contents(folder).items()), marker)
        check("no parts are left", not s3.list_multipart_uploads(Bucket="models").get("Uploads"))
        again = rankine(args, env, "push", folder, "s3://models/tuned/smol", "--json")
        check("again: all is there", again.returncode == 0 and json.loads(again.stdout)["kept"] == 5, again.stdout + again.stderr)

        print("== what boto3 has sent in other parts is read and compared")
        for name in contents(folder):
            s3.upload_file(str(folder / name), "models", f"other/{name}")
        again = rankine(args, env, "push", folder, "s3://models/other", "--json")
        check("all is there", again.returncode == 0 and json.loads(again.stdout)["kept"] == 5, again.stdout + again.stderr)

        print("== other objects")
        (folder / "config.json").write_bytes(b"{}" + b'"model_type"')
        refused = rankine(args, env, "push", folder, "s3://models/tuned/smol")
        check("are not written over", refused.returncode == 2 and "config.json" in refused.stderr and "--force" in refused.stderr, refused.stderr)
        check("and stay", objects(s3, "models", "tuned/smol/config.json")[""][0].startswith(b'{"model_type"'))
        forced = rankine(args, env, "push", folder, "s3://models/tuned/smol", "--force")
        check("unless asked for", forced.returncode == 0 and objects(s3, "models", "tuned/smol/config.json")[""][0].startswith(b"{}"), forced.stderr)

        print("== killed on the way")
        big = model(work / "big", big=12 * PART)
        process = subprocess.Popen([args.rankine, "push", big, "s3://models/killed"], env=env, stderr=subprocess.DEVNULL)
        for _ in range(1000):
            under_way = s3.list_multipart_uploads(Bucket="models").get("Uploads")
            if under_way and len(s3.list_parts(Bucket="models", Key=under_way[0]["Key"], UploadId=under_way[0]["UploadId"]).get("Parts", [])) >= 2:
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = objects(s3, "models", "killed/")
        check("it is seen to be half", json.loads(found["rankine-upload.json"][0])["state"] == "sending", sorted(found))
        check("and no shard is there in part", "model-00001-of-00002.safetensors" not in found, sorted(found))
        again = rankine(args, env, "push", big, "s3://models/killed")
        found = objects(s3, "models", "killed/")
        marker = json.loads(found.pop("rankine-upload.json")[0])
        check("the same command ends it", again.returncode == 0 and marker["state"] == "whole", again.stderr)
        check("every byte", {name: body for name, (body, _) in found.items()} == contents(big))

        print("== refusals")
        refused = rankine(args, env, "push", folder, "s3://nowhere/a")
        check("no bucket", refused.returncode == 2 and "no bucket `nowhere`" in refused.stderr, refused.stderr)
    refused = rankine(args, env, "push", folder, "s3://models/a")
    check("no server", refused.returncode == 1 and "no answer from" in refused.stderr, refused.stderr)


def signatures(args, work):
    print("== IAM: moto computes every signature itself")
    # Five requests to set it up: a bucket, two users, their keys, and what one of them may.
    with Moto(6) as server:
        iam = server.client("iam")
        server.client("s3").create_bucket(Bucket="models")
        keys = {}
        for name in ("writer", "stranger"):
            iam.create_user(UserName=name)
            keys[name] = iam.create_access_key(UserName=name)["AccessKey"]
        allowed = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Resource": "*", "Action": [
            "s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"]}]}
        iam.put_user_policy(UserName="writer", PolicyName="p", PolicyDocument=json.dumps(allowed))
        folder = work / "model"

        def push(name, secret=None):
            key = keys[name]
            env = environment(server, key["AccessKeyId"], secret or key["SecretAccessKey"])
            return rankine(args, env, "push", folder, "s3://models/tuned")

        done = push("writer")
        check("signatures are right, and those four rights suffice", done.returncode == 0, done.stderr)
        refused = push("writer", secret="another")
        check("a wrong secret", refused.returncode == 2 and "credentials are refused" in refused.stderr, refused.stderr)
        refused = push("stranger")
        check("no rights", refused.returncode == 2 and "access denied" in refused.stderr and "s3:PutObject" in refused.stderr, refused.stderr)


def main():
    args = arguments()
    with tempfile.TemporaryDirectory() as work:
        uploads(args, pathlib.Path(work))
        signatures(args, pathlib.Path(work))
    print(f"moto {moto.__version__}, boto3 {boto3.__version__}")
    end()


if __name__ == "__main__":
    main()
