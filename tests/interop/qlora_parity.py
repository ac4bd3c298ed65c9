#!/usr/bin/env python3
"""Twenty QLoRA steps on SmolLM2-135M: rankine with `quantize: nf4`, and peft over bitsandbytes' values.

bitsandbytes quantises every linear layer but the head to NF4 with double-quantised scales; the values that this stands
for are written into the float32 model that peft trains an adapter on. The same adapter at the start, the same batches:
the same losses to 1e-3. Needs `pip install bitsandbytes==0.50.2`.
"""
import torch
from bitsandbytes import functional
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from common import arguments
from train_parity import compare


def nested(scales):
    """The scales as 8 bits hold them: by the nearest level, as on CUDA. The body for the CPU (0.50.2) looks the level up
    in a table of rounded values, and takes its neighbour for 3 scales of 1,000."""
    levels, offset = functional.create_dynamic_map(), scales.mean()
    blocks = torch.nn.functional.pad(scales - offset, (0, -len(scales) % 256)).view(-1, 256)
    outer = blocks.abs().amax(1, keepdim=True)
    codes = torch.bucketize((blocks * (1.0 / outer)).clamp(-1, 1), (levels[:-1] + levels[1:]) / 2)
    return (levels[codes] * outer).flatten()[: len(scales)] + offset


def nf4(model):
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            weight = module.weight.data
            codes, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=False)
            scales = nested(state.absmax)
            module.weight.data = _dequantize_4bit_compute(codes.flatten(), scales, state.code, 64, state.shape, weight.dtype)
    return model


if __name__ == "__main__":
    compare(arguments(__doc__), "qlora-parity", {"quantize": "nf4"}, nf4)
