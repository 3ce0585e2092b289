"""DCI of latents that are the permuted, rotated or repeated factors."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from measures_kit import (
    FullyObserved,
    GivenDynamics,
    GivenEncoder,
    build_given_model,
    make_subject,
    record_fully_observed,
)

from worldlab.distributions import Normal
from worldlab.specs import ActionSpec, ArraySpec, ObsSpec
from worldlab.study.measures import dci
from worldlab.study.measures.undefined import Undefined

RECORDING = record_fully_observed()
K = RECORDING.truth.shape[-1]  # type: ignore[union-attr]


def found(matrix):
    """Measure DCI of z = the standardised state times `matrix`."""
    truth = torch.from_numpy(RECORDING.truth[RECORDING.valid]).float()  # type: ignore[index]
    mean, std = truth.mean(0), truth.std(0)
    encoder = GivenEncoder(lambda obs: ((obs["vector"] - mean) / std) @ matrix)
    obs = ObsSpec((("vector", ArraySpec("vector", (K,))),))
    actions = FullyObserved().action_space.shape[0]  # type: ignore[index]
    dynamics = GivenDynamics(1, lambda z, u: z[:, :1], lambda h: Normal(h, h))
    model = build_given_model(obs, ActionSpec("continuous", actions), len(matrix.mT), encoder, dynamics)
    return dci.measure(make_subject(model, RECORDING))


def test_one_entry_per_factor_is_disentangled_and_complete():
    permuted = torch.eye(K)[torch.randperm(K, generator=torch.Generator().manual_seed(0))] * 3
    one = found(permuted)
    assert one["dci/disentanglement"].value > 0.95 and one["dci/completeness"].value > 0.95


def test_a_rotation_is_neither_disentangled_nor_complete():
    rotation = torch.linalg.qr(torch.randn(K, K, generator=torch.Generator().manual_seed(0)))[0]
    one = found(rotation)
    assert one["dci/disentanglement"].value < 0.7 and one["dci/completeness"].value < 0.7


def test_a_factor_in_two_entries_is_disentangled_and_not_complete():
    one = found(torch.cat([torch.eye(K), torch.eye(K)], 1))
    assert one["dci/disentanglement"].value > 0.95
    assert one["dci/completeness"].value == pytest.approx(1 - math.log(2) / math.log(2 * K), abs=0.05)


def test_scores_match_the_formula():
    """Entry 0 matters to factor 0 only, entry 1 to both equally, entry 2 to neither."""
    importance = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]]).double()
    assert dci.compute_disentanglement(importance) == pytest.approx(0.5 * 1 + 0.5 * 0)
    first = 1 - (-(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3)) / math.log(3)
    assert dci.compute_completeness(importance) == pytest.approx((first + 1) / 2)


def test_is_undefined_with_a_single_entry_or_without_a_state():
    with pytest.raises(Undefined, match="two factors and two entries"):
        found(torch.eye(K)[:, :1])
    with pytest.raises(Undefined, match="exposes no state"):
        dci.measure(replace(make_subject(None, replace(RECORDING, truth=None))))  # type: ignore[arg-type]
