"""One training in two processes (nnU-Net's ``-num_gpus``): one of them meets peers, both learn the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from nnunet_kit import folders, offer_like_a_peer, sites_for, use_folders

from peer_sync.site import SITE_VARIABLE


def _start(words: list, environment: dict, log: Path) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("ranks_process.py")
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, str(script), *map(str, words)],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def _train(data: Path, folder: Path, monkeypatch, **more: str) -> tuple[list[dict], list[str]]:
    """Both processes to their end; what each has then, and said."""
    use_folders(data, monkeypatch, results=folder / "results")
    sites = sites_for(folder, data)
    offer_like_a_peer(sites["south"], data)
    environment = {
        **os.environ,
        **folders(data, folder / "results"),
        "nnUNet_n_proc_DA": "0",
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "RANKS_OUT": str(folder),
        SITE_VARIABLE: str(sites["north"].path),
        **more,
    }
    logs = [folder / f"rank-{rank}.log" for rank in range(2)]
    processes = [
        _start([data, rank, folder / "rendezvous"], environment, log) for rank, log in enumerate(logs)
    ]
    try:
        codes = [process.wait(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    said = [log.read_text() for log in logs]
    assert codes == [0, 0], "\n".join(text[-3000:] for text in said)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)], said


def test_two_processes_learn_the_same_from_a_peer(phantom_data, tmp_path, monkeypatch):
    """Rank 0 exchanges, rank 1 has no mailbox; the peer is met once, and the weights stay equal."""
    (first, second), _ = _train(phantom_data(), tmp_path, monkeypatch)

    assert first["weights"] == second["weights"]
    assert (first["exchanges"], second["exchanges"]) == (True, False)
    (rounds,) = (tmp_path / "results").rglob("gml_rounds.jsonl")
    events = [json.loads(line) for line in rounds.read_text().splitlines()]
    assert [event["event"] for event in events] == ["met", "left"]
    assert events[0]["used"] and events[1]["ratio"] > 0
    assert list((tmp_path / "results").rglob("checkpoint_final.pth"))


def test_a_changed_federation_is_read_by_one_process_and_known_to_both(phantom_data, tmp_path, monkeypatch):
    """At the end of the first epoch a round begins; both go on with version 2, and say so once."""
    both, said = _train(phantom_data(), tmp_path, monkeypatch, RENEWS="yes")

    assert [each["federation"] for each in both] == [2, 2]
    assert "".join(said).count("version 1 before, version 2 from now on") == 1
