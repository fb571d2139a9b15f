# SPDX-License-Identifier: Apache-2.0
"""Weights on disk <-> Flax parameter trees.

diffusers and transformers store PyTorch names and layouts; their Flax classes want
the same numbers under other names. One rule covers both libraries:

- a path component `resnets_0` is `resnets.0` on disk (lists only, not `linear_1`);
- `kernel` is `weight`, [out, in] -> [in, out] or [out, in, h, w] -> [h, w, in, out];
- `scale` (normalisation) and `embedding` are `weight`, unchanged.

Safetensors with PyTorch's names and layouts is read, sharded or not, and Flax's own
msgpack files: no pickle anywhere.
"""

import contextlib
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save

from vsd_jax.program.folder import writer
from vsd_jax.program.prior import json_files, weight_files
from vsd_jax.program.prior.json_files import WeightsError
from vsd_jax.program.prior.weight_files import TreePath

COMPONENTS = {
    "unet": ("diffusion_pytorch_model", "diffusion_flax_model.msgpack"),
    "vae": ("diffusion_pytorch_model", "diffusion_flax_model.msgpack"),
    "text_encoder": ("model", "flax_model.msgpack"),
}
"""Folder of a component: (stem of its safetensors, name of its Flax file)."""

_BALLAST = re.compile(
    r"(.+\.)?embeddings\.position_ids|text_projection\.(weight|kernel)"
)
"""Tensors that files hold and Stable Diffusion does not read: numbers from 0 on, and
the projection of the pooled text."""

_SAMPLE = 1 << 16  # bytes that `fingerprint` reads at three places of a file
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
    writer.write_bytes(file, save(tensors, metadata={"format": "pt"}))


def find_files(folder: Path, variant: str = "") -> list[Path]:
    """The weight files of one component: one file, or the shards of an index.

    In this order: safetensors of the variant, of full precision, of "fp16", then
    Flax's msgpack.

    Args:
      folder: of the component; its name is one of `COMPONENTS`.
      variant: such as "fp16", or "".

    Raises:
      WeightsError: naming what was looked for and what is there.
    """
    stem, flax_file = COMPONENTS[folder.name]
    for form in dict.fromkeys((variant, "", "fp16")):
        suffix = f".{form}" if form else ""
        single = folder / f"{stem}{suffix}.safetensors"
        if single.is_file():
            return [single]
        index = folder / f"{stem}.safetensors.index{suffix}.json"
        if index.is_file():
            return _shards(index)
    if (folder / flax_file).is_file():
        return [folder / flax_file]
    present = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    others = variants(folder.name, (f"{folder.name}/{name}" for name in present))
    advice = (
        f"Its weights are of the variant {' or '.join(map(repr, others))}: set "
        f"prior.variant={others[0]!r}."
        if others
        else "A diffusers-format folder with safetensors is needed; convert .bin or "
        ".ckpt files with diffusers first."
    )
    raise WeightsError(
        f"No weights {stem}.safetensors in {folder} (found: "
        f"{', '.join(present) or 'nothing'}). {advice}"
    )


def variants(component: str, names: Iterable[str]) -> list[str]:
    """The variants ("fp16", "bf16", "non_ema" ...) of a component's weight files.

    Args:
      component: one of `COMPONENTS`.
      names: of files, with the component's folder before them.
    """
    stem = re.escape(f"{component}/{COMPONENTS[component][0]}")
    part = r"(?:-\d+-of-\d+)?"  # diffusers has had it on both sides
    single = re.compile(rf"{stem}{part}\.([\w-]+?){part}\.safetensors")
    index = re.compile(rf"{stem}\.safetensors\.index\.([\w-]+)\.json")
    names = list(names)
    found = (form.fullmatch(name) for form in (single, index) for name in names)
    return sorted({match[1] for match in found if match})


