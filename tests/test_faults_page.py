"""benchmarks/faults.py: a report of tests becomes a table that hides no failure."""

from __future__ import annotations

import importlib
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
REPORT = """<testsuites><testsuite>
<testcase classname="a" name="test_cut[early]" time="1.25"><properties>
<property name="group" value="Networks"/><property name="fault" value="A cable is cut."/>
<property name="promise" value="Told."/><property name="cases" value="3"/></properties></testcase>
<testcase classname="a" name="test_cut[late]" time="2"><properties>
<property name="group" value="Networks"/><property name="fault" value="A cable is cut."/>
<property name="promise" value="Told."/></properties>{late}</testcase>
<testcase classname="b" name="test_disk" time="0"><properties>
<property name="group" value="Disks"/><property name="fault" value="Full."/>
<property name="promise" value="One | other."/></properties>
<skipped message="no tmpfs"/></testcase>
</testsuite></testsuites>"""
SPLIT = "| A cable is cut. | Told. | 4 | 1 passed, 1 failed | 3.2 |"


@pytest.fixture
def faults(monkeypatch):
    """The command as a module."""
    if not BENCHMARKS.exists():
        pytest.skip("the benchmarks are not beside these tests")
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("faults")
    sys.modules.pop("faults", None)


def rows(faults, late: str = "") -> list[str]:
    """The lines of the page that are rows of a table."""
    text = faults.page(faults.read_report(REPORT.format(late=late)), datetime(2026, 11, 22, tzinfo=UTC), "v")
    return [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]


def test_variants_of_one_fault_are_one_row(faults):
    """Cases 3 + 1, seconds 1.25 + 2 = 3.25, rounded to 3.2."""
    assert "| A cable is cut. | Told. | 4 | passed | 3.2 |" in rows(faults)


def test_one_failed_variant_is_not_hidden(faults):
    """However many others passed."""
    assert "| A cable is cut. | Told. | 4 | 1 passed, 1 failed | 3.2 |" in rows(
        faults, '<failure message="x"/>'
    )


def test_an_error_outside_of_the_test_is_a_failure(faults):
    """Such as in a fixture."""
    assert "| A cable is cut. | Told. | 4 | 1 passed, 1 failed | 3.2 |" in rows(
        faults, '<error message="x"/>'
    )


def test_what_was_skipped_says_why(faults):
    """And a bar in a sentence does not break the table."""
    assert "| Full. | One / other. | 1 | skipped: no tmpfs | 0.0 |" in rows(faults)
