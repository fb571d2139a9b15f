# SPDX-License-Identifier: Apache-2.0
"""A run that is looked into while it trains: its page, the server, event files."""

import builtins
import http.client
import socket
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vsd_jax.program.build import build
from vsd_jax.program.folder import events, writer
from vsd_jax.program.folder.workdir import Workdir
from vsd_jax.program.report import live, report, serve
from vsd_jax.program.run import pipeline, session
from vsd_jax.program.run import train as train_lib
from vsd_jax.program.settings import config as config_lib
from vsd_jax.program.terminal import command_line
from vsd_jax.program.terminal.errors import ConfigError


def look(one, networks, prompts, view, key, *, t):
    """A stand-in for the networks: theta's first number as a grey."""
    grey = jax.tree.leaves(one[0])[0].ravel()[0]
    images = jnp.full((len(t), 8, 8, 3), 0.5 + 0 * grey)
    return {
        **{"render": images[0], "noisy": images, "prior": images, "score": images},
        **{"prior_error": t / 1.0, "score_error": t / 2.0},
    }


def test_the_page_is_there_from_the_start_and_follows(tmp_path, flat_config, fake_run):
    seen = {}

    def watched(state, *arguments):
        if int(state.step) in (0, 5):
            seen[int(state.step)] = (tmp_path / "run" / "report.html").read_text()
        return run.step(state, *arguments)

    run = fake_run(flat_config)
    config = config_lib.validate(flat_config)
    workdir = Workdir(tmp_path / "run", create=True)
    trainer = train_lib.Loop(config, run._replace(step=watched, look=look), workdir)
    trainer.run(run.init())
    assert "Training: step 0 of 6." in seen[0] and "location.reload" in seen[0]
    assert "Training: step 3 of 6, about" in seen[5]
    assert "views at step 3" in seen[5] and "inside step 3" in seen[5]
    assert "Score network: loss 0.1" in seen[5]
    images = sorted(path.name for path in (workdir.path / "images").glob("inside*"))
    assert images == ["inside_000003.png", "inside_000006.png"]
    rows = writer.read_metrics(workdir.path / "metrics.jsonl")
    numbers = [row for row in rows if "inside/score_error_t1" in row]
    assert [row["step"] for row in numbers] == [3, 6]
    assert numbers[0]["inside/score_error_t1"] == 2.5  # t is half of ten


def test_a_look_on_several_devices_is_of_the_first(tmp_path, flat_config, fake_run):
    """The particles are spread over both, the frozen weights lie on the first."""

    def look_at(one, networks, *arguments, **options):
        grey = jnp.sum(jax.tree.leaves(one[0])[0]) * networks[1]["weight"]
        return look(({"grey": grey},), networks, *arguments, **options)

    flat_config.update(num_particles=2, num_devices=2)
    weights = jax.device_put({"weight": jnp.ones(())}, jax.local_devices()[0])
    run = fake_run(flat_config)._replace(look=look_at, prior_params=weights)
    config = config_lib.validate(flat_config)
    workdir = Workdir(tmp_path / "run", create=True)
    train_lib.Loop(config, run, workdir).run(run.init())
    assert len(list((workdir.path / "images").glob("inside*"))) == 2


def test_the_page_of_a_finished_run_asks_nothing(
    tmp_path, flat_config, monkeypatch, fake_run
):
    monkeypatch.setattr(build, "build", fake_run)
    session.start(
        "train", flat_config, str(tmp_path), overwrite=False, command=["test"]
    )
    page = (tmp_path / "report.html").read_text()
    assert "Training:" not in page and "location.reload" not in page
    assert "connect-src" not in page and not (tmp_path / live.FILE).exists()


