# SPDX-License-Identifier: Apache-2.0
"""The yardstick of `benchmarks/accelerator.py`: PyTorch on the same card.

diffusers' own classes in bfloat16 with its fused attention, as `torch_sd.py` builds
them; the same shapes and weights as ours. The render is a share of the whole, times
that share, and is asked for less than ours (`torch_sd.py`).
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import accelerator_scenes, sd_models, torch_nerf_step, torch_sd

_ROUNDS = {"full": 5, "tiny": 1}
_NETWORKS = ("unet", "lora", "train", "vae", "render")
_ATTENTIONS = ("attention, slices", "attention, XLA", "attention, cuDNN")


def measure(part: str, size: str) -> dict[str, float]:
    """Milliseconds by the name of our row; {} where PyTorch has nothing like it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = {}
    if part == "networks":
        noise = np.zeros(sd_models.inputs(size)["direction"].shape, np.float32)
        for name in _NETWORKS:
            run = torch_sd.make_part(
                size, name, rank=4, noise=noise, device=device, dtype=torch.bfloat16
            )
            found[name] = torch_sd.share(name) * _median_ms(run, size, device)
    if part == "nerf":
        step = torch_nerf_step.make_torch_step(accelerator_scenes.NERF[size], device)
        found["NeRF step"] = _median_ms(step, size, device)
    if part == "attention":
        ms = _median_ms(_attention(size, device), size, device)
        found = dict.fromkeys(_ATTENTIONS, ms)
    return found


def _median_ms(run: Callable[[], object], size: str, device: str) -> float:
    spent = []
    for _ in range(1 + _ROUNDS[size]):
        begin = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - begin)
    return 1e3 * statistics.median(spent[1:])


def _attention(size: str, device: str) -> Callable[[], object]:
    """One fused call and its gradient."""
    shape = (1, 10, 4096, 64) if size == "full" else (1, 2, 1024, 8)
    options = {"device": device, "dtype": torch.bfloat16, "requires_grad": True}
    inputs = [torch.randn(shape, **options) for _ in range(3)]

    def run():
        out = torch.nn.functional.scaled_dot_product_attention(*inputs)
        return torch.autograd.grad(torch.sum(out.float() ** 2), inputs)

    return run
