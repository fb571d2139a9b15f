# SPDX-License-Identifier: Apache-2.0
"""The trained score network as files that diffusers loads.

`lora/pytorch_lora_weights.safetensors` is a LoRA of the U-Net under PEFT's names:
`pipeline.load_lora_weights("RUN/lora")` adds it to the checkpoint of `score.path` (or
of `prior.path`). The camera's MLP has no counterpart there and lies beside it:
`camera_embedding.safetensors`, to be added to the output of `time_embedding`. With
`score.pass_through` that file holds `passage` too, as `diffusion/lora.py` reads it.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors.numpy import save

from vsd_jax.program.folder import writer
from vsd_jax.program.prior import weights

LORA_FILE = "pytorch_lora_weights.safetensors"
CAMERA_FILE = "camera_embedding.safetensors"


def tensors_of(params: Mapping, scale: float) -> tuple[dict, dict]:
    """What the two files hold.

    Args:
      params: {"lora": ..., "camera": ...} of `diffusion/lora.py`, perhaps "passage".
      scale: of the LoRA update; becomes part of its second factor, because the file
        says none and diffusers then takes 1.

    Returns:
      ({module.lora_A.weight [rank, in], module.lora_B.weight [out, rank]},
      {layer.weight [out, in], layer.bias [out], perhaps passage [c]}), float32.
    """
    adapters = {}

    def visit(tree: Mapping, path: tuple[str, ...]) -> None:
        if "down" in tree and "up" in tree:
            module = weights.torch_name((*path, "kernel")).removesuffix(".weight")
            down, up = (np.asarray(tree[k], np.float32) for k in ("down", "up"))
            adapters[f"unet.{module}.lora_A.weight"] = np.ascontiguousarray(down.T)
            adapters[f"unet.{module}.lora_B.weight"] = np.ascontiguousarray(
                scale * up.T
            )
            return
        for name, child in tree.items():
            visit(child, (*path, name))

    visit(params["lora"], ())
    camera = {
        f"{layer}.{'weight' if name == 'kernel' else name}": np.ascontiguousarray(
            np.asarray(value, np.float32).T
        )
        for layer, leaves in params["camera"].items()
        for name, value in leaves.items()
    }
    if "passage" in params:
        camera["passage"] = np.asarray(params["passage"], np.float32)
    return adapters, camera


def save_lora(folder: Path, flat: Mapping[str, np.ndarray], scale: float) -> bool:
    """Writes `lora/` of a run.

    Args:
      folder: of the run.
      flat: as from `checkpoint.load_score`.
      scale: of the LoRA update.

    Returns:
      Whether there was a LoRA to write.
    """
    if not any(name.startswith("lora.") for name in flat):
        return False
    params = unflatten_dict({tuple(k.split(".")): v for k, v in flat.items()})
    adapters, camera = tensors_of(params, scale)
    target = folder / "lora"
    target.mkdir(exist_ok=True)
    writer.write_bytes(target / LORA_FILE, save(adapters, {"format": "pt"}))
    writer.write_bytes(target / CAMERA_FILE, save(camera, {"format": "pt"}))
    return True
