"""What sites say about themselves, kept by every other one: only signed words, within bounds."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest
from courier_kit import FACTS, build_sites, collect, offer, republish

from nnunet_gml.cli import main
from peer_sync import figures as figures_module
from peer_sync import founding
from peer_sync.errors import NotFoundError, RejectedError
from peer_sync.figures import Figures, newest, read_figures
from peer_sync.identity import generate_key, load_site_key, sign
from peer_sync.mailbox import Mailbox
from peer_sync.names import manifest_name, signature_name
from peer_sync.site import load_site


@pytest.fixture
def told(north, south):
    """South has offered twice, and north has asked each time."""
    for round_, dice in ((1, 0.6), (2, 0.7)):
        offer(south, round=round_, epoch=50 * round_, dice={"brainstem": dice})
        north.accept(collect(north, south, round_))
    return north, south


def of(mailbox: Mailbox, site: str) -> list:
    return [figure for figure in read_figures(mailbox.site.folder) if figure.site == site]


def test_what_a_peer_has_said_is_kept_over_time(told):
    """Round, epoch, cases and Dice per class of every offer that was looked at, in order."""
    found = of(told[0], "south")

    assert [(f.sequence, f.round, f.epoch, f.cases, f.dice) for f in found] == [
        (1, 1, 50, 12, {"brainstem": 0.6}),
        (2, 2, 100, 12, {"brainstem": 0.7}),
    ]
    assert found[0].labelled == FACTS.labelled and found[0].federation_version == 1
    assert newest(found)["south"] is found[1]


def test_a_site_keeps_its_own_words(told):
    """Those that it has told the others, from its own offers."""
    assert [figure.dice for figure in of(told[1], "south")] == [{"brainstem": 0.6}, {"brainstem": 0.7}]


def test_an_offer_that_is_seen_twice_is_kept_once(told):
    """Asked again, and by a process that was started anew."""
    north, south = told
    with pytest.raises(NotFoundError):
        collect(north, south)
    Figures(north.site.folder).note(offer_again(south))

    assert len(of(north, "south")) == 2


def offer_again(mailbox: Mailbox):
    from peer_sync.manifest import parse

    return parse((mailbox.outbox / manifest_name(2)).read_bytes())


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"plans_digest": "d" * 64}, "plans"),
        ({"federation": "e" * 64}, "federation"),
        ({"expires": "2001-01-01T00:00:00Z"}, "expired"),
        ({"weights_bytes": 1}, "size"),
    ],
)
def test_weights_that_are_refused_after_the_signature_leave_their_figures(north, south, change, rule):
    """The site said so, though its network is of no use here."""
    republish(south, replace(offer(south), **change))

    with pytest.raises(RejectedError) as caught:
        collect(north, south)

    assert caught.value.rule == rule
    assert [figure.dice for figure in of(north, "south")] == [dict(FACTS.dice)]


def test_words_that_nobody_signed_are_not_kept(north, south, tmp_path):
    """Another key's, and one byte changed."""
    manifest = offer(south)
    generate_key(tmp_path / "stranger")
    republish(south, manifest, signer=tmp_path / "stranger")
    with pytest.raises(RejectedError, match="signature"):
        collect(north, south)
    republish(south, manifest)
    path = south.outbox / manifest_name(1)
    path.write_bytes(path.read_bytes().replace(b'"cases":12', b'"cases":13'))
    with pytest.raises(RejectedError, match="signature"):
        collect(north, south)

    assert read_figures(north.site.folder) == []


@pytest.mark.parametrize(
    "change", [{"site": "east"}, {"recipients": ("east",)}], ids=["in another's name", "not for us"]
)
def test_words_of_others_or_for_others_are_not_kept(north, south, change):
    """A site speaks for itself, to those it names."""
    republish(south, replace(offer(south), **change))

    with pytest.raises(RejectedError):
        collect(north, south)

    assert read_figures(north.site.folder) == []


