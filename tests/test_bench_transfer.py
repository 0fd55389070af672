"""The transfer benchmark: its arithmetic, its line of 80 ms, and one quick run of all of it."""

from __future__ import annotations

import doctest
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from sshd_kit import SSHD

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not (BENCHMARKS / "transfer.py").exists():
    pytest.skip("the benchmarks are not beside these tests", allow_module_level=True)
sys.path.append(str(BENCHMARKS))

import delay_proxy  # noqa: E402
import measuring  # noqa: E402
import transfer_report  # noqa: E402
from transfer_clients import Cost  # noqa: E402
from transfer_report import Results, Target, crowd_ratio, ratio, report, targets  # noqa: E402
from transfer_scenes import Crowd, Row, Sizes, shuffled  # noqa: E402


def row(kind: str, verb: str, *seconds: float, grown: float = 1, rekeys: int | None = 0) -> Row:
    """Runs of 100 MB."""
    return Row(kind, verb, 100_000_000, [Cost(second, 0.5, rekeys) for second in seconds], grown)


def results(ours_seconds: float = 1.0, grown: float = 3) -> Results:
    """OpenSSH moves 200 MB/s, paramiko as shipped 50 MB/s, ours what is asked."""
    rows = [
        row(kind, verb, seconds, grown=grown if kind in ("paramiko", "ssh") else 900)
        for verb in ("put", "get")
        for kind, seconds in (("sftp", 0.5), ("shipped", 2), ("paramiko", ours_seconds), ("ssh", 0.25))
    ]
    crowds = [Crowd(kind, n, [rate]) for n in (1, 4) for kind, rate in (("paramiko", 90), ("sftp", 200))]
    return Results(Sizes(), rows, rows[4:], crowds, 5, [row("paramiko", "get", 1, rekeys=3)])


def test_rates_and_their_median_by_hand():
    """100 MB in 1, 2 and 4 s: 100, 50 and 25 MB/s."""
    found = row("paramiko", "get", 2, 1, 4).rates

    assert (found.median, found.least, found.most) == (50, 25, 100)


def test_ratios_by_hand():
    """100 MB/s over 200 is a half; a client that was not there has none."""
    rows = results().loopback

    assert ratio(rows, "paramiko", "put", "sftp") == 0.5
    assert ratio(rows, "paramiko", "get", "shipped") == 2
    assert ratio(rows, "sftp-gcm", "get", "sftp") is None
    assert crowd_ratio(results().crowds, 4) == pytest.approx(0.45)


def test_every_target_is_judged():
    """By hand: 0.5 of 0.7, 2.0 of 2, 4 of 1.2 in both directions; 0.5 of 2; 0.45 of 0.5; 3 of 32 MiB."""
    found = [(target.found, target.verdict) for target in targets(results())]

    assert found[:3] == found[3:6] == [(0.5, "**missed**"), (2.0, "met"), (2.0, "met")]
    assert found[6:] == [(0.5, "**missed**"), (0.45, "**missed**"), (3, "met")]


def test_memory_of_other_clients_is_not_ours():
    """Only our own growth is promised, the worst of all transfers."""
    assert targets(results(grown=33))[-1].verdict == "**missed**"
    assert targets(results(grown=32))[-1].verdict == "met"


def test_what_was_not_measured_is_neither_met_nor_missed():
    """Without ssh there is no such carrier."""
    assert Target("x", 1.2, None).verdict == "not measured"


def test_the_page_shows_misses_and_names_no_place():
    """And has a line for each target, client and crowd."""
    page = report(results(), "make bench-transfer")

    assert page.count("**missed**") == 4
    assert "| ours | put | 100 [100-100] | 0.50 | 2.00 | 0.50 | 3 |" in page
    assert "| 4 | 90 [90-90] | 200 [200-200] | 0.45 |" in page
    assert "| 100 MB | ours | get | 100 | 1 | 3 |" in page
    assert os.uname().nodename not in page
    assert str(BENCHMARKS.parent) not in page


def test_every_run_has_all_items_and_the_warm_up_comes_first():
    """Run 0 is the warm-up; each item is once in each run."""
    order = list(shuffled("abcde", runs=3))

    assert [number for number, _ in order] == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert all(sorted(item for n, item in order if n == number) == list("abcde") for number in range(4))
    assert next(shuffled("a", 1, warm_up=False)) == (1, "a")


def test_a_wrong_copy_is_noticed(tmp_path):
    """One byte, at the end of the second piece."""
    (tmp_path / "one").write_bytes(b"x" * 2_000_000)
    (tmp_path / "other").write_bytes(b"x" * 1_999_999 + b"y")
    (tmp_path / "short").write_bytes(b"x" * 1_999_999)

    assert measuring.same_content(tmp_path / "one", tmp_path / "one")
    assert not measuring.same_content(tmp_path / "one", tmp_path / "other")
    assert not measuring.same_content(tmp_path / "one", tmp_path / "short")


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_memory_and_time_of_descendants_count():
    """A shell whose child takes 50 MB and half a second."""
    script = (
        "import time; x = b'x' * 50_000_000; end = time.process_time() + 0.5\n"
        "while time.process_time() < end: pass\n"
        "print('ready', flush=True); input()"
    )
    command = ["sh", "-c", '"$0" -c "$1"; true', sys.executable, script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        used, peak = measuring.cpu_seconds(process.pid), measuring.memory_mib(process.pid, "VmHWM")
        members = measuring.family(process.pid)
        process.stdin.close()

    assert len(members) == 2
    assert 0.45 < used < 5
    assert 50 < peak < 100


def test_the_line_is_as_long_and_as_narrow_as_it_says():
    """0.1 s there and back; 1 MB at 2 MB/s takes 0.5 s more."""
    with socket.create_server(("127.0.0.1", 0)) as far, socket.create_server(("127.0.0.1", 0)) as near:
        work = (near, far.getsockname()[1], 0.05, 2e6)
        threading.Thread(target=delay_proxy.carry, args=work, daemon=True).start()
        client = socket.create_connection(near.getsockname())
        server, _ = far.accept()
        round_trips = []
        for _ in range(5):
            started = time.monotonic()
            client.sendall(b"x")
            server.sendall(server.recv(1))
            assert client.recv(1) == b"x"
            round_trips.append(time.monotonic() - started)
        started = time.monotonic()
        threading.Thread(target=server.sendall, args=[b"y" * 1_000_000], daemon=True).start()
        received = 0
        while received < 1_000_000:
            received += len(client.recv(1 << 16))
        seconds = time.monotonic() - started
        for sock in (client, server):
            sock.close()

    assert 0.1 <= min(round_trips) < 0.3
    assert 0.55 <= seconds < 10


def test_the_examples_in_the_docstrings_hold():
    """As in the packages."""
    for module in (measuring, transfer_report):
        assert doctest.testmod(module).failed == 0


@pytest.mark.skipif(SSHD is None or shutil.which("sftp") is None, reason="OpenSSH is not installed")
def test_a_quick_run_prints_the_whole_page():
    """Every client, both servers, the long line; it writes no file."""
    page = BENCHMARKS.parent / "docs" / "results" / "transfer.md"
    before = page.stat() if page.exists() else None
    command = [sys.executable, str(BENCHMARKS / "transfer.py"), "--quick"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    assert done.returncode == 0, done.stderr
    for title in ("Targets", "Loopback", "Over a long line", "The embedded server", "Large files"):
        assert f"## {title}" in done.stdout
    assert (page.stat() if page.exists() else None) == before