def test_no_memory_for_a_look_is_said_once(tmp_path, flat_config, fake_run, capsys):
    def full(*arguments, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    run = fake_run(flat_config)._replace(look=full)
    workdir = Workdir(tmp_path / "run", create=True)
    trainer = train_lib.Loop(config_lib.validate(flat_config), run, workdir)
    assert int(trainer.run(run.init()).step) == 6
    assert capsys.readouterr().out.count("No more looks inside the step") == 1


@pytest.fixture
def server(tmp_path):
    """Serves `tmp_path / "run"`; a secret lies beside it."""
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "run"
    folder.mkdir()
    made = serve.Server(folder, 0)
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def ask(server, target, *, method="GET", host=None):
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    headers = {"Host": host or f"127.0.0.1:{port}"}
    connection.putrequest(method, target, skip_host=True)
    connection.putheader("Host", headers["Host"])
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, dict(answer.getheaders())


def test_the_report_is_served_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert b"not written yet" in ask(server, "/")[1]
    report.write_report(server.folder)
    page = (server.folder / "report.html").read_bytes()
    status, content, headers = ask(server, "/")
    assert (status, content) == (200, page)
    assert headers["Content-Type"].startswith("text/html")
    status, content, again = ask(server, "/report.html", method="HEAD")
    assert (status, content) == (200, b"")
    assert again["X-Changed"] == headers["X-Changed"]


@pytest.mark.parametrize(
    "target",
    [
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "//../secret.txt",
        "/images/../../secret.txt",
        "/link.txt",
        "/.lock",
        "/images",
        "/%00",
        "/\\..\\secret.txt",
        f"/{300 * 'x'}",  # no name of a file
        "http://[",
    ],
)
def test_nothing_outside_of_the_folder_is_served(server, target):
    (server.folder / "images").mkdir()
    (server.folder / ".lock").write_text("hidden")
    (server.folder / "link.txt").symlink_to(server.folder.parent / "secret.txt")
    status, content, _ = ask(server, target)
    assert (status, content) == (404, b"")


def test_only_a_browser_that_went_away_is_no_news(server, capsys):
    for fault in (ConnectionResetError(), ZeroDivisionError()):
        try:
            raise fault
        except type(fault):
            server.handle_error(None, ("127.0.0.1", 1))
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said and "ConnectionResetError" not in said


def test_a_page_of_another_origin_reaches_nothing(server):
    report.write_report(server.folder)
    assert ask(server, "/", host="evil.example:80")[0] == 403
    assert ask(server, "/", host="evil.example")[0] == 403
    assert ask(server, "/", host="localhost:80")[0] == 200
    assert ask(server, "/", host="127.0.0.1")[0] == 200  # at port 80
    assert ask(server, "/", method="POST")[0] == 501


def test_a_taken_port_is_a_sentence(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--serve={port}.*--serve=0"):
            with serve.serving(tmp_path, port):
                pass


def test_the_last_page_is_waited_for_if_one_is_watching(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "_GOODBYE_SECONDS", 30.0)
    report.write_report(tmp_path)
    answers = []
    with serve.serving(tmp_path, 0) as server:
        ask(server, "/")
        later = threading.Timer(0.5, lambda: answers.append(ask(server, "/")))
        later.start()
    later.join()
    assert answers[0][0] == 200


@pytest.mark.parametrize(
    ("flag", "port"),
    [("--serve", command_line.DEFAULT_PORT), ("--serve=0", 0), ("--noserve", None)],
)
def test_the_flag_takes_a_port_or_none(flag, port):
    values = command_line.flags.FlagValues()
    command_line.define(values)
    command_line.parse(["main", flag], values)
    assert command_line.read(values)["serve"] == port


def test_a_wrong_port_or_mode_is_a_sentence(tmp_path):
    values = command_line.flags.FlagValues()
    command_line.define(values)
    with pytest.raises(ConfigError, match="'here' is no port"):
        command_line.parse(["main", "--serve=here"], values)
    with pytest.raises(ConfigError, match="--mode=render"):
        pipeline.start(
            *("render", None, str(tmp_path)), overwrite=False, command=[], serve=0
        )


def read_events(folder):
    from tensorboardX.proto import event_pb2

    found = []
    for path in sorted((folder / events.FOLDER).iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length, its checksum, the event, its checksum
            size = int.from_bytes(data[at : at + 8], "little")
            found.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + size]))
            at += size + 16
    return found


def test_event_files_hold_the_numbers_and_pictures(tmp_path, flat_config, fake_run):
    pytest.importorskip("tensorboardX")
    flat_config.log.tensorboard = True
    run, workdir = fake_run(flat_config), Workdir(tmp_path / "run", create=True)
    config = config_lib.validate(flat_config)
    train_lib.Loop(config, run, workdir).run(run.init())
    found = read_events(workdir.path)
    values = {(e.step, v.tag): v for e in found for v in e.summary.value}
    assert values[4, "residual/rms"].simple_value == 0.5
    assert values[4, "particle/opacity/2"].simple_value == np.float32(0.3)
    assert values[3, "views"].image.encoded_image_string.startswith(b"\x89PNG")
    writing = events.EventFile(workdir.path, resume_step=4)
    writing.write(5, {"a": 1.0, "none": None})
    writing.close()
    starts = [e.step for e in read_events(workdir.path) if e.session_log.status]
    assert starts == [1, 5]


def test_without_tensorboardX_the_command_that_installs_it_is_said(
    tmp_path, flat_config, monkeypatch
):
    imported = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("tensorboardX"):
            raise ImportError(name)
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    flat_config.log.tensorboard = True
    with pytest.raises(ConfigError, match="pip install tensorboardX"):
        session.start(
            "train", flat_config, str(tmp_path / "x"), overwrite=False, command=[]
        )
    assert not (tmp_path / "x").exists()