def check_variant(folder: Path, variant: str) -> None:
    """Refuses a variant that no component of a prior's folder has.

    A folder of settings alone, for shapes, is taken with any.

    Raises:
      WeightsError: naming those that there are.
    """
    files = (file for part in COMPONENTS for file in (folder / part).glob("*"))
    names = [f"{file.parent.name}/{file.name}" for file in files]
    if any(name.endswith((".safetensors", ".msgpack")) for name in names):
        require_variant(names, variant, str(folder))


def require_variant(names: Iterable[str], variant: str, where: str) -> None:
    """Refuses a variant that no component among these files has.

    Args:
      names: of files, with the component's folder before them.
      variant: such as "fp16"; "" = none is asked for.
      where: they are, in words.

    Raises:
      WeightsError: naming those that there are.
    """
    names = list(names)
    found = sorted({form for part in COMPONENTS for form in variants(part, names)})
    if variant and variant not in found:
        there = f"it has {', '.join(map(repr, found))}" if found else "it has none"
        raise WeightsError(
            f"prior.variant={variant!r}: no weights in {where} are of that variant; "
            f"{there}. Leave the key out for full precision."
        )


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json_files.read_object(index)["weight_map"].values())
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{index} cannot be read ({type(error).__name__}: {error}); download it "
            "again."
        ) from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise WeightsError(f"{index} names {name!r}, outside of its own folder.")
    return [index.parent / name for name in sorted(names)]


def check_digest(file: Path, sha256: str) -> None:
    """Compares a file with the SHA-256 that the user expects.

    Raises:
      WeightsError: if it is another.
    """
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256.lower():
        raise WeightsError(
            f"{file} has SHA-256 {found}, prior.sha256 asks for {sha256}. It is "
            "damaged or of another version: download it again, or correct the key."
        )