HOSTILE = {
    "a huge Dice": b'{"brainstem":1e308}',
    "no number": b'{"brainstem":NaN}',
    "infinity": b'{"brainstem":Infinity}',
    "a whole number": b'{"brainstem":1}',
    "an escape": b'{"\\u001b[2Jbrainstem":0.81}',
    "text from the right": b'{"\\u202ebrainstem":0.81}',
    "a line feed": b'{"brain\\nstem":0.81}',
    "a long name": b'{"' + b"x" * 200 + b'":0.81}',
    "too deep": b"[" * 30_000,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_manifest_leaves_nothing(north, south, case):
    """Though it is properly signed: rule manifest, before anybody believes a word."""
    offer(south)
    path = south.outbox / manifest_name(1)
    whole = json.dumps(dict(sorted(FACTS.dice.items())), separators=(",", ":")).encode()
    assert whole in path.read_bytes()
    data = path.read_bytes().replace(whole, HOSTILE[case])
    path.write_bytes(data)
    (south.outbox / signature_name(1)).write_bytes(sign(load_site_key(south.site.private_key), data))

    with pytest.raises(RejectedError) as caught:
        collect(north, south)

    assert caught.value.rule == "manifest"
    assert read_figures(north.site.folder) == []


def line(**changes: object) -> bytes:
    """A line as it is kept, or nearly."""
    facts = {
        "site": "south",
        "sequence": 5,
        "created": "2026-11-22T10:00:00Z",
        "round": 1,
        "epoch": 50,
        "plans_digest": "a" * 64,
        "federation_version": 1,
        "labelled": ["brainstem"],
        "cases": 3,
        "dice": {"brainstem": 0.5},
    }
    return json.dumps(facts | changes).encode() + b"\n"


@pytest.mark.parametrize(
    "bad",
    [
        b"\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"[" * 50_000 + b"\n",
        line()[:-9] + b"\n",
        line(site="east"),
        line(dice={"brainstem": float("nan")}),
        line(dice={"\x1b[2J": 0.5}),
        line(sequence=0),
        line(cases="many"),
        line(labelled="brainstem"),
        line(created="yesterday"),
        b"x" * 200_000 + b"\n",
    ],
)
def test_damaged_lines_are_left_out(tmp_path, bad):
    """Whoever put them there; the good ones around them are read."""
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "south.jsonl").write_bytes(line(sequence=4) + bad + line(sequence=6))
    (tmp_path / "figures" / "South\x1b.jsonl").write_bytes(line())

    assert [figure.sequence for figure in read_figures(tmp_path)] == [4, 6]


def test_nothing_collected_is_nothing_known(tmp_path):
    """Before the first exchange there is no folder."""
    assert read_figures(tmp_path) == []


def test_one_site_cannot_fill_the_disk_or_push_out_others(north, south, monkeypatch):
    """Its own file stays within its bound; the newest half is kept."""
    monkeypatch.setattr(figures_module, "MAX_BYTES", 4000)
    made, keeper = offer(south), Figures(north.site.folder)
    keeper.note(replace(made, site="east"))
    for sequence in range(1, 60):
        keeper.note(replace(made, sequence=sequence))
        assert (keeper.folder / "south.jsonl").stat().st_size <= 4000

    kept = [figure.sequence for figure in of(north, "south")]
    assert kept == list(range(kept[0], 60)) and len(kept) > 3
    assert len(of(north, "east")) == 1


def test_a_full_disk_costs_the_figures_and_not_the_exchange(north, south, monkeypatch, caplog):
    """A warning names the file."""
    offer(south)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures_module, "append_line", full)
    north.accept(collect(north, south))

    assert "south.jsonl: No space left on device" in caplog.text
    assert read_figures(north.site.folder) == []


@pytest.fixture
def three(tmp_path):
    """North has looked at what south and east offer; south withholds its Dice, east its cases."""
    sites = build_sites(tmp_path, ("east", "north", "south"))
    for name, key in (("south", "share_dice"), ("east", "share_cases")):
        path = sites[name].path
        path.write_text(f"{path.read_text()}{key} = false\n")
    with ExitStack() as stack:
        boxes = {
            name: stack.enter_context(closing(Mailbox(load_site(site.path)))) for name, site in sites.items()
        }
        offer(boxes["south"])
        offer(boxes["east"], dice={"brainstem": 0.5}, labelled=("brainstem",))
        for peer in ("south", "east"):
            boxes["north"].accept(collect(boxes["north"], boxes[peer]))
    return sites["north"]


def test_a_site_opts_out_field_by_field(three):
    """What it withholds never reaches another site; nor its own list, which a report may show to others."""
    found = newest(read_figures(three.folder))

    assert (found["south"].dice, found["south"].cases) == (None, 12)
    assert (found["east"].dice, found["east"].cases) == ({"brainstem": 0.5}, None)
    own = newest(read_figures(three.folder.parent / "south"))
    assert own["south"].dice is None


def rows(text: str) -> dict[str, list[str]]:
    return {words[0]: words[1:] for row in text.splitlines() if (words := row.split())}


def test_the_table_has_a_row_per_class_and_a_column_per_site(three, capsys, monkeypatch):
    """Withheld is told apart from not contoured; sites of which nothing is known are named."""
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["federation", "figures", "--site", str(three.path)]) == 0

    said = capsys.readouterr().out
    table = rows(said)
    assert table["east"] == ["south"]
    assert table["cases"] == ["withheld", "12"]
    assert (table["round"], table["epoch"]) == (["1", "1"], ["50", "50"])
    assert table["brainstem"] == ["0.500", "withheld"]
    assert table["parotid"] == ["withheld"]
    assert "nothing is known yet of north" in said


def test_a_narrow_terminal_gets_the_sites_one_after_the_other(three, capsys, monkeypatch):
    """No column is cut."""
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["federation", "figures", "--site", str(three.path)]) == 0

    said = capsys.readouterr().out
    assert said.count("brainstem") == 2 and max(map(len, said.splitlines())) <= 40


def test_a_site_that_left_is_only_in_json(three, capsys, monkeypatch):
    """It is marked there; the table is about who takes part."""
    monkeypatch.setenv("COLUMNS", "100")
    founding.remove(three.federation.path, ["south"])
    monkeypatch.setenv("nnUNet_gml_site", str(three.path))

    assert main(["federation", "figures"]) == 0
    assert "no longer in federation.toml, and left out: south" in capsys.readouterr().out
    assert main(["federation", "figures", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)

    assert {figure["site"]: figure["former"] for figure in facts["figures"]} == {"east": False, "south": True}
    assert facts["figures"][0]["dice"] == {"brainstem": 0.5}
