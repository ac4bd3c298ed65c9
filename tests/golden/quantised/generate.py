#!/usr/bin/env python3
"""Matrices as bitsandbytes holds them in NF4 with double-quantised scales, and their values again.

    python3 -m venv v && v/bin/pip install -r tests/golden/quantised/requirements.txt
    v/bin/python tests/golden/quantised/generate.py

`nf4.safetensors`, for each case: `CASE.values` [out, in]; `CASE.codes`, two a byte; `CASE.scale_codes`, `CASE.outer` and
`CASE.offset`, the nested scales; `CASE.scales`, the scales before they were nested; `CASE.dequantised` [out, in].
"""
import pathlib

import bitsandbytes
import torch
from bitsandbytes import functional
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent


def cases():
    torch.manual_seed(5)
    # Blocks across rows, a rest of a block, more blocks than one outer block holds; rows without a value; outliers.
    yield "even", torch.randn(24, 128) * 0.02
    yield "rest", torch.randn(9, 50)
    yield "many", torch.randn(270, 64) * torch.rand(270, 1)
    zeros = torch.randn(8, 64)
    zeros[3] = 0
    zeros[5, 7] = 400
    yield "hard", zeros
    yield "halves", (torch.randn(16, 96) * 0.05).to(torch.bfloat16).float()


def dequantised(codes, state):
    """By the body for every device: that for the CPU (0.50.2) takes other scales where a block crosses rows."""
    scales = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    return _dequantize_4bit_compute(codes.flatten(), scales, state.code, 64, state.shape, torch.float32)


def main():
    tensors = {}
    for name, values in cases():
        codes, state = functional.quantize_4bit(values, blocksize=64, quant_type="nf4", compress_statistics=True)
        _, plain = functional.quantize_4bit(values, blocksize=64, quant_type="nf4", compress_statistics=False)
        tensors |= {
            f"{name}.values": values,
            f"{name}.codes": codes.flatten(),
            f"{name}.scale_codes": state.absmax.flatten(),
            f"{name}.outer": state.state2.absmax,
            f"{name}.offset": state.offset.reshape(1),
            f"{name}.scales": plain.absmax,
            f"{name}.dequantised": dequantised(codes, state),
        }
    tensors["levels"] = functional.get_4bit_type("nf4", "cpu")
    tensors["map"] = functional.create_dynamic_map()
    about = {"bitsandbytes": bitsandbytes.__version__, "torch": torch.__version__}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, HERE / "nf4.safetensors", metadata=about)


if __name__ == "__main__":
    main()
