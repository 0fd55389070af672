"""`nnunet-gml serve`, and a training beside it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from courier_kit import build_sites

from nnunet_gml import cli
from peer_sync.names import manifest_name
from peer_sync.routes import way_to
from peer_sync.server.keeper import AGAIN, ELSEWHERE, TAKEN_OVER, Keeper
from peer_sync.server.process import ServedError, ServerProcess

NAME = manifest_name(1)


@contextmanager
def serve(site) -> Iterator[subprocess.Popen]:
    """The command in a process of its own, listening."""
    command = [sys.executable, "-m", "nnunet_gml.cli", "serve", str(site.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == (
                f"site south: listening on 127.0.0.1:{site.listen[1]}, serving {site.folder / 'outbox'}\n"
            )
            yield process
        finally:
            process.kill()


@pytest.fixture
def south(served_sites):
    """A site with something to read."""
    site = served_sites["south"]
    (site.folder / "outbox").mkdir(parents=True)
    (site.folder / "outbox" / NAME).write_bytes(b"x" * 1000)
    return site


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_serve_shows_logins_and_downloads_until_it_is_ended(south, served_sites, tmp_path, end):
    """Peer, file, bytes and seconds, on standard error and in server.log; ending it is no error."""
    with serve(south) as process:
        way = way_to(served_sites["north"], "south")
        assert way.get(NAME, tmp_path / "target", 1000) == 1000
        way.close()
        process.send_signal(end)
        _, shown = process.communicate(timeout=100)

    assert process.returncode == 0
    assert "127.0.0.1 north: logged in\n" in shown
    assert f"127.0.0.1 north: read {NAME}: 1000 bytes in " in shown
    assert "opened" not in shown
    assert set(shown.splitlines()) < set((south.folder / "server.log").read_text().splitlines())


def test_serve_shows_that_somebody_was_taken_out(south, served_sites):
    """A running server takes the new file by itself, and says so."""
    with serve(south) as process:
        path = south.federation.path
        path.write_text(path.read_text().replace("seed = 7", "version = 2\nseed = 7"))

        line = process.stderr.readline()

    assert line.endswith("federation.toml was changed: version 1 before, version 2 from now on\n")


def test_a_site_has_one_server(south, capsys):
    """The second one says who is first, and ends."""
    with serve(south):
        assert cli.main(["serve", str(south.path)]) == 2

    assert "the outbox of site 'south' is served already" in capsys.readouterr().err


def test_a_site_without_listen_cannot_be_served(tmp_path, capsys):
    """The error names the file and what to add."""
    site = build_sites(tmp_path)["south"]

    assert cli.main(["serve", str(site.path)]) == 2

    shown = capsys.readouterr().err
    assert f"{site.path}: expected listen and host_key for a server of the outbox, found none" in shown
    assert 'listen = "0.0.0.0:2222"' in shown


def test_a_site_with_a_relay_has_nothing_to_serve(tmp_path, capsys):
    """Who follows the page too far is told so, and what to look at instead."""
    path = build_sites(tmp_path)["south"].path
    path.write_text(f'{path.read_text()}relay = "folder:{tmp_path}"\n')

    assert cli.main(["serve", str(path)]) == 2

    said = capsys.readouterr().err
    assert "nothing to serve here" in said and f"nnunet-gml doctor {path}" in said


def test_a_training_leaves_the_outbox_to_serve_and_takes_over_after_it(south, tmp_path):
    """It says so once each time, and is never without a server for longer than a round."""
    keeper = Keeper(south)
    with serve(south) as process:
        assert (keeper.check(), keeper.process) == (ELSEWHERE, None)
        assert keeper.check() == ""
        process.kill()
        process.wait(60)

    assert keeper.check() == TAKEN_OVER
    assert keeper.process.running
    assert keeper.check() == ""
    keeper.stop()
    assert not keeper.process.running


def test_a_training_starts_its_server_again(south):
    """Whoever killed it."""
    keeper = Keeper(south)
    assert keeper.check() == ""
    os.kill(keeper.process.pid, signal.SIGKILL)
    keeper.process._process.wait(60)

    assert keeper.check() == AGAIN
    assert keeper.process.running
    keeper.stop()


def test_without_listen_there_is_nothing_to_keep(tmp_path):
    """A site that another SFTP server serves."""
    keeper = Keeper(build_sites(tmp_path)["south"])

    assert (keeper.check(), keeper.process) == ("", None)
    keeper.stop()


def test_a_second_server_process_is_told_apart_from_a_broken_one(south):
    """A training must not stop for it."""
    first = ServerProcess(south)

    with pytest.raises(ServedError):
        ServerProcess(south)
    assert ServerProcess.start_unless_served(south) is None
    first.stop()
