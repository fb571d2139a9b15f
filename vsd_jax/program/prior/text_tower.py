# SPDX-License-Identifier: Apache-2.0
"""Texts to what the U-Net reads: the only file that imports transformers.

Nothing of a text is dropped without a word: tokens that the tower has no embedding for
are refused, and so are embedded texts that are not finite; texts longer than the tower
are cut, and it is said.
"""

import dataclasses
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vsd_jax.diffusion import prompt
from vsd_jax.program.prior import json_files, settings_check, tokenizer_files
from vsd_jax.program.prior.json_files import WeightsError
from vsd_jax.program.terminal.errors import RunError
from vsd_jax.toybox import text as toybox
from vsd_jax.types import PyTree

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import CLIPTextConfig, CLIPTokenizer, CLIPTokenizerFast
    from transformers.models.clip.modeling_flax_clip import FlaxCLIPTextModule


@dataclasses.dataclass(frozen=True)
class EncodeText:
    """Texts to embeddings, as a function.

    Attributes:
      embed: texts -> [N, L, D] float32.
      count_tokens: of one text, with its beginning and end.
      length: L, what is read of a text, tokens.
      width: D.
    """

    embed: Callable[[Sequence[str]], np.ndarray]
    count_tokens: Callable[[str], int]
    length: int
    width: int

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """[N, L, D] float32."""
        if isinstance(texts, str):
            raise TypeError(f"encode takes a list of texts, not {texts!r} itself.")
        return self.embed(texts)


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with the length of its text tower.

    Attributes:
      tokenizer: of transformers.
      length: L.
    """

    tokenizer: Any
    length: int

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Ids [N, L] int32, padded and cut."""
        options = {"padding": "max_length", "truncation": True}
        found = self.tokenizer(list(texts), max_length=self.length, **options)
        return np.asarray(found["input_ids"], np.int32)

    def count(self, text: str) -> int:
        """Tokens of a text, with its beginning and end."""
        return len(self.tokenizer(text, verbose=False)["input_ids"])

    def name(self, number: int) -> str:
        """The token of an id."""
        return str(self.tokenizer.convert_ids_to_tokens(int(number)))


def make_text_encoder(
    config: dict[str, Any], where: str = ""
) -> tuple[Callable, Callable]:
    """CLIP's text tower: `(init(key) -> params, apply(params, ids) -> [B, L, D])`.

    Args:
      config: what `text_encoder/config.json` holds.
      where: that file, for messages.

    Raises:
      WeightsError: a key or value that is not implemented (`accepted.TEXT`).
    """
    settings = settings_check.check("text_encoder", config, where)
    passed_by = ("model_type", "architectures", "use_attention_mask", "pruned_heads")
    clip = CLIPTextConfig(
        **{key: value for key, value in settings.items() if key not in passed_by}
    )
    module = FlaxCLIPTextModule(clip)

    def arguments(ids):
        positions = jnp.broadcast_to(jnp.arange(ids.shape[-1]), ids.shape)
        return ids, jnp.ones_like(ids), positions

    def init(key):
        ids = jnp.zeros((1, clip.max_position_embeddings), jnp.int32)
        return module.init(key, *arguments(ids))["params"]

    def apply(params, ids):
        with jax.numpy_rank_promotion("allow"):
            return module.apply({"params": params}, *arguments(ids))[0]

    return init, apply


def load_tokenizer(folder: Path, max_length: int | None = None) -> Tokenizer:
    """A folder's tokenizer.

    Args:
      folder: with vocab.json and merges.txt, or with tokenizer.json.
      max_length: positions of the text tower, the most that is read of a text.

    Raises:
      WeightsError: naming the file, what is wrong with it, and what to do.
    """
    settings = tokenizer_files.check(folder)
    length = min(settings["model_max_length"], max_length or 77)
    kind = CLIPTokenizerFast if "tokenizer.json" in settings["files"] else CLIPTokenizer
    with tokenizer_files.as_plain(folder, settings["files"]) as plain:
        try:
            return Tokenizer(kind.from_pretrained(str(plain)), int(length))
        except Exception as error:  # the library has no errors of its own
            raise WeightsError(
                f"{folder} holds no tokenizer of CLIP that can be read "
                f"({type(error).__name__}: {str(error).strip()[:200]}). Download its "
                "files again."
            ) from error


