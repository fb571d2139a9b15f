# SPDX-License-Identifier: Apache-2.0
"""Weights on disk (PyTorch names, safetensors) <-> Flax parameter trees.

diffusers and transformers store PyTorch names and layouts; their Flax classes want
the same numbers under other names. One rule covers both libraries:

- a path component `resnets_0` is `resnets.0` on disk (lists only, not `linear_1`);
- `kernel` is `weight`, [out, in] -> [in, out] or [out, in, h, w] -> [h, w, in, out];
- `scale` (normalisation) and `embedding` are `weight`, unchanged.

Only safetensors is read: no pickle anywhere.
"""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vsd_jax.runtime.errors import RunError

_LISTS = re.compile(
    r"\b(down_blocks|up_blocks|attentions|resnets|transformer_blocks"
    r"|downsamplers|upsamplers|net|to_out)_(\d+)"
)
_VAE_ATTENTION = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}


class WeightsError(RunError):
    """A checkpoint that is missing, truncated or of another architecture."""


def torch_name(path: tuple[str, ...]) -> str:
    """The name on disk of the Flax parameter at `path`."""
    *modules, leaf = path
    leaf = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(
        leaf, leaf
    )
    return _LISTS.sub(r"\1.\2", ".".join((*modules, leaf)))


def to_torch_layout(path: tuple[str, ...], value: np.ndarray) -> np.ndarray:
    """Flax layout -> the layout on disk."""
    if path[-1] != "kernel":
        return value
    return value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)


def to_flax_layout(
    path: tuple[str, ...], value: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """The layout on disk -> Flax; a 1 x 1 convolution may serve a dense layer."""
    if path[-1] != "kernel":
        return value
    if value.ndim == 4 and len(shape) == 2:
        value = value[:, :, 0, 0]
    return value.T if value.ndim == 2 else value.transpose(2, 3, 1, 0)


def save_params(file: Path, params: Any, dtype: Any = np.float16) -> None:
    """Writes a Flax parameter tree as safetensors with PyTorch's names."""
    flat = flatten_dict(jax.device_get(params))
    tensors = {
        torch_name(path): np.ascontiguousarray(
            to_torch_layout(path, np.asarray(value, dtype))
        )
        for path, value in flat.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(file), metadata={"format": "pt"})


def find_files(folder: Path, stem: str, variant: str = "") -> list[Path]:
    """The safetensors files of one component: one file, or the shards of an index.

    Raises:
      WeightsError: naming what was looked for and what is there.
    """
    suffix = f".{variant}" if variant else ""
    single = folder / f"{stem}{suffix}.safetensors"
    if single.is_file():
        return [single]
    index = folder / f"{stem}.safetensors.index{suffix}.json"
    if index.is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
        return [folder / name for name in sorted(names)]
    present = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    found = ", ".join(present) or "nothing"
    raise WeightsError(
        f"No weights {single.name} in {folder} (found: {found}). A diffusers-format "
        "folder with safetensors is needed; convert .bin or .ckpt files with diffusers "
        "first."
    )


def _tensors(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    try:
        with safe_open(str(file), framework="np") as handle:
            for name in handle.keys():  # noqa: SIM118 (safe_open is no dict)
                yield name, handle.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{file} cannot be read as safetensors ({error}); it is missing, "
            "truncated or of another format. Download it again."
        ) from error


def _alias(name: str) -> str:
    """Newer VAE files call the attention's projections as the U-Net's do."""
    for old, new in _VAE_ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{new}.", f"@{old}.")
    return name.replace("@", "mid_block.attentions.0.")


def load_params(
    files: list[Path], shapes: Any, *, dtype: Any, component: str, vae: bool = False
) -> Any:
    """Reads safetensors into the tree that `shapes` describes.

    Each tensor is cast and placed as it is read: no random initialisation and no
    second copy of the whole model.

    Args:
      files: from `find_files`.
      shapes: Flax tree of `jax.ShapeDtypeStruct`.
      dtype: of the result.
      component: "unet", "vae" or "text_encoder", for messages.
      vae: whether the attention names of the VAE are to be translated.

    Returns:
      A tree of `jax.Array` like `shapes`.

    Raises:
      WeightsError: a tensor is missing or has another shape.
    """
    expected = flatten_dict(shapes)
    by_name = {torch_name(path): path for path in expected}
    found: dict[tuple[str, ...], jax.Array] = {}
    for raw_name, value in itertools.chain.from_iterable(map(_tensors, files)):
        path = by_name.get(_alias(raw_name) if vae else raw_name)
        if path is None:
            continue
        shape = expected[path].shape
        array = to_flax_layout(path, value, shape)
        if array.shape != shape:
            raise WeightsError(
                f"{component}: {raw_name} has shape {value.shape}, the configuration "
                f"beside it asks for {shape} (Flax layout). Weights and config.json "
                "are of different models."
            )
        found[path] = jax.numpy.asarray(array, dtype)
    missing = sorted(name for name, path in by_name.items() if path not in found)
    if missing:
        raise WeightsError(
            f"{component}: {len(missing)} of {len(by_name)} tensors are missing, the "
            f"first {missing[0]!r}, in {', '.join(f.name for f in files)}. A complete "
            "Stable Diffusion 1.x/2.x component is needed (not SDXL, SD3 or a LoRA)."
        )
    return unflatten_dict(found)
