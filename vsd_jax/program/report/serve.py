# SPDX-License-Identifier: Apache-2.0
"""`--serve`: the folder of a run as pages for a browser on this machine alone.

It listens on 127.0.0.1, answers only requests that name this machine (no page of
another origin can reach it through a name of its own), and gives out files of the
folder, neither hidden ones nor what a link leads to outside of it.
"""

import contextlib
import http.server
import pathlib
import re
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from typing import Any

from vsd_jax.program.terminal import progress
from vsd_jax.program.terminal.errors import ConfigError

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".png": "image/png",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".glb": "model/gltf-binary",
}
_WATCHED_SECONDS = 10.0
_GOODBYE_SECONDS = 8.0
_WAITING = b"""<!doctype html><meta charset="utf-8"><meta http-equiv="refresh"
content="2"><title>vsd_jax</title><p>The page is not written yet; it will be shown
here.</p>"""


class Server(http.server.ThreadingHTTPServer):
    """Serves one folder until it is closed."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, folder: pathlib.Path, port: int):
        """Takes the port; `serve_forever` begins to answer.

        Raises:
          OSError: if the port cannot be had.
        """
        self.folder = pathlib.Path(folder)
        self.last_asked = self.last_page = float("-inf")
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """The address of the report."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def find(self, target: str) -> pathlib.Path | None:
        """The file that a request asks for; None if there is none to give out."""
        with contextlib.suppress(OSError, ValueError):  # too long a name; no URL
            return self._find(target)
        return None

    def _find(self, target: str) -> pathlib.Path | None:
        parts = urllib.parse.unquote(urllib.parse.urlsplit(target).path).split("/")
        parts = [part for part in parts if part]
        if any(part.startswith(".") or "\0" in part or "\\" in part for part in parts):
            return None
        root = self.folder.expanduser().resolve()
        path = root.joinpath(*(parts or ["report.html"])).resolve()
        return path if path.is_relative_to(root) and path.is_file() else None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a browser that went away."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    server_version, sys_version = "vsd_jax", ""
    timeout = 30

    def do_GET(self) -> None:
        """Sends a file."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Sends when a file was changed: the page asks before it reloads."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        # Browsers leave the port out where it is 80.
        name = re.sub(r":\d+$", "", self.headers.get("Host", ""))
        if name not in _NAMES:
            self._send(403, b"", "text/plain", 0.0)
            return
        path = self.server.find(self.path)
        is_page = self.path == "/" or (path and path.suffix == ".html")
        if is_page:
            self.server.last_asked = time.monotonic()
        if is_page and with_body:
            self.server.last_page = self.server.last_asked
        content = b""
        with contextlib.suppress(OSError):
            if path is not None:
                content, changed = path.read_bytes(), path.stat().st_mtime
        if content:
            kind = _TYPES.get(path.suffix, "application/octet-stream")
            self._send(200, content, kind, changed, with_body=with_body)
        elif self.path == "/":
            self._send(200, _WAITING, _TYPES[".html"], 0.0, with_body=with_body)
        else:
            self._send(404, b"", "text/plain", 0.0)

    def _send(
        self,
        status: int,
        content: bytes,
        kind: str,
        changed: float,
        *,
        with_body: bool = True,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Changed", f"{changed:.3f}")
        self.end_headers()
        if with_body:
            with contextlib.suppress(ConnectionError):
                self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        """Says nothing: the terminal belongs to the run."""


@contextlib.contextmanager
def serving(folder: str | pathlib.Path, port: int | None) -> Iterator[Server | None]:
    """Serves a run's folder in a thread while something else goes on.

    At the end a page that is being watched has a few seconds to fetch its last state.

    Args:
      folder: of the run; may not be there yet.
      port: on this machine; 0 takes any free one; None serves nothing.

    Raises:
      ConfigError: if the port is taken.
    """
    if port is None:
        yield None
        return
    try:
        server = Server(pathlib.Path(folder), port)
    except OSError as error:
        raise ConfigError(
            f"--serve={port}: the port cannot be had on {HOST} ({error.strerror}); give"
            " another, or --serve=0 for one that is free."
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    progress.say(f"The report is served at {server.url} while this runs.")
    try:
        yield server
    finally:
        _say_goodbye(server)
        server.shutdown()
        server.server_close()


def _say_goodbye(server: Server) -> None:
    now = time.monotonic()
    if now - server.last_asked > _WATCHED_SECONDS:
        return
    with contextlib.suppress(KeyboardInterrupt):
        while server.last_page < now and time.monotonic() < now + _GOODBYE_SECONDS:
            time.sleep(0.1)
