# SPDX-License-Identifier: Apache-2.0
"""`report.html`: one file that shows all of a run, readable without a network.

A pure function of the run's folder, so it can be written at any time, also after a
fault. Pictures, films and meshes are inside the file; downloads are relative links. All
text of the user is escaped, and a content security policy forbids any request.
"""

import base64
import pathlib
import re
from typing import Any

from vsd_jax.program.folder import history, writer
from vsd_jax.program.judge import verdict
from vsd_jax.program.report import charts, live, mesh_data, page
from vsd_jax.program.settings import config

Path = pathlib.Path
MAX_SHOWN = 8
"""Particles shown in full; more would make the file too large to open."""

MAX_SHEETS = 5
_NUMBERED = re.compile(r"[a-z]+_(\d+)")
_LATE_ROWS = {"step", "alarm"}


def write_report(folder: Path) -> Path:
    """Writes `report.html` from what lies in a run's folder.

    Returns:
      Its path.
    """
    folder = Path(folder)
    settings = _read(folder / "config.json", {})
    rows = writer.read_metrics(folder / "metrics.jsonl")
    infos = _read(folder / "mesh" / "info.json", [])
    scripts, viewers = _mesh_cards(folder, settings, infos)
    now = live.read(folder)
    body = [
        live.show(now, rows),
        _warnings(rows, infos, settings),
        _not_shown(settings),
        _section("The result", _films(folder) + viewers, grid=True),
        _section("What the views show", _evaluation(folder)),
        _section("How it came about", _sheets(folder, settings, is_live=bool(now))),
        _section("Inside the step", _inside(folder)),
        _section("Curves", _curves(rows), grid=True),
        _section("Files", _downloads(folder)),
        _section("Gone on with", _changes(folder)),
        _section("Settings", _settings(folder, settings)),
    ]
    return page.write_page(
        folder,
        prompt=settings.get("prompt", "(no configuration)"),
        chips=_chips(settings, rows, _read(folder / "environment.json", {})),
        body="\n".join(filter(None, body)) + scripts,
        script=(page.template("viewer.js") if scripts else "")
        + (live.SCRIPT if now else ""),
        is_live=bool(now),
    )


def _read(path: Path, default: Any) -> Any:
    try:
        return writer.read_json(path)
    except (OSError, ValueError):
        return default


def _section(title: str, content: str, *, grid: bool = False) -> str:
    if not content:
        return ""
    inner = f'<div class="grid">{content}</div>' if grid else content
    return f"<section><h2>{title}</h2>{inner}</section>"


def _chips(settings: dict, rows: list[dict], environment: dict) -> str:
    done = max((row["step"] for row in rows), default=0)
    total = settings.get("num_steps", 0)
    state = ("good", "finished") if done >= total else ("", f"at step {done}")
    if any("alarm" in row for row in rows):
        state = ("bad", f"stopped at step {done}")
    flat = config.flatten(settings)
    method = environment.get("method") or str(flat.get("vsd.method", "")).upper()
    chips = [
        state,
        ("", f"{method}, guidance {flat.get('vsd.guidance_scale', '?')}"),
        ("", f"prior {flat.get('prior.path', '?')}"),
        ("", f"{total} steps"),
        ("", f"{settings.get('num_particles', 1)} particle(s)"),
        ("", f"seed {settings.get('seed', 0)}"),
        ("", ", ".join(environment.get("devices", []))),
    ]
    return "".join(
        f'<li class="{kind}">{page.escape(text)}</li>' for kind, text in chips if text
    )


def _warnings(rows: list[dict], infos: list[dict], settings: dict) -> str:
    texts = [row["alarm"] for row in rows if "alarm" in row]
    texts += [
        f"Mesh of particle {i}: {info['error']}"
        for i, info in enumerate(infos)
        if "error" in info
    ]
    skipped = sum(row.get("skipped") or 0 for row in rows)
    if skipped:
        texts.append(
            f"{skipped:.0f} particle update(s) were not finite and were left out."
        )
    texts += _overflow(rows, settings)
    return "".join(f'<p class="warning">{page.escape(text)}</p>' for text in texts)