def fingerprint(folder: Path, variant: str = "") -> str:
    """12 hexadecimal digits that differ between two trainings of one component.

    Made of each file's size and of its beginning, middle and end, since reading
    gigabytes takes longer than what it guards against is likely.

    Args:
      folder, variant: as in `find_files`.

    Raises:
      WeightsError: if there are no weights.
    """
    digest = hashlib.sha256()
    for file in find_files(folder, variant):
        size = file.stat().st_size
        digest.update(size.to_bytes(8))
        with file.open("rb") as stream:
            for place in (0, size // 2, max(size - _SAMPLE, 0)):
                stream.seek(place)
                digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()[:12]


def _alias(name: str) -> str:
    """Newer VAE files call the attention's projections as the U-Net's do."""
    for old, new in _VAE_ATTENTION.items():
        name = name.replace(f"mid_block.attentions.0.{new}.", f"@{old}.")
    return name.replace("@", "mid_block.attentions.0.")


def _named_leaves(
    files: list[Path], expected: dict, *, vae: bool
) -> Iterator[tuple[str, TreePath, np.ndarray]]:
    """(name on disk, path in the tree, array in Flax's layout) of what is wanted."""
    by_name = {torch_name(path): path for path in expected}

    def path_of(name: str) -> TreePath:
        return by_name.get(_alias(name) if vae else name, ())

    for file in files:
        with _told_by_name(file):
            if file.suffix == ".msgpack":
                select = functools.partial(_select, file, expected.__contains__)
                leaves = weight_files.msgpack_leaves(file, select)
                yield from ((".".join(path), path, value) for path, value in leaves)
                continue
            select = functools.partial(_select, file, path_of)
            leaves = weight_files.safetensors_leaves(file, select)
            found = ((name, path_of(name), value) for name, value in leaves)
            yield from (
                (name, path, to_flax_layout(path, value, expected[path].shape))
                for name, path, value in found
            )


def _select(file: Path, is_wanted: Callable, names: list) -> list:
    """Those of a file's tensors that parameters take; all others must be ballast."""
    wanted = [name for name in names if is_wanted(name)]
    left = {name if isinstance(name, str) else ".".join(name) for name in names}
    left -= {name if isinstance(name, str) else ".".join(name) for name in wanted}
    for name in sorted(left):
        _refuse_lora(file, name)
    unknown = sorted(name for name in left if not _BALLAST.fullmatch(name))
    if unknown:
        raise WeightsError(
            f"{file} holds {len(unknown)} of {len(names)} tensors that no part of the "
            f"network takes, the first {unknown[0]!r}: the configuration beside it "
            "describes another network, or leaves something out that changes the "
            "result. A plain Stable Diffusion 1.x or 2.x component is needed."
        )
    return wanted


@contextlib.contextmanager
def _told_by_name(file: Path) -> Iterator[None]:
    try:
        yield
    except (*weight_files.DAMAGED, OSError, ValueError, TypeError) as error:
        form = "Flax msgpack" if file.suffix == ".msgpack" else "safetensors"
        raise WeightsError(
            f"{file} cannot be read as {form} ({error}); it is missing, truncated or of"
            f" another format. Download it again.{json_files.lfs_advice(file)}"
        ) from error


def _refuse_lora(file: Path, name: str) -> None:
    if "lora" in name.lower():
        raise WeightsError(
            f"{file} is a LoRA ({name!r}), not a whole model: give the folder of the "
            "checkpoint that it was trained on."
        )


def load_params(
    files: list[Path],
    shapes: Any,
    *,
    dtype: Any,
    component: str,
    vae: bool = False,
    on_host: bool = False,
) -> Any:
    """Reads weight files into the tree that `shapes` describes.

    Each tensor is cast and placed as it is read (`weight_files.py`): no random
    initialisation and no second copy of the whole model.

    Args:
      files: from `find_files`.
      shapes: Flax tree of `jax.ShapeDtypeStruct`.
      dtype: of the result.
      component: "unet", "vae" or "text_encoder", for messages.
      vae: whether the attention names of the VAE are to be translated.
      on_host: whether they stay NumPy arrays, for whoever places them on several
        devices, of which none may have room for all.

    Returns:
      A tree of `jax.Array` like `shapes`, on the default device.

    Raises:
      WeightsError: a tensor is missing, has another shape or type, or holds numbers
        that are not finite.
    """
    expected = flatten_dict(shapes)
    found: dict[tuple[str, ...], chex.Array] = {}
    for name, path, array in _named_leaves(files, expected, vae=vae):
        _check_tensor(component, name, array, expected[path].shape)
        # Layout and dtype at once; waited for, or copies to come would pile up.
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, dtype)
        _check_fits(component, name, array)
        if not on_host:
            array = jax.numpy.asarray(array).block_until_ready()
        found[path] = array
    missing = sorted(torch_name(path) for path in expected if path not in found)
    if missing:
        raise WeightsError(
            f"{component}: {len(missing)} of {len(expected)} tensors are missing, the "
            f"first {missing[0]!r}, in {', '.join(f.name for f in files)}. A complete "
            "Stable Diffusion 1.x/2.x component is needed (not SDXL, SD3 or a LoRA)."
        )
    return unflatten_dict(found)


def _check_fits(component: str, name: str, array: np.ndarray) -> None:
    if array.dtype == np.float16 and not np.isfinite(array).all():
        raise WeightsError(
            f"{component}: {name} holds numbers beyond 65504, the largest that float16"
            " has; use prior.dtype=bfloat16 or float32."
        )


def _check_tensor(
    component: str, name: str, array: np.ndarray, shape: tuple[int, ...]
) -> None:
    if array.shape != shape:
        raise WeightsError(
            f"{component}: {name} has shape {array.shape}, the configuration beside it "
            f"asks for {shape} (Flax layout). Weights and config.json are of different "
            "models."
        )
    if not jax.numpy.issubdtype(array.dtype, jax.numpy.floating) or (
        array.dtype.itemsize < 2
    ):
        raise WeightsError(
            f"{component}: {name} is stored as {array.dtype}; float32, float16 or "
            "bfloat16 weights are needed (a quantised checkpoint must be converted)."
        )
    # A sum is not finite if one of its terms is not; it needs no mask of the size.
    if not np.isfinite(np.sum(array, dtype=np.float64)):
        raise WeightsError(
            f"{component}: {name} holds numbers that are not finite; the file is "
            "damaged. Download it again."
        )
