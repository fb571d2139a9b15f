# SPDX-License-Identifier: Apache-2.0
"""The project's rules about its own source, as functions from source to faults.

`tests/test_architecture.py` applies them to the code and to planted faults. A rule
takes `Source`s and returns sentences, none if all is well. ARCHITECTURE.md says why.
"""

import ast
import collections
import dataclasses
import functools
import io
import tokenize
from collections.abc import Iterable, Iterator

# What a folder of the core may import from this package.
MAY_IMPORT = {
    "vsd_jax/types.py": (),
    "vsd_jax/spec.py": (),
    "vsd_jax/scene/": ("vsd_jax.scene", "vsd_jax.spec", "vsd_jax.types"),
    "vsd_jax/diffusion/": ("vsd_jax.diffusion", "vsd_jax.spec", "vsd_jax.types"),
}
# The shell, and the program that starts it; everything else in vsd_jax/ is the core.
# toybox/ has both: what defines its world is core, what makes data and weights is not.
SHELL = (
    *("vsd_jax/program/", "vsd_jax/experiments/", "vsd_jax/main.py"),
    "vsd_jax/__main__.py",
)
# Names of the library, and one function that opens a folder.
FRONT_DOOR = "vsd_jax/__init__.py"
TOYBOX = "vsd_jax/toybox/"
TOYBOX_CORE = tuple(
    TOYBOX + name
    for name in ("text", "palette", "parts", "kinds", "objects", "rooms", "metrics")
)
TOYBOX_LIBRARIES = ("trimesh",)  # its objects are meshes
SHELL_PACKAGES = (
    *("vsd_jax.program", "vsd_jax.experiments", "vsd_jax.main", "vsd_jax.toybox"),
    "configs",
)
SHELL_LIBRARIES = (
    *("absl", "diffusers", "embreex", "fast_simplification", "huggingface_hub"),
    *("imageio", "matplotlib", "ml_collections", "orbax", "PIL", "rich"),
    *("safetensors", "skimage", "tokenizers", "tqdm", "transformers", "trimesh"),
    "xatlas",
)
# Names that stand in one place only. `over_axis` is `vmap` or, for one element, a call.
ONLY_IN = {
    # The second is the yardstick: PyTorch's classes, which ours are compared with.
    "diffusers": ("vsd_jax/program/prior/diffusion_prior.py", "benchmarks/torch_sd.py"),
    "transformers": ("vsd_jax/program/prior/text_tower.py",),
    "pmap": ("vsd_jax/parallel.py",),
    # distil.py over the particles, particle.py and views.py over the views of one
    # particle, adaptive.py over the cameras that one view may have, noised_views.py
    # over the views of what a method draws.
    "vmap": (
        *("vsd_jax/distil.py", "vsd_jax/particle.py", "vsd_jax/views.py"),
        *("vsd_jax/adaptive.py", "vsd_jax/trees.py"),
    ),
    "over_axis": (
        *("vsd_jax/distil.py", "vsd_jax/particle.py", "vsd_jax/trees.py"),
        "vsd_jax/methods/noised_views.py",
    ),
}
# These two hold for the core; programs may map over what they have rendered.
ONLY_IN_CORE = ("vmap", "over_axis")
NOWHERE = {
    "pickle": "files of unknown origin must not run code",
    "cloudpickle": "files of unknown origin must not run code",
    "dill": "files of unknown origin must not run code",
    "joblib": "it pickles",
    "nan_to_num": "it hides a fault",
    "PRNGKey": "use the typed jax.random.key, which the reuse checker sees",
    "torch": "only benchmarks/ compare with it",
}
BANNED_FILES = ("utils.py", "util.py", "helpers.py", "common.py", "misc.py")
BANNED_PREFIXES = ("get_", "compute_", "process_")
MAX_FILE, MAX_FUNCTION, P90_FUNCTION = 400, 60, 30
MAX_POSITIONAL, MAX_PARAMETERS, MAX_NESTING = 5, 12, 3
MAX_FILES_OF_FOLDER = 12  # of vsd_jax/program/
REPEAT = 12