def _not_shown(settings: dict) -> str:
    number = settings.get("num_particles", 1)
    if number <= MAX_SHOWN:
        return ""
    text = f"The first {MAX_SHOWN} of {number} particles; the files of all are below."
    return f'<p class="note">{text}</p>'


def _overflow(rows: list[dict], settings: dict) -> list[str]:
    """What did not fit, in words; a log line holds the sum of its steps."""
    found = [row.get("render/overflow") or 0 for row in rows]
    lines = sum("render/overflow" in row for row in rows)
    short = sum(number > 0 for number in found)
    if not short:
        return []
    if settings.get("field", {}).get("kind") != "nerf":
        return [
            f"In {short} of {lines} lines of the log lists of the mesh were full: parts"
            " of it were missing from renders that it was trained on. More room:"
            " mesh.surface_capacity, mesh.raster_capacity, render.capacity."
        ]
    share = sum(found) / max(_num_samples(rows, settings["render"]), 1)
    if share < 0.01:
        return []
    return [
        f"{share:.0%} of the samples were more than render.capacity allows, and were"
        " left out at random. A higher --config.render.capacity avoids it."
    ]


def _num_samples(rows: list[dict], render: dict) -> int:
    """Samples along the rays of one view of each step, both passes."""
    steps = max((row["step"] for row in rows), default=0)
    early = min(steps, render.get("early_steps", 0)) if render.get("early_size") else 0
    rays = early * render.get("early_size", 0) ** 2
    rays += (steps - early) * render["size"] ** 2
    return rays * (render["num_samples"] + render["num_fine"])


def _films(folder: Path) -> str:
    cards = []
    for number, path in of_particles(folder, "turntable_*.mp4"):
        url = page.data_url(path, "video/mp4")
        cards.append(
            '<figure class="card"><video class="stage" autoplay loop muted playsinline'
            f' controls aria-label="turntable of particle {number}" src="{url}">'
            f"</video><figcaption>Turntable, particle {number}</figcaption></figure>"
        )
    for number, path in of_particles(folder, "views_*.png"):
        name, url = f"Particle {number}", page.data_url(path, "image/png")
        cards.append(
            f'<figure class="card"><img class="stage" src="{url}" alt="{name}">'
            f"<figcaption>{name}</figcaption></figure>"
        )
    return "".join(cards)


