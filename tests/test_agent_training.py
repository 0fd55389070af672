"""A training without network, as on a compute node: the agent on the login node moves its files."""

import os
import re
import shutil
import signal
import subprocess

import pytest
from courier_kit import build_sites
from training_kit import TrainingSite, agree_on_plans

from nnunet_gml.installed import command

WITHOUT_NETWORK = ("unshare", "--net") if os.geteuid() == 0 and shutil.which("unshare") else ()


@pytest.fixture
def pair(phantom_data, tmp_path):
    """North without network, with an agent and a relay; south with a courier and a server of its own."""
    build_sites(tmp_path, served=True)
    federation = tmp_path / "federation.toml"
    first = re.compile(r'address = "sftp://[^"]*"')
    federation.write_text(first.sub('address = "folder:relay"', federation.read_text(), count=1))
    (tmp_path / "relay").mkdir()
    site = tmp_path / "north.toml"
    site.write_text(site.read_text() + 'courier = "agent"\nrelay = "folder:relay"\n')
    agree_on_plans(tmp_path, phantom_data())
    pair = [TrainingSite(name, tmp_path, phantom_data()) for name in ("north", "south")]
    yield pair
    for site in pair:
        site.end()


@pytest.mark.timeout(1500)
def test_a_training_without_network_learns_from_its_peer_and_its_peer_from_it(pair, tmp_path):
    """North runs where there is no network at all (when root starts the tests); both hear of each other."""
    north, south = pair
    watch = [command("nnunet-gml"), "sync", str(tmp_path / "north.toml"), "--watch", "--every", "0.3"]
    with (tmp_path / "agent.log").open("w") as log:
        agent = subprocess.Popen(watch, stdout=log, stderr=subprocess.STDOUT)
    try:
        north.start(within=WITHOUT_NETWORK)
        south.start()
        for site in pair:
            assert site.process.wait(timeout=600) == 0, site.said()[-3000:]
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait(100)

    assert agent.returncode == 0, (tmp_path / "agent.log").read_text()
    for site, peer in ((north, "south"), (south, "north")):
        accepted = [line for line in site.ledger() if line["verdict"] == "accepted"]
        assert accepted and {line["peer"] for line in accepted} == {peer}, site.said()[-3000:]
        assert [line for line in site.ledger() if line["event"] == "meet" and 0 <= line["trust"] <= 1]
        assert f"weights of site {peer} are here" in site.said()
    assert [line for line in north.ledger() if line["event"] == "publish"]
    assert not (north.folder / "state" / "server.err").exists()
