"""Plans from elsewhere: what nnU-Net would write passes, what could do harm does not."""

from __future__ import annotations

import copy

import pytest
from nnunet_kit import MANY, plans_of

from nnunet_gml.planning.foreign_plans import PlansError, check_dataset, check_plans
from nnunet_gml.planning.plan_documents import shown_dataset


@pytest.fixture
def planned(phantom_data):
    """Plans and dataset.json as nnU-Net wrote them."""
    return copy.deepcopy(plans_of(phantom_data()))


def configuration(plans: dict) -> dict:
    return plans["configurations"]["3d_fullres"]


@pytest.mark.parametrize("kind", ["labels", MANY, "regions"])
def test_what_nnunet_plans_passes(phantom_data, kind):
    """Plain U-Nets, residual encoders, 2d, cascades, inherited configurations, regions."""
    plans, dataset = plans_of(phantom_data(kind))

    assert check_plans(plans) is plans
    assert check_dataset(shown_dataset(dataset)) == shown_dataset(dataset)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: configuration(p)["architecture"].update(network_class_name="subprocess.Popen"),
        lambda p: configuration(p)["architecture"].update(
            network_class_name="dynamic_network_architectures.architectures.unet.nn.Module"
        ),
        lambda p: configuration(p)["architecture"]["arch_kwargs"].update(conv_op="os.system"),
        lambda p: configuration(p)["architecture"]["arch_kwargs"].update(command="rm"),
        lambda p: configuration(p)["architecture"].update(_kw_requires_import=["kernel_sizes"]),
        lambda p: configuration(p).update(data_identifier="../../.."),
        lambda p: configuration(p).update(data_identifier="/etc"),
        lambda p: configuration(p).update(data_identifier=".."),
        lambda p: configuration(p).update(data_identifier="gt_segmentations"),
        lambda p: configuration(p).update(batch_size=0),
        lambda p: configuration(p).update(spacing=[0.0, 1.0, 1.0]),
        lambda p: configuration(p).update(patch_size=[-16, 16, 16]),
        lambda p: p.update(plans_name="dataset"),
        lambda p: p.update(plans_name="Splits_final"),
        lambda p: p.update(plans_name="dataset_fingerprint"),
        lambda p: configuration(p).update(preprocessor_name="a.b/c"),
        lambda p: configuration(p).update(patch_size=[10**400]),
        lambda p: configuration(p).update(spacing=[float("nan")]),
        lambda p: configuration(p).update(batch_size=-1),
        lambda p: configuration(p).update(resampling_fn_data_kwargs={"order": "3"}),
        lambda p: configuration(p).update(unknown=1),
        lambda p: p.update(plans_name="../x"),
        lambda p: p.update(configurations={"../x": {}}),
        lambda p: p.update(configurations={}),
        lambda p: p.update(foreground_intensity_properties_per_channel={"0": {"mean": "x"}}),
        lambda p: p.update(more=[]),
        lambda p: p.pop("transpose_forward"),
    ],
)
def test_what_could_do_harm_is_refused(planned, change):
    """Names that are imported or become paths, fields of no plans, numbers without bounds."""
    plans, _ = planned
    change(plans)

    with pytest.raises(PlansError, match="expected"):
        check_plans(plans)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(labels={}),
        lambda d: d.update(labels={"a": 1}),
        lambda d: d["labels"].update(a=-1),
        lambda d: d["labels"].update(a=True),
        lambda d: d["labels"].update(a=[]),
        lambda d: d["labels"].update({"a\n": 1}),
        lambda d: d.update(channel_names=["CT"]),
        lambda d: d.update(regions_class_order="1"),
        lambda d: d.update(numTraining=7),
    ],
)
def test_a_description_of_another_form_is_refused(planned, change):
    """Labels, channels and the order of regions, nothing else."""
    dataset = shown_dataset(planned[1])
    change(dataset)

    with pytest.raises(PlansError, match="expected"):
        check_dataset(dataset)