def reads_toybox(folder: Path) -> bool:
    """Whether a prior knows the Toybox's words alone: its own folder, or a copy."""
    if (folder / "vae").is_dir():
        return False
    tokens = _vocabulary(folder)
    words = ("a", "an", "red", "mushroom", "view", "background")
    known = all(f"{word}</w>" in tokens for word in words)
    return known and "the</w>" not in tokens


def _vocabulary(folder: Path) -> dict:
    """Tokens of a folder's tokenizer; none if it has no such file."""
    vocab = folder / "tokenizer" / "vocab.json"
    return json_files.read_object(vocab) if vocab.is_file() else {}


def load_text(
    folder: Path,
    read: Callable[..., PyTree],
    *,
    load_weights: bool,
    say: Callable[[str], None],
) -> EncodeText:
    """A prior's tokenizer and text tower as one function; without weights, zeros.

    Args:
      folder: of the prior.
      read: `diffusion_prior.Reader`.
      load_weights: false gives texts of zeros, whatever their length, and needs no
        tokenizer.
      say: is told what is cut off.

    Raises:
      WeightsError: as `load_tokenizer` and `make_text_encoder`.
    """
    file = folder / "text_encoder" / "config.json"
    config = json_files.read_object(file)
    init, apply = make_text_encoder(config, str(file))
    settings = settings_check.check("text_encoder", config, str(file))
    shapes = jax.eval_shape(init, jax.random.key(0))
    options = {"dtype": jnp.float32, "component": "text_encoder"}
    params = read(folder / "text_encoder", shapes, **options)
    positions = settings["max_position_embeddings"]
    has_tokenizer = load_weights or (folder / "tokenizer").is_dir()
    if has_tokenizer:
        tokenizer = load_tokenizer(folder / "tokenizer", positions)
    shape = tokenizer.length if has_tokenizer else positions, settings["hidden_size"]
    if not load_weights:
        zeros = lambda texts: np.zeros((len(texts), *shape), np.float32)  # noqa: E731
        return EncodeText(zeros, lambda text: 0, *shape)
    jitted = jax.jit(apply)
    canonical = _make_canonical(folder) if reads_toybox(folder) else str

    def embed(texts: Sequence[str]) -> np.ndarray:
        texts = [canonical(text) for text in texts]
        ids = tokenizer(texts)
        _check_ids(tokenizer, texts, ids, settings["vocab_size"], folder)
        for text in dict.fromkeys(texts):
            _say_cut(tokenizer, text, say)
        embedded = np.asarray(jitted(params, ids))
        _check_finite(texts, embedded, folder)
        return embedded

    def count(text: str) -> int:
        return tokenizer.count(canonical(text))

    return EncodeText(embed, count, *shape)


def _make_canonical(folder: Path) -> Callable[[str], str]:
    """The one spelling of a text that the Toybox's prior in a folder knows."""
    tokens = _vocabulary(folder)
    heights = all(f"{word}</w>" in tokens for word in toybox.HEIGHTS)

    def canonical(text: str) -> str:
        try:
            return toybox.canonical(text, heights=heights)
        except toybox.UnknownPromptError as error:
            raise RunError(str(error)) from error

    return canonical


def _check_ids(
    tokenizer: Tokenizer, texts: list[str], ids: np.ndarray, size: int, folder: Path
) -> None:
    for text, row in zip(texts, ids, strict=True):
        beyond = [i for i in dict.fromkeys(row.tolist()) if not 0 <= i < size]
        if beyond:
            names = ", ".join(f"{tokenizer.name(i)!r} ({i})" for i in beyond[:4])
            raise WeightsError(
                f"The text {text!r} has the token {names}, for which the text tower of "
                f"{folder} has no embedding (vocab_size={size}). Leave that word out, "
                "or give the folder whose text tower was trained with it."
            )


def _say_cut(tokenizer: Tokenizer, text: str, say: Callable[[str], None]) -> None:
    if tokenizer.count(text) > tokenizer.length:
        fits = lambda words: tokenizer.count(words) <= tokenizer.length  # noqa: E731
        _, lost = prompt.shorten(text, fits)
        say(
            f"The prior reads {tokenizer.length} tokens of a text; of"
            f" {json.dumps(text, ensure_ascii=False)} this is not read, or only in"
            f" part: {lost!r}."
        )


def _check_finite(texts: list[str], embedded: np.ndarray, folder: Path) -> None:
    finite = np.isfinite(embedded).all(axis=(1, 2))
    if not finite.all():
        text = texts[int(np.argmin(finite))]
        raise WeightsError(
            f"The text tower of {folder} makes numbers that are not finite of the text "
            f"{text!r}: its weights are damaged. Download them again."
        )
