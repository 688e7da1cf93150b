"""Every part of a conversion on every topology, and saved and loaded. A new part gets a row here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves

import transpike as tp
from transpike.rules import CORRECTIONS, POTENTIAL_RULES, THRESHOLD_RULES, BlockCorrection, Part
from transpike.testing import TOPOLOGIES, Topology

PARTS: tuple[tuple[Part, ...], ...] = (
    (tp.rules.Maximum(),),
    (tp.rules.Percentile(99.0, tp.PerChannel()),),
    (tp.rules.MinimumMSE(4, tp.PerChannel()),),
    (tp.rules.Maximum(), tp.rules.ZeroPotential()),
    (tp.rules.Maximum(), tp.rules.HalfThreshold()),
    (tp.rules.Maximum(), tp.rules.ShiftedPotential(0.25)),
    (tp.rules.Maximum(), tp.rules.RandomPotential(3)),
    (tp.rules.Maximum(), tp.rules.BiasCorrection(2)),
    (tp.rules.Maximum(), tp.rules.PotentialCorrection(2)),
    (tp.rules.Maximum(), tp.rules.OptimalPotential(2, candidates=4)),
    (tp.rules.Maximum(), tp.rules.TemporalBiasCorrection(2)),
    (tp.rules.Maximum(), tp.rules.BlockReconstruction(2, iterations=2)),
    (tp.rules.Maximum(), tp.rules.BlockReconstruction(2, iterations=2, weight_rate=0.0, whole=True)),
    (tp.rules.MinimumMSE(4, tp.PerChannel()), tp.rules.AnswerThresholds(2)),
    (tp.rules.GaussianMSE(4, tp.PerChannel()),),
    (tp.rules.LocalThresholdBalancing(50, 0.5),),
    (tp.rules.SpikeNorm(4, 0.75, tp.PerChannel()), tp.rules.ZeroPotential()),
)


def test_every_part_has_a_row():
    tables = (THRESHOLD_RULES, POTENTIAL_RULES, CORRECTIONS)
    assert {type(part) for parts in PARTS for part in parts} >= {made for table in tables for made in table.values()}


@pytest.mark.parametrize("parts", PARTS, ids=str)
@pytest.mark.parametrize("topology", TOPOLOGIES, ids=str)
def test_converts_every_topology(topology: Topology, parts: tuple[Part, ...]):
    inputs = topology.random_inputs(6)
    data = [inputs, tuple(x[:2] for x in inputs)]
    model = topology.model()
    snn = tp.convert(model, tp.Conversion.of(*parts), example_inputs=inputs, calibration=data)
    for planned in snn.sites:
        site = snn.site(planned.name)
        assert bool((site.theta > 0).all())
        for values in (site.theta, site.v_init, site.bias):
            assert bool(torch.isfinite(values).all())
        assert site.ceiling is None or float(site.theta.max()) <= site.ceiling
    if not isinstance(parts[-1], BlockCorrection):
        torch.testing.assert_close(snn.ann(*inputs), model(*inputs))
    for answer in tree_leaves(snn(*inputs, steps=3)):
        assert bool(torch.isfinite(answer).all())


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_answers_the_same_after_save_and_load(parts: tuple[Part, ...], tmp_path: Path):
    torch.manual_seed(0)
    inputs = torch.rand(12, 1, 8, 8)
    model = tp.zoo.build("digits-resnet", width=2, blocks=1).eval()
    snn = tp.convert(model, tp.Conversion.of(*parts), example_inputs=inputs[:2], calibration=inputs)
    tp.save(snn, tmp_path / "n.safetensors")
    loaded = tp.load(tmp_path / "n.safetensors")
    assert loaded.conversion == snn.conversion
    assert torch.equal(loaded(inputs, steps=4), snn(inputs, steps=4))
