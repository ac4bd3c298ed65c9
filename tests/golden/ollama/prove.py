#!/usr/bin/env python3
"""Renders each `NAME.gotmpl` with Go's text/template, as Ollama does, and compares with the golden template NAME.

    python3 tests/golden/ollama/prove.py [--go GO]

`../templates/NAME.json` has conversations with what transformers renders for them. Those that a template for Ollama can
be asked are taken: plain messages, the last of them a question, and a prompt for the answer. Without the spaces around a
message that some templates cut, which Ollama's language has no word for. A date is that of the translation, which is
what `clock` conversations ask about: they are left out.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
GO = r"""
package main

import ("encoding/json"; "os"; "strings"; "text/template")

type Message struct { Role, Content string }
type Case struct { Template, System string; Messages []Message }

func main() {
	var cases []Case
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil { panic(err) }
	texts := []string{}
	for _, c := range cases {
		t := template.Must(template.New("").Option("missingkey=zero").Parse(c.Template))
		var out strings.Builder
		data := map[string]any{"System": c.System, "Messages": c.Messages, "Response": ""}
		if err := t.Execute(&out, data); err != nil { panic(err) }
		texts = append(texts, out.String())
	}
	json.NewEncoder(os.Stdout).Encode(texts)
}
"""


def askable(case):
    messages = case["messages"]
    plain = all(
        set(m) == {"role", "content"} and isinstance(m["content"], str) and m["content"] == m["content"].strip()
        and m["content"] and m["role"] in ("system", "user", "assistant") for m in messages
    )
    roles = [m["role"] for m in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    alternate = turns[::2] == ["user"] * len(turns[::2]) and turns[1::2] == ["assistant"] * len(turns[1::2])
    return (
        plain and alternate and len(turns) % 2 == 1 and case.get("add_generation_prompt") and "expected" in case
        and not case.get("tools") and not (set(case) - {"name", "messages", "add_generation_prompt", "expected", "tools"})
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--go", default="go", help="the go command")
    args = parser.parse_args()
    cases, expected = [], []
    for file in sorted(HERE.glob("*.gotmpl")):
        golden = json.loads((HERE.parent / "templates" / f"{file.stem}.json").read_text())
        for case in golden["cases"]:
            if not askable(case) or case["name"] == "clock":
                continue
            system = "\n\n".join(m["content"] for m in case["messages"] if m["role"] == "system")
            messages = [dict(Role=m["role"], Content=m["content"]) for m in case["messages"]]
            cases.append(dict(Template=file.read_text(), System=system, Messages=messages))
            # The tokenizer puts BOS before the text.
            bos = golden.get("bos_token") or ""
            expected.append((file.stem, case["name"], case["expected"].removeprefix(bos)))
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "main.go"
        source.write_text(GO)
        environment = os.environ | {"GOCACHE": f"{folder}/cache", "GO111MODULE": "off", "GOFLAGS": ""}
        done = subprocess.run(
            [args.go, "run", source], input=json.dumps(cases), capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(done.stderr)
    wrong = 0
    for (name, case, text), found in zip(expected, json.loads(done.stdout)):
        if text != found:
            wrong += 1
            print(f"{name}, {case}:\n  expected {text!r}\n  found    {found!r}")
    names = sorted({name for name, _, _ in expected})
    print(f"{len(expected) - wrong} of {len(expected)} conversations of {len(names)} templates: {', '.join(names)}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
