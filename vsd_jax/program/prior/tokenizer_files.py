# SPDX-License-Identifier: Apache-2.0
"""The files of a tokenizer: which there are, and whether they belong together.

CLIP's byte-pair encoding stands in vocab.json and merges.txt, or in tokenizer.json. A
merge that is missing splits words into letters without a word of warning, so that both
files are compared before they are used.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vsd_jax.program.prior import json_files, settings_check
from vsd_jax.program.prior.json_files import WeightsError

SLOW, FAST = ("vocab.json", "merges.txt"), "tokenizer.json"
_OTHERS = ("special_tokens_map.json", "added_tokens.json", "tokenizer_config.json")
_MERGES = 49152 - 256 - 2  # CLIP's; transformers reads no more
_END = "</w>"  # of a word's last piece


def check(folder: Path) -> dict[str, Any]:
    """Reads and checks a tokenizer's folder.

    Returns:
      The settings of `accepted.TOKENIZER`, and under "files" the text of each file
      that a tokenizer is made from.

    Raises:
      WeightsError: a file is missing or damaged, they contradict each other, or the
        tokenizer is another than CLIP's.
    """
    present = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    is_slow = all(name in present for name in SLOW)
    if not is_slow and FAST not in present:
        found = ", ".join(present) or "nothing"
        lacking = " and ".join(name for name in SLOW if name not in present)
        raise WeightsError(
            f"{folder} lacks {lacking} (found: {found}). A tokenizer is vocab.json with"
            " merges.txt, or tokenizer.json; download them from where the weights come"
            " from."
        )
    names = (*SLOW, *_OTHERS) if is_slow else (FAST, *_OTHERS)
    names = [name for name in names if name in present]
    files = {name: json_files.read_text(folder / name) for name in names}
    for name in files.keys() & {*_OTHERS, FAST}:
        json_files.read_object(folder / name)
    settings = {}
    if "tokenizer_config.json" in present:
        settings = json_files.read_object(folder / "tokenizer_config.json")
    where = str(folder / "tokenizer_config.json")
    settings = settings_check.check("tokenizer", settings, where)
    if is_slow:
        _check_vocabulary(folder, files["merges.txt"])
    else:
        _check_fast(folder / FAST)
    return settings | {"files": files}


@contextlib.contextmanager
def as_plain(folder: Path, files: Mapping[str, str]) -> Iterator[Path]:
    """The folder, or a copy for a while if transformers could not read its encoding."""
    if all(json_files.is_utf8((folder / name).read_bytes()) for name in files):
        yield folder
        return
    with tempfile.TemporaryDirectory() as copy:
        for name, content in files.items():
            (Path(copy) / name).write_text(content, encoding="utf-8")
        yield Path(copy)


def _check_vocabulary(folder: Path, merges_text: str) -> None:
    vocab = json_files.read_object(folder / "vocab.json")
    _check_ids(folder / "vocab.json", vocab)
    file = folder / "merges.txt"
    # As transformers reads it: the first line names the version.
    lines = merges_text.strip().split("\n")[1 : _MERGES + 1]
    merges = [tuple(line.split()) for line in lines]
    broken = [line for line in lines if len(line.split()) != 2]
    lacking = [made for made in map("".join, merges) if made not in vocab]
    if not merges or broken or lacking:
        reason = (
            f"its line {broken[0]!r} is no pair of pieces"
            if broken
            else f"it makes {lacking[0]!r}, which vocab.json does not hold"
            if lacking
            else "it is empty"
        )
        advice = json_files.lfs_advice(file) or " Download both files again."
        raise WeightsError(f"{file}: {reason}.{advice}")
    made = {"".join(pair) for pair in merges}
    unmade = [token for token in vocab if _is_word(token) and token not in made]
    if unmade:
        raise WeightsError(
            f"{file} never makes {len(unmade)} of {len(vocab)} pieces of vocab.json,"
            f" such as {unmade[0]!r}: it is cut off, or of another tokenizer. Download"
            " both files again."
        )


def _check_ids(file: Path, vocab: Mapping[str, Any]) -> None:
    ids = list(vocab.values())
    if not ids or any(type(i) is not int or i < 0 for i in ids):
        raise WeightsError(
            f"{file} gives pieces no whole numbers from 0 on. Download it again."
        )
    if len(set(ids)) != len(ids):
        raise WeightsError(f"{file} gives one number twice. Download it again.")


def _is_word(token: str) -> bool:
    """Whether a piece needs a merge: more than one letter, and no special token."""
    special = token.startswith("<") and token.endswith(">") and token != _END
    return len(token.removesuffix(_END)) > 1 and not special


def _check_fast(file: Path) -> None:
    model = json_files.read_object(file).get("model")
    kind = model.get("type") if isinstance(model, Mapping) else None
    has_pieces = kind == "BPE" and model.get("vocab") and model.get("merges")
    if not has_pieces or model.get("end_of_word_suffix") != _END:
        raise WeightsError(
            f"{file} is no tokenizer of CLIP (model.type={kind!r}; BPE with vocab, "
            f"merges and end_of_word_suffix={_END!r} is). Give the tokenizer that "
            "belongs to the text tower."
        )
