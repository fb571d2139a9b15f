# SPDX-License-Identifier: Apache-2.0
"""Does diffusers load the LoRA that `--mode=export` writes, and compute the same?

  pip install torch diffusers==0.37.1 "transformers<5" peft && pip install -e .
  python tools/check_lora.py

For the tiny networks of `tests/golden_models.py`: our file goes through PyTorch
diffusers' own loader, the camera embedding is added to the time embedding, and the
output is compared with that of PyTorch with merged weights, which `record_golden.py`
recorded and which our network meets (`tests/program/test_parity.py`).
"""

import pathlib
import sys
import tempfile

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from safetensors.torch import load_file

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "program")]

import golden_models as golden  # noqa: E402
from flax.traverse_util import flatten_dict  # noqa: E402
from test_adapter import make_params  # noqa: E402

from vsd_jax.program.export import adapter  # noqa: E402

TOLERANCE = 2e-4


def camera_hook(tensors: dict, camera: torch.Tensor):
    """Adds the camera's embedding to the time embedding."""

    def layer(name, value):
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return torch.nn.functional.linear(value, weight, bias)

    hidden = torch.nn.functional.silu(layer("linear_1", camera))
    return lambda module, inputs, out: out + layer("linear_2", hidden)


def check(name: str, folder: pathlib.Path) -> tuple[float, float]:
    """Largest difference with the LoRA, and without it, for comparison."""
    flat = flatten_dict(make_params(name)[1], sep=".")
    renamed = {  # the recorded values have names of their own
        path: golden.score_tensor(
            path
            if path.startswith("camera")
            else f"lora.{'_'.join(path.split('.')[1:-1])}.{path.split('.')[-1]}",
            value.shape,
        )
        for path, value in flat.items()
    }
    adapter.save_lora(folder, renamed, 1.0)
    unet = UNet2DConditionModel(**golden.ARCHITECTURES[name]["unet"])
    state = {
        key: torch.from_numpy(golden.tensor(f"unet.{key}", tuple(shape)))
        for key, shape in golden.read_names(name)["unet"].items()
    }
    unet.load_state_dict(state, strict=False)
    unet.eval()
    known = {k: torch.from_numpy(v) for k, v in golden.read_arrays(name).items()}
    tensors = load_file(folder / "lora" / adapter.CAMERA_FILE)
    unet.time_embedding.register_forward_hook(camera_hook(tensors, known["camera"]))
    inputs = known["noisy"], known["t"], known["text"][[0, 0]]
    found = []
    with torch.no_grad():
        found.append(unet(*inputs).sample)
        loader = StableDiffusionLoraLoaderMixin
        lora, alphas = loader.lora_state_dict(str(folder / "lora"))[:2]
        loader.load_lora_into_unet(lora, network_alphas=alphas, unet=unet)
        found.append(unet(*inputs).sample)
    without, with_lora = (float((x - known["score"]).abs().max()) for x in found)
    return with_lora, without


def main() -> None:
    """Checks all architectures."""
    for name in golden.ARCHITECTURES:
        with tempfile.TemporaryDirectory() as folder:
            with_lora, without = check(name, pathlib.Path(folder))
        print(f"{name}: differ by {with_lora:.1e} (without the LoRA {without:.1e})")
        if not with_lora < TOLERANCE < without:
            sys.exit(f"{name}: that is too far, or the LoRA does nothing")


if __name__ == "__main__":
    main()
