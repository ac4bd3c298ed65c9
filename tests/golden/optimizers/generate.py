#!/usr/bin/env python3
"""Six optimizer steps of a matrix and a vector, and forty-one learning rates of each schedule.

    v/bin/python tests/golden/optimizers/generate.py

`trajectories.safetensors`: `start.{matrix,vector}`, `grad.N.{matrix,vector}` for N = 1..6 (the same
gradients for every optimizer; step 4 is a hundred times larger, step 5 a hundred times smaller), and
`CASE.N.{matrix,vector}` after step N. `optimizers.json` and `schedules.json` say with which settings.
"""
import json
import pathlib
import re

import torch
import transformers
from importlib.metadata import version
from lion_pytorch import Lion
from safetensors.torch import save_file
from transformers import optimization

HERE = pathlib.Path(__file__).resolve().parent
VERSIONS = {
    "torch": torch.__version__.split("+")[0],
    "transformers": transformers.__version__,
    "peft": version("peft"),
    "lion-pytorch": version("lion-pytorch"),
}
STEPS = 6
SHAPES = {"matrix": (5, 7), "vector": (7,)}
ADAFACTOR = dict(
    lr=0.02, eps=[1e-30, 1e-3], clip_threshold=1.0, decay_rate=-0.8, beta1=None, weight_decay=0.05,
    scale_parameter=False, relative_step=False, warmup_init=False,
)
OPTIMIZERS = {
    "adamw": (torch.optim.AdamW, dict(lr=0.03, betas=[0.85, 0.97], eps=1e-6, weight_decay=0.1)),
    # eps as large as the root of the second moment, so that where it is added shows
    "adamw-large-eps": (torch.optim.AdamW, dict(lr=0.03, betas=[0.9, 0.999], eps=0.5, weight_decay=0.0)),
    "sgd": (torch.optim.SGD, dict(lr=0.05, momentum=0.0, weight_decay=0.0)),
    "sgd-decay": (torch.optim.SGD, dict(lr=0.05, momentum=0.0, weight_decay=0.1)),
    "sgd-momentum": (torch.optim.SGD, dict(lr=0.05, momentum=0.9, weight_decay=0.1)),
    "adafactor": (optimization.Adafactor, ADAFACTOR),
    "adafactor-no-decay": (optimization.Adafactor, {**ADAFACTOR, "weight_decay": 0.0}),
    "lion": (Lion, dict(lr=0.01, betas=[0.9, 0.99], weight_decay=0.1)),
}
NOTES = {
    "adamw": "decoupled: p *= 1 - lr wd, before the step; eps is added to sqrt(v / (1 - beta2^t))",
    "sgd-momentum": "weight decay is added to the gradient; the first step's buffer is the gradient, undamped",
    "adafactor": "the matrix's second moment is factored (rows: mean over the last axis), the vector's is not; eps[0] is added "
    "to the squared gradient; beta2 of step t is 1 - t^decay_rate; the update is divided by max(1, RMS / clip_threshold) "
    "per tensor; decay: p *= 1 - lr wd, before the update",
    "lion": "decoupled: p *= 1 - lr wd, before the step; the sign of beta1 m + (1 - beta1) g, then m by beta2",
}

WARMUP, TOTAL = 5, 40
SCHEDULES = {
    "constant_with_warmup": (optimization.get_constant_schedule_with_warmup, dict(num_warmup_steps=WARMUP)),
    "linear": (optimization.get_linear_schedule_with_warmup, dict(num_warmup_steps=WARMUP, num_training_steps=TOTAL)),
    "cosine": (
        optimization.get_cosine_schedule_with_warmup,
        dict(num_warmup_steps=WARMUP, num_training_steps=TOTAL, num_cycles=0.5),
    ),
    "cosine_with_min_lr": (
        optimization.get_cosine_with_min_lr_schedule_with_warmup,
        dict(num_warmup_steps=WARMUP, num_training_steps=TOTAL, num_cycles=0.5, min_lr_rate=0.1),
    ),
    **{
        f"warmup_stable_decay_{decay.replace('1-', '1_minus_')}": (
            optimization.get_wsd_schedule,
            dict(num_warmup_steps=WARMUP, num_decay_steps=4, num_training_steps=TOTAL, warmup_type="linear",
                 decay_type=decay, min_lr_ratio=ratio, num_cycles=0.5),
        )
        for decay, ratio in [("cosine", 0.0), ("linear", 0.1), ("1-sqrt", 0.0)]
    },
}


def write_json(name, value):
    text = json.dumps(value, indent=2)
    text = re.sub(r"\[[\d\s,.e-]+\]", lambda m: re.sub(r"\s+", " ", m[0]).replace("[ ", "[").replace(" ]", "]"), text)
    (HERE / name).write_text(text + "\n")


def trajectories():
    g = torch.Generator().manual_seed(20240229)
    out = {f"start.{name}": torch.randn(shape, generator=g) for name, shape in SHAPES.items()}
    for step in range(1, STEPS + 1):
        size = {4: 30.0, 5: 0.003}.get(step, 0.3)
        for name, shape in SHAPES.items():
            out[f"grad.{step}.{name}"] = size * torch.randn(shape, generator=g)
    for case, (kind, settings) in OPTIMIZERS.items():
        params = {name: torch.nn.Parameter(out[f"start.{name}"].clone()) for name in SHAPES}
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        optimizer = kind(params.values(), **settings)
        for step in range(1, STEPS + 1):
            for name, p in params.items():
                p.grad = out[f"grad.{step}.{name}"].clone()
            optimizer.step()
            out |= {f"{case}.{step}.{name}": p.detach().clone() for name, p in params.items()}
    return out


def multipliers(schedule, settings):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, **settings)
    found = []
    for _ in range(TOTAL + 1):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def main():
    torch.set_num_threads(1)
    save_file(trajectories(), HERE / "trajectories.safetensors", metadata={"format": "pt"})
    (HERE / "trajectories.safetensors").chmod(0o644)
    write_json("optimizers.json", {
        "versions": VERSIONS,
        "steps": STEPS,
        "cases": {
            case: {"class": f"{kind.__module__}.{kind.__qualname__}", **settings, **({"note": NOTES[case]} if case in NOTES else {})}
            for case, (kind, settings) in OPTIMIZERS.items()
        },
    })
    write_json("schedules.json", {
        "versions": VERSIONS,
        "note": "multipliers[i] scales the learning rate of optimizer step i, counted from 0; the last is one past the end",
        "schedules": {
            name: {"function": schedule.__name__, **settings, "multipliers": multipliers(schedule, settings)}
            for name, (schedule, settings) in SCHEDULES.items()
        },
    })


if __name__ == "__main__":
    main()