def of_particles(folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """Number and path of a run's own products; what else lies there is not shown."""
    found = ((_NUMBERED.fullmatch(p.stem), p) for p in sorted(folder.glob(pattern)))
    return [(int(match[1]), path) for match, path in found if match][:MAX_SHOWN]


def _mesh_cards(folder: Path, settings: dict, infos: list[dict]) -> tuple[str, str]:
    """Mesh data as script elements, and the cards that show them."""
    is_open = settings.get("field", {}).get("init", "object") != "object"
    scripts, cards = [], []
    for number, path in of_particles(folder / "mesh", "particle_*.ply"):
        name = f"mesh-{number}"
        try:
            data = base64.b64encode(mesh_data.pack(path)).decode()
        except Exception as error:  # trimesh has many for what is half written
            text = f"{path.name} cannot be read and is not shown: {error}"
            cards.append(f'<p class="warning">{page.escape(text)}</p>')
            continue
        scripts.append(f'<script type="text/plain" id="{name}">{data}</script>')
        info = infos[number] if number < len(infos) else {}
        data = f'data-mesh="{name}" data-open="{str(is_open).lower()}"'
        faces = f": {info['faces']:,} triangles" if "faces" in info else ""
        cards.append(
            f'<figure class="card"><canvas class="stage" tabindex="0" {data}'
            f' aria-label="mesh of particle {number}, turn it by dragging"></canvas>'
            "<figcaption><span>Mesh, particle"
            f" {number}{faces}.{_baked(info)}"
            " Drag to turn; click, then the wheel comes closer.</span>"
            '<button type="button">show shape</button></figcaption></figure>'
        )
    return "".join(scripts), "".join(cards)


def _baked(info: dict) -> str:
    """What is known of the baked texture, in a sentence."""
    psnr = info.get("texture", {}).get("psnr")
    return f" The GLB's texture shows it with {psnr:.1f} dB." if psnr else ""


_SCORE_NAMES = {
    "kind_precision": "Judged to be the right kind of object",
    "strict_precision": 'Right kind, by the judge that may say "nothing"',
    "colour_precision": "Judged to have the right colour",
    "multi_face_index": "Side or back judged to be a front (several faces)",
    "saturation": "Colour saturation",
    "opacity": "Share of the picture that is covered",
    "prior_text_gain": "How much the prompt explains it to the prior",
    "prior_front_share": 'Side or back that "front view" explains better to the prior',
}


def _evaluation(folder: Path) -> str:
    found = _read(folder / "evaluation.json", {})
    if not found:
        return ""
    particles = found.get("particles", [])[:MAX_SHOWN]
    names = [n for n in found.get("mean", {}) if n in _SCORE_NAMES]
    names = [n for n in _SCORE_NAMES if n in names]
    head = "".join(f"<th>particle {i}</th>" for i in range(len(particles)))
    lines = "".join(
        f"<tr><th>{_SCORE_NAMES[name]}</th>"
        + "".join(
            f'<td class="num">{page.number(row.get(name))}</td>' for row in particles
        )
        + "</tr>"
        for name in names
    )
    verdicts = found.get("verdicts", [])[:MAX_SHOWN]
    if verdicts:
        cells = "".join(f"<td>{page.escape(text)}</td>" for text in verdicts)
        lines = f"<tr><th>Verdict</th>{cells}</tr>{lines}"
    views = "One view" if found.get("views") == 1 else f"{found.get('views')} views"
    notes = [
        f"{views} of each particle at step {found.get('step')}. Numbers are shares of"
        " them, but for what the prompt explains to the prior: how much less of the"
        " noise it mistakes with the prompt than without.",
    ]
    if found.get("note"):
        notes.append(f"No judgement of kind and colour: {found['note']}")
    if verdicts:
        notes.append(verdict.MEASURED)
    for key, what in (("diversity", "features"), ("diversity_pixels", "pixels")):
        if key in found:
            shown = page.number(found[key])
            notes.append(f"Difference between particles in {what}: {shown}.")
    text = "".join(f'<p class="note">{page.escape(note)}</p>' for note in notes)
    table = f"<table><tr><th></th>{head}</tr>{lines}</table>"
    return f'<div class="scroll">{table}</div>{text}'


def _sheets(folder: Path, settings: dict, *, is_live: bool) -> str:
    """The newest first while it trains."""
    paths = sorted((folder / "images").glob("step_*.png"))
    if len(paths) > MAX_SHEETS:
        last = len(paths) - 1
        keep = {round(i * last / (MAX_SHEETS - 1)) for i in range(MAX_SHEETS)}
        paths = [path for i, path in enumerate(paths) if i in keep]
    if is_live:
        paths.reverse()
    figures = "".join(
        f'<figure class="card" style="margin-bottom:16px"><img class="sheet" alt="views'
        f' at step {int(path.stem[5:])}" src="{page.data_url(path, "image/png")}">'
        f"<figcaption>step {int(path.stem[5:]):,}</figcaption></figure>"
        for path in paths
    )
    several = settings.get("num_particles", 1) > 1
    note = '<p class="note">A row per particle.</p>' if several else ""
    return figures and note + figures


def _inside(folder: Path) -> str:
    """The newest look inside the step."""
    paths = sorted((folder / "images").glob("inside_*.png"))
    if not paths:
        return ""
    step, url = int(paths[-1].stem[7:]), page.data_url(paths[-1], "image/png")
    note = (
        "What is seen in one render of particle 0: the noisy picture x_t at three"
        " timesteps, what the prior, with its guidance, makes of it, and, where there"
        " is one, what the score network makes of it. VSD follows the difference of the"
        " two, SDS that of the prior and the noise; other methods, and VSD below"
        " family.exact_below, follow what their equations say."
    )
    return (
        f'<p class="note">{note}</p><figure class="card"><img class="sheet"'
        f' alt="inside step {step}" src="{url}" style="max-width:760px">'
        f"<figcaption>step {step:,}</figcaption></figure>"
    )


def _curves(rows: list[dict]) -> str:
    rows = [row for row in rows if set(row) - _LATE_ROWS]

    def series(**names: str) -> dict:
        found = {}
        for label, name in names.items():
            pairs = [(row["step"], row[name]) for row in rows if name in row]
            if pairs:
                found[label.replace("_", " ")] = tuple(zip(*pairs, strict=True))
        return found

    def quarters(name: str) -> dict:
        bins = {f"{i / 4:g}_to_{(i + 1) / 4:g}": f"{name}_t{i}" for i in range(4)}
        return series(**bins)

    seen = {"prior": "inside/prior_error_t1", "score_network": "inside/score_error_t1"}
    drawn = [
        charts.line_chart(
            "Residual by t (share of T)", quarters("residual/rms"), log=True
        ),
        charts.line_chart(
            "Score network: error of the noise by t", quarters("score/rms"), log=True
        ),
        charts.line_chart("Score network: loss", series(loss="score/loss"), log=True),
        charts.line_chart(
            "x_0 against the render, at the middle t", series(**seen), log=True
        ),
        charts.line_chart("Opacity", series(opacity="opacity"), log=False),
        charts.line_chart(
            "Gradient norms",
            series(particles="particle_grad_norm", score_network="score/grad_norm"),
            log=True,
        ),
        charts.line_chart(
            "Difference between particles", series(pixels="diversity/pixels"), log=False
        ),
    ]
    return "".join(drawn)


def _downloads(folder: Path) -> str:
    patterns = (
        *("mesh/particle_*", "turntable_*.mp4", "turntable_*.gif"),
        *("views_*.png", "metrics.jsonl", "evaluation.json", "config.json"),
    )
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    items = "".join(
        f"<li>{page.download(path.relative_to(folder).as_posix())}"
        f' <span class="soft">{path.stat().st_size / 1024:,.1f} KiB</span></li>'
        for path in paths
    )
    note = (
        '<p class="note">The links work while this file lies in the run\'s folder. GLB'
        " opens in Blender and game engines; its colours contain the light (of a shape"
        " alone they are its normals).</p>"
    )
    return items and f"{note}<ul>{items}</ul>"


def _changes(folder: Path) -> str:
    """Where the settings changed, with what had been made until then."""
    items = []
    for row in history.read(folder):
        step = row["until_step"]
        changes = ", ".join(
            page.escape(f"{key} {before} → {after}")
            for key, (before, after) in row["changed"].items()
        )
        text = f"from step {step:,} on: {changes}"
        page_then = f"at_step_{step:06d}/report.html"
        if (folder / page_then).exists():
            text = f'<a href="{page_then}">what it was at step {step:,}</a>; {text}'
        items.append(f"<li>{text}</li>")
    note = (
        '<p class="note">Its steps are those of the settings that held at the time'
        f" ({history.HISTORY}).</p>"
    )
    return items and f"{note}<ul>{''.join(items)}</ul>" or ""


def _settings(folder: Path, settings: dict) -> str:
    rows = "".join(
        f'<tr><td class="key">{page.escape(key)}</td><td>{page.escape(value)}</td></tr>'
        for key, value in config.flatten(settings).items()
    )
    command = folder / "command.txt"
    text = command.read_text(encoding="utf-8") if command.exists() else ""
    environment = _read(folder / "environment.json", {})
    versions = environment.get("versions", {})
    facts = [f"{name} {version}" for name, version in versions.items()]
    facts += [environment.get("platform", ""), environment.get("git_commit", "")]
    return (
        f"<pre>{page.escape(text.strip())}</pre>"
        f'<p class="note">{page.escape(", ".join(filter(None, facts)))}</p>'
        "<details><summary>All settings</summary>"
        f'<div class="scroll"><table>{rows}</table></div></details>'
    )
