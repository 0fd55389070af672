"""Two real processes of the stock command, two embedded SFTP servers, one kill -9."""

import signal

import pytest
from courier_kit import build_sites
from training_kit import EPOCHS, TrainingSite, agree_on_plans


@pytest.fixture
def pair(phantom_data, tmp_path):
    """North and south with servers on loopback, the same plans, and the short trainer."""
    build_sites(tmp_path, served=True)
    agree_on_plans(tmp_path, phantom_data())
    pair = [TrainingSite(name, tmp_path, phantom_data()) for name in ("north", "south")]
    yield pair
    for site in pair:
        site.end()


@pytest.mark.timeout(1500)
def test_a_killed_site_stops_nobody_and_comes_back(pair):
    """Both exchange over SFTP; south is killed; north finishes; south continues with --c and finishes."""
    north, south = pair
    north.start()
    south.start()
    for site in pair:
        site.wait_for("weights of site")

    south.process.send_signal(signal.SIGKILL)
    south.process.wait()
    offered = max(line["sequence"] for line in south.ledger() if line["event"] == "offer")
    assert north.process.wait(timeout=400) == 0, north.said()[-3000:]
    south.start("--c")
    assert south.process.wait(timeout=400) == 0, south.said()[-3000:]

    for site in pair:
        assert list(site.results.rglob("checkpoint_final.pth")), site.said()[-3000:]
        accepted = [line for line in site.ledger() if line["verdict"] == "accepted"]
        assert accepted and all(line["bytes"] > 10_000 for line in accepted)
    sequences = [line["sequence"] for line in south.ledger() if line["event"] == "offer"]
    assert sequences == sorted(set(sequences)) and sequences[-1] > offered
    assert f"Epoch {EPOCHS - 1}" in south.said()
    assert "training goes on without a peer" in north.said() + south.said()
