# SPDX-License-Identifier: Apache-2.0
"""A page of HTML that holds all it shows."""

import base64
import html
import pathlib
import string
import urllib.parse
from importlib import resources
from typing import Any

from vsd_jax.program.folder import writer
from vsd_jax.program.terminal import progress

Path = pathlib.Path


def write_page(
    folder: Path,
    *,
    prompt: str,
    chips: str,
    body: str,
    script: str = "",
    is_live: bool = False,
) -> Path:
    """Writes `report.html`; all but `prompt` is HTML and JavaScript of ours.

    A live page may ask where it came from whether it was written anew.
    """
    content = fill(
        title=f"{progress.shorten(prompt)} · vsd_jax",
        over="vsd_jax · Variational Score Distillation",
        heading=progress.shorten(prompt, 300),
        chips=chips,
        body=body,
        script=script,
        connect="; connect-src 'self'" if is_live else "",
    )
    path = folder / "report.html"
    writer.write_bytes(path, content.encode())
    return path


def fill(
    *,
    title: str,
    over: str,
    heading: str,
    chips: str,
    body: str,
    script: str = "",
    connect: str = "",
) -> str:
    """The page as text; title and heading are any text, the others HTML of ours."""
    return string.Template(template("report.html")).substitute(
        title=escape(title),
        over=over,
        prompt=escape(heading),
        chips=chips,
        body=body,
        script=script,
        connect=connect,
    )


def template(name: str) -> str:
    """A file of `program/report/templates`."""
    files = resources.files("vsd_jax.program.report") / "templates"
    return (files / name).read_text(encoding="utf-8")


def number(value: Any) -> str:
    """A number as it is shown; a dash where there is none."""
    return f"{value:.3f}" if isinstance(value, int | float) else "–"


def download(name: str) -> str:
    """A link, as HTML, that saves a file which lies beside the page."""
    return f'<a href="{urllib.parse.quote(name)}" download>{escape(name)}</a>'


def escape(value: Any) -> str:
    """Text as HTML."""
    return html.escape(str(value))


def data_url(path: Path, kind: str) -> str:
    """A file as a URL that holds all of it."""
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
