"""benchmarks/speed_wire.py: sums by hand, and real bytes of a small network."""

from __future__ import annotations

import pytest
from network_kit import unet

from nnunet_gml import weights


def rows(float32: float = 100.0) -> list[dict]:
    """One network of 25 numbers; no overhead but what is asked for float32."""
    sizes = {"float16": 50.0, "float32": float32, "int8": 25.0}
    return [
        {
            "network": "small",
            "parameters": 25,
            "dtype": dtype,
            "file_bytes": size,
            "ledger_bytes": size,
            "wire_bytes": size,
        }
        for dtype, size in sizes.items()
    ]


def test_shares_of_fedavgs_bytes_by_hand(bench):
    """50 of 200 bytes are a quarter of FedAvg's at the same rounds, of 10 % at most; through the line half.

    9.5 rounds per 100 epochs against 20 (every 5 epochs) and 100: 25 % of 0.475 and of 0.095.
    """
    table = bench("speed_wire").shares(rows(), per_100_epochs=9.5)

    assert table[1][2:] == ["fetched", "25.0%", "10%", "**missed** (limit 0.25)", "11.9%", "2.4%"]
    assert table[2][2:5] == ["through the line", "50.0%", "10%"]
    assert table[3][2:6] == ["fetched", "50.0%", "-", ""]
    assert table[5][2:5] == ["fetched", "12.5%", "5%"]


def test_a_share_within_the_target_is_met(bench):
    """By hand: 50 of 2 times 250 bytes are exactly a tenth."""
    assert bench("speed_wire").shares(rows(250.0), 9.5)[1][3:6] == ["10.0%", "10%", "met"]


def test_bytes_per_100_epochs_by_hand(bench):
    """9.5 fetches of 50 MB are 475 MB; FedAvg's 9.5 rounds of 200 MB are 1,900 MB."""
    large = [{**row, **{key: 1e6 * row[key] for key in row if key.endswith("bytes")}} for row in rows()]

    assert bench("speed_wire").details(large, 9.5)[1][-2:] == ["475.0", "1900.0"]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_real_couriers_are_counted_on_the_wire(bench, tmp_path, dtype):
    """A file as weights are written, a ledger with manifest and signature, and a wire with all of SSH."""
    network = unet()

    found = bench("speed_wire").transfer(network, dtype, tmp_path, rounds=1)

    assert found["dtype"] == dtype
    assert found["file_bytes"] == weights.payload_bytes(network)[dtype]
    assert 500 < found["ledger_bytes"] - found["file_bytes"] < 3000
    assert 2000 < found["wire_bytes"] - found["ledger_bytes"] < 50_000
