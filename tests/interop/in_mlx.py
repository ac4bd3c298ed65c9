"""Run by platforms.py in an environment with mlx-lm (on Linux, `mlx[cpu]`): logits of a base with an adapter.

Reads {"base": folder, "adapter": folder, "ids": [[id]]} from stdin; writes the logits to the file named by the argument.
"""
import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model

mx.set_default_device(mx.cpu)
asked = json.load(sys.stdin)
model, _ = load_model(Path(asked["base"]))
model.set_dtype(mx.float32)
without = model(mx.array([asked["ids"][0]]))[0]
# Refuses a tensor that the layers it makes by adapter_config.json do not have, and any other shape.
model = load_adapters(model, asked["adapter"])
model.eval()
logits = {f"{index}": model(mx.array([ids]))[0] for index, ids in enumerate(asked["ids"])}
logits["without"] = without
mx.save_safetensors(sys.argv[1], logits)
