"""``nnunet-gml plans offer``, ``adopt`` and ``compare``: one site's plans for all."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_gml.commands.named_site import named_site
from nnunet_gml.commands.options import add_plans_name, add_site_and_dataset

if TYPE_CHECKING:
    from nnunet_gml.planning.plan_documents import PeerPlans
    from nnunet_gml.planning.planned import Planned
    from nnunet_gml.planning.plans import FieldDifference
    from peer_sync.site import Site


def add_offer(parser: argparse.ArgumentParser) -> None:
    """Declare ``plans offer``."""
    add_site_and_dataset(parser)
    parser.add_argument("configuration", metavar="CONFIGURATION", help="such as 3d_fullres")
    add_plans_name(parser)
    parser.set_defaults(run=_offer)


def add_adopt(parser: argparse.ArgumentParser) -> None:
    """Declare ``plans adopt``."""
    add_site_and_dataset(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--from", dest="peer", metavar="SITE", help="the site whose plans to take")
    source.add_argument("--file", type=Path, metavar="PLANS.json", help="a plans file that came another way")
    parser.add_argument("-c", dest="configuration", help="configuration (default: the one that is offered)")
    parser.add_argument("--no-preprocess", action="store_true", help="put the plans in place, nothing more")
    parser.add_argument("-np", type=int, help="processes for preprocessing (default: nnU-Net's)")
    parser.set_defaults(run=_adopt)


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Declare ``plans compare``."""
    add_offer(parser)
    parser.set_defaults(run=_compare)


def _offer(args: argparse.Namespace) -> int:
    from nnunet_gml.planning.plan_documents import publish_plans
    from nnunet_gml.planning.planned import planned

    site = named_site(args.site)
    digest = publish_plans(site, planned(args.dataset, args.configuration, args.plans))
    print(f"published the plans of {args.dataset}, configuration {args.configuration}; digest {digest}")
    print(f"others take them by: nnunet-gml plans adopt SITE_TOML DATASET --from {site.name}")
    if site.listen and not site.relay:
        print(f"meanwhile this site must be served: nnunet-gml serve {site.path}")
    return 0


def _adopt(args: argparse.Namespace) -> int:
    from nnunet_gml.planning.adopting import adopt, plans_from_file, preprocess
    from peer_sync.errors import ConfigError

    site = named_site(args.site)
    offered = _offered(site, args.peer) if args.peer else None
    configuration = args.configuration or (offered.configuration if offered else "")
    if not configuration:
        raise ConfigError("a plans file does not say which configuration is meant", "add -c 3d_fullres, say")
    plans = offered.plans if offered else plans_from_file(args.file)
    before = _contract_before(site, args.dataset, str(plans["plans_name"]), configuration)
    found = adopt(args.dataset, plans, configuration)
    _tell_changes(site, before, found)
    if offered is not None:
        _tell_rest(site, found, offered.contract, offered.site)
    if args.no_preprocess:
        print(
            "the images have to be preprocessed anew before a training: "
            f"nnUNetv2_preprocess -d {args.dataset} -plans_name {found.plans_name} -c {configuration}\n"
            f"and, if the dataset was never planned here: nnUNetv2_extract_fingerprint -d {args.dataset}"
        )
    else:
        preprocess(found, args.np)
    _tell_digest(site, found)
    return 0


def _offered(site: Site, peer: str) -> PeerPlans:
    """A peer's plans. Raises as `peer_plans`; the error says what has to be done first, and where."""
    from nnunet_gml.planning.plan_documents import peer_plans
    from peer_sync.errors import ConfigError, NotFoundError

    if peer == site.name:
        raise ConfigError(
            f"--from is {peer!r}, which is this site itself", hint="name the site whose plans to take"
        )
    try:
        return peer_plans(site, peer)
    except NotFoundError as error:
        raise NotFoundError(
            f"site {peer!r} has not offered its plans yet ({error})",
            hint=f"first at {peer}: nnunet-gml plans offer SITE_TOML DATASET CONFIGURATION; "
            "or plan together, at every site: nnunet-gml plans pool",
        ) from error


def _compare(args: argparse.Namespace) -> int:
    from nnunet_gml.planning.plan_documents import PeerPlans, all_peers_plans, own_contract
    from nnunet_gml.planning.planned import planned
    from nnunet_gml.planning.plans import contract_differences

    site = named_site(args.site)
    contract = own_contract(site, planned(args.dataset, args.configuration, args.plans))
    all_agree = True
    for peer, theirs in all_peers_plans(site).items():
        if not isinstance(theirs, PeerPlans):
            print(f"{peer}: not known: {theirs}")
            all_agree = False
            continue
        differences = contract_differences(contract, theirs.contract)
        print(f"{peer}: {'differs' if differences else 'the same plans'}")
        _show(differences, site.name, peer)
        all_agree = all_agree and not differences
    return 0 if all_agree else 1


def _contract_before(
    site: Site, dataset: str, plans_name: str, configuration: str
) -> dict[str, object] | None:
    """What was planned here before; None where nothing was."""
    from nnunet_gml.planning.plan_documents import own_contract
    from nnunet_gml.planning.planned import planned
    from peer_sync.errors import ConfigError

    try:
        return own_contract(site, planned(dataset, configuration, plans_name))
    except ConfigError:
        return None


def _tell_changes(site: Site, before: dict[str, object] | None, found: Planned) -> None:
    from nnunet_gml.planning.plan_documents import own_contract
    from nnunet_gml.planning.plans import contract_differences
    from peer_sync.errors import quoted

    print(f"{found.folder / found.plans_name}.json: in place")
    if before is None:
        return
    differences = contract_differences(before, own_contract(site, found))
    print("what was planned here before differs:" if differences else "what was planned here was the same")
    for difference in differences:
        print(f"  {difference.field}: {quoted(difference.ours)} before, {quoted(difference.theirs)} now")


def _tell_rest(site: Site, found: Planned, theirs: dict[str, object], peer: str) -> None:
    """Plans cannot change dataset.json: what differs there is for a person."""
    from nnunet_gml.planning.plan_documents import own_contract
    from nnunet_gml.planning.plans import contract_differences

    differences = contract_differences(own_contract(site, found), theirs)
    if differences:
        print("still different, because dataset.json differs; please agree on names and mend it:")
        _show(differences, site.name, peer)


def _tell_digest(site: Site, found: Planned) -> None:
    from nnunet_gml.planning.plan_documents import digest_of

    digest, agreed = digest_of(site, found), site.federation.plans_digest
    if agreed and agreed != digest:
        print(f"plans digest {digest}; attention: federation.toml expects {agreed}")
    else:
        print(f"plans digest {digest}{', as in federation.toml' * bool(agreed)}")


def _show(differences: tuple[FieldDifference, ...], ours: str, theirs: str) -> None:
    for difference in differences:
        print(f"  {difference.told(ours, theirs)}")
