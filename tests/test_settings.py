"""Settings of a trainer variant: a slip of the pen ends the training before it begins."""

from __future__ import annotations

import pytest
from nnunet_kit import build_trainer, sites_for, use_folders

from nnunet_gml.averaging import FedAvgTrainer, GossipAverageTrainer
from nnunet_gml.learning import GossipTrainer
from nnunet_gml.settings import check_choices, choices_of
from peer_sync.errors import ConfigError
from peer_sync.site import SITE_VARIABLE

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.mark.parametrize(
    ("cls", "name", "value", "nearest"),
    [
        (GossipTrainer, "merge", "selct", "'select'"),
        (GossipTrainer, "mask", "everywhere", "'gt' or 'union' or 'agree'"),
        (GossipTrainer, "merge_exclude", "norm", "'' or 'normalization'"),
        (GossipAverageTrainer, "merge_exclude", "norm", "'' or 'normalization'"),
    ],
)
def test_a_word_that_a_setting_does_not_have_stops_before_anything_is_trained(
    phantom_data, tmp_path, monkeypatch, capsys, cls, name, value, nearest
):
    """Exit code 2, the setting, what it is, what it may be; not even the network is built."""
    use_folders(phantom_data(), monkeypatch, results=tmp_path)
    sites = sites_for(tmp_path, phantom_data())
    monkeypatch.setenv(SITE_VARIABLE, str(sites["north"].path))
    trainer = build_trainer(type("Misspelt", (cls,), {name: value}), phantom_data())

    with pytest.raises(SystemExit) as stopped:
        trainer.run_training()

    said = capsys.readouterr().out
    assert stopped.value.code == 2
    assert f"error: {name} of Misspelt is {value!r}" in said
    assert "hint: it must be" in said and nearest in said
    assert not trainer.was_initialized


@pytest.mark.parametrize("cls", [GossipTrainer, GossipAverageTrainer, FedAvgTrainer])
def test_every_word_that_is_listed_is_taken(cls):
    """Each choice of each setting, and the defaults."""
    chosen = [{name: word} for name, words in choices_of(cls).items() for word in words]

    assert {"merge_exclude": "normalization"} in chosen
    for settings in ({}, *chosen):
        check_choices(object.__new__(type("Variant", (cls,), settings)))


def test_a_trainers_own_value_counts_too():
    """Set in its constructor, on the object instead of the class."""
    trainer = object.__new__(GossipTrainer)
    trainer.mask = "everywhere"

    with pytest.raises(ConfigError, match="mask of GossipTrainer is 'everywhere'"):
        check_choices(trainer)


def test_a_variant_that_annotates_otherwise_is_still_checked():
    """``merge: str`` in a user's own class does not make every word a good one."""
    variant = type("Variant", (GossipTrainer,), {"merge": "selct", "__annotations__": {"merge": str}})

    with pytest.raises(ConfigError, match="merge of Variant"):
        check_choices(object.__new__(variant))
