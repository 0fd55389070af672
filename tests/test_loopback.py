"""The federation that a simulation writes for itself."""

import pytest

from nnunet_gml.simulation.loopback import free_ports, write_federation
from nnunet_gml.simulation.recipe import Recipe
from nnunet_gml.simulation.workspace import SiteSpace
from peer_sync.federation import load_federation
from peer_sync.site import load_site

RECIPE = Recipe(
    datasets=(),
    trainers=("nnUNetTrainer", "nnUNetTrainerGML", "nnUNetTrainerGMLFrozen"),
    epochs=1,
    iterations=1,
    seed=8,
)


@pytest.fixture
def sites(tmp_path):
    """Two sites with empty folders."""
    made = [
        SiteSpace(name, tmp_path / f"Dataset001_{name}", tmp_path / "sites" / name) for name in ("a", "b")
    ]
    for site in made:
        site.folder.mkdir(parents=True)
    return made


def test_every_site_can_be_loaded(tmp_path, sites):
    """Names, seed and digest arrive; each exchanging trainer has its own site file and mail."""
    write_federation(tmp_path, sites, RECIPE, "0" * 64)

    federation = load_federation(tmp_path / "federation.toml")
    assert [member.name for member in federation.members] == ["a", "b"]
    assert (federation.seed, federation.plans_digest) == (8, "0" * 64)
    loaded = [load_site(site.site_file(trainer)) for site in sites for trainer in RECIPE.trainers[1:]]
    assert len({site.folder for site in loaded}) == 4
    assert loaded[0].folder == sites[0].folder / "mail"


def test_sites_in_step_wait_two_minutes(tmp_path, sites):
    """Side by side on one machine ten minutes, the default, would mean that a site has died."""
    write_federation(tmp_path, sites, RECIPE, "0" * 64)

    loaded = [load_site(site.site_file(trainer)) for site in sites for trainer in RECIPE.trainers[1:]]
    assert {site.wait_seconds for site in loaded} == {120}


def test_a_second_call_keeps_keys_and_ports(tmp_path, sites):
    """--continue must not change the federation: its digest is in every manifest."""
    write_federation(tmp_path, sites, RECIPE, "0" * 64)
    before = load_federation(tmp_path / "federation.toml").digest

    write_federation(tmp_path, sites, RECIPE, "0" * 64)

    assert load_federation(tmp_path / "federation.toml").digest == before


def test_ports_differ():
    """No two sites get one port."""
    assert len(set(free_ports(5))) == 5
