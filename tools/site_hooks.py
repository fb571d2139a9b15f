# SPDX-License-Identifier: Apache-2.0
"""Hooks of mkdocs.yml: pages of the project's root, and links that leave docs/.

The documents link to each other and to source files as they lie in the project. On the
site the root's pages stand beside those of docs/, a module's file is its entry in the
reference, and any other file is only named.
"""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Documents of the root, and their names on the site."""
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s#]+)(#[^()\s]*)?\)")


def on_files(files, config):
    """Adds the root's pages."""
    for source, name in PAGES.items():
        text = (ROOT / source).read_text()
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links of the project into links of the site."""
    name = page.file.src_uri
    source = {new: old for old, new in PAGES.items()}.get(name, f"docs/{name}")
    documented = modules(files)

    def link(match: re.Match) -> str:
        mark, text, target, anchor = match.groups()
        if ":" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path in PAGES or path.startswith("docs/"):
            there = PAGES.get(path, path.removeprefix("docs/"))
            shown = posixpath.relpath(there, posixpath.dirname(name) or ".")
            return f"{mark}[{text}]({shown}{anchor or ''})"
        module = path.removesuffix(".py").removesuffix("/").replace("/", ".")
        return f"[{text}][{module}]" if module in documented else text

    return LINK.sub(link, markdown)


def modules(files: Files) -> set[str]:
    """The modules that the reference has."""
    pages = [f for f in files if f.src_uri.startswith("reference/")]
    text = "\n".join(page.content_string for page in pages)
    return set(re.findall(r"^::: ([a-z_.]+)$", text, re.M))