@dataclasses.dataclass(frozen=True)
class Source:
    """A file's path from the project's root, with slashes, and its text."""

    path: str
    text: str

    @functools.cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def is_core(self) -> bool:
        if self.path == FRONT_DOOR:
            return False
        if self.path.startswith(TOYBOX):
            return self.path.startswith(TOYBOX_CORE)
        return self.path.startswith("vsd_jax/") and not self.path.startswith(SHELL)

    @functools.cached_property
    def imports(self) -> frozenset[str]:
        """Dotted names; `from a import b` counts as `a.b`, a relative one as `.`."""
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = "." if node.level else node.module
                found |= {f"{base}.{alias.name}" for alias in node.names}
        return frozenset(found)

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """Every identifier that the code (not its comments or strings) names."""
        found = {part for name in self.imports for part in name.split(".")}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
        return frozenset(found)

    @functools.cached_property
    def functions(self) -> tuple[ast.FunctionDef, ...]:
        return tuple(n for n in ast.walk(self.tree) if isinstance(n, ast.FunctionDef))

    @functools.cached_property
    def code_lines(self) -> frozenset[int]:
        """Line numbers that hold code: no blanks, comments, docstrings."""
        lines = set()
        skip = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT)
        skip += (tokenize.DEDENT, tokenize.ENDMARKER)
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type not in skip:
                lines |= set(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(self.tree):
            doc = _docstring_node(node)
            if doc is not None:
                lines -= set(range(doc.lineno, doc.end_lineno + 1))
        return frozenset(lines)


def import_faults(sources: Iterable[Source]) -> Iterator[str]:
    """Imports against the rules between folders."""
    for source in sources:
        for name in sorted(source.imports):
            if name.startswith("."):
                yield f"{source.path} imports relatively; write the absolute name."
            mesh = source.path.startswith(TOYBOX) and _is_any(name, TOYBOX_LIBRARIES)
            if source.is_core and _is_any(name, SHELL_LIBRARIES) and not mesh:
                yield f"{source.path} is core and imports {name}, a shell library."
            if source.is_core and not _may_import(source, name):
                yield f"{source.path} must not import {name}."


def _may_import(source: Source, name: str) -> bool:
    inside = source.path.startswith(TOYBOX) and _is_any(name, ("vsd_jax.toybox",))
    if _is_any(name, SHELL_PACKAGES) and not inside:
        return False
    for folder, allowed in MAY_IMPORT.items():
        if source.path.startswith(folder) and _is_any(name, ("vsd_jax",)):
            return _is_any(name, allowed)
    return True


def name_faults(sources: Iterable[Source]) -> Iterator[str]:
    """Names outside their one place, or that have none; misnamed files, functions."""
    for source in sources:
        for name in sorted(source.names & NOWHERE.keys()):
            if not (name == "torch" and source.path.startswith("benchmarks/")):
                yield f"{source.path} names {name}: {NOWHERE[name]}."
        for name in sorted(source.names & ONLY_IN.keys()):
            exempt = name in ONLY_IN_CORE and not source.is_core
            if source.path not in ONLY_IN[name] and not exempt:
                yield f"{source.path} names {name}: only {ONLY_IN[name]} may."
        if source.path.rsplit("/", 1)[-1] in BANNED_FILES:
            yield f"{source.path}: name the file after what it holds."
        for function in source.functions:
            allowed = function.name == "get_config"  # the config files' entry point
            if function.name.startswith(BANNED_PREFIXES) and not allowed:
                yield f"{source.path}: {function.name} says nothing; drop the verb."


def unsafe_load_faults(sources: Iterable[Source]) -> Iterator[str]:
    """`allow_pickle=True` and its like."""
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                if getattr(node.value, "value", True) is not False:
                    yield f"{source.path}:{node.value.lineno} allows pickles."


def header_faults(sources: Iterable[Source]) -> Iterator[str]:
    """Files without the licence line, public things without a docstring."""
    for source in sources:
        if not source.text.startswith("# SPDX-License-Identifier: Apache-2.0\n"):
            yield f"{source.path} does not begin with the SPDX line."
        if source.path.startswith("tests/"):
            continue
        for node in (source.tree, *source.tree.body):
            public = not getattr(node, "name", "").startswith("_")
            kinds = ast.Module | ast.FunctionDef | ast.ClassDef
            if isinstance(node, kinds) and public and not ast.get_docstring(node):
                name = getattr(node, "name", "the file")
                yield f"{source.path}: {name} lacks a docstring."


def size_faults(sources: Iterable[Source]) -> Iterator[str]:
    """Files and functions that are too long, too deep or take too much."""
    lengths = []
    for source in sources:
        num_lines = source.text.count("\n")
        if num_lines > MAX_FILE:
            yield f"{source.path} has {num_lines} lines, more than {MAX_FILE}."
        for function in source.functions:
            where = f"{source.path}:{function.lineno} {function.name}"
            lengths.append(function_length(source, function))
            if lengths[-1] > MAX_FUNCTION:
                yield f"{where} has {lengths[-1]} code lines, more than {MAX_FUNCTION}."
            if nesting(function.body) > MAX_NESTING:
                yield f"{where} nests {nesting(function.body)} deep."
            positional = [*function.args.posonlyargs, *function.args.args]
            positional = [a for a in positional if a.arg not in ("self", "cls")]
            if len(positional) > MAX_POSITIONAL:
                yield f"{where} takes {len(positional)} positional arguments."
            total = len(positional) + len(function.args.kwonlyargs)
            if total > MAX_PARAMETERS:
                yield f"{where} takes {total} parameters, more than {MAX_PARAMETERS}."
    p90 = sorted(lengths)[int(0.9 * len(lengths))] if lengths else 0
    if p90 > P90_FUNCTION:
        yield f"A tenth of the functions has {p90} code lines or more."


def room_faults(sources: Iterable[Source]) -> Iterator[str]:
    """Folders of the program with more files than a reader keeps in mind."""
    folders = collections.Counter(
        source.path.rsplit("/", 1)[0]
        for source in sources
        if source.path.startswith("vsd_jax/program/")
        and not source.path.endswith("__init__.py")
    )
    for folder, number in folders.items():
        if number > MAX_FILES_OF_FOLDER:
            yield f"{folder} has {number} files, more than {MAX_FILES_OF_FOLDER}."


def function_length(source: Source, function: ast.FunctionDef) -> int:
    """Code lines from `def` to the end, nested functions included."""
    span = range(function.lineno, function.end_lineno + 1)
    return len(source.code_lines.intersection(span))


def nesting(body: list[ast.stmt]) -> int:
    """Depth of control flow; `elif` is no deeper than its `if`, a `def` starts anew."""
    deepest = 0
    for node in body:
        if isinstance(node, ast.If | ast.For | ast.While | ast.With | ast.Try):
            inner = 1 + nesting(node.body)
            for handler in getattr(node, "handlers", []):
                inner = max(inner, 1 + nesting(handler.body))
            for rest in (getattr(node, "orelse", []), getattr(node, "finalbody", [])):
                is_elif = len(rest) == 1 and isinstance(rest[0], ast.If)
                inner = max(inner, nesting(rest) + (not is_elif) * bool(rest))
            deepest = max(deepest, inner)
    return deepest


def repeat_faults(sources: Iterable[Source]) -> Iterator[str]:
    """Runs of code lines that stand twice."""
    seen = {}
    for source in sources:
        text = source.text.splitlines()
        rows = [(n, text[n - 1].strip()) for n in sorted(source.code_lines)]
        reported = -REPEAT
        for i in range(len(rows) - REPEAT + 1):
            window = tuple(row for _, row in rows[i : i + REPEAT])
            first = seen.setdefault(window, (source.path, rows[i][0]))
            if first != (source.path, rows[i][0]) and i - reported >= REPEAT:
                reported = i
                yield (
                    f"{source.path}:{rows[i][0]} repeats {REPEAT} lines or more of"
                    f" {first[0]}:{first[1]}."
                )


def _docstring_node(node: ast.AST) -> ast.AST | None:
    if not isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
        return None
    first = node.body[0] if node.body else None
    is_string = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return first if is_string and isinstance(first.value.value, str) else None


def _is_any(name: str, packages: Iterable[str]) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)
