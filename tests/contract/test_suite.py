"""The suite itself: its list of checks, its results, and its estimators against closed forms."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
import torch
from zoo.decoders import AnyPlayer

from worldlab import Config, sized
from worldlab.distributions import Normal, OneHot
from worldlab.errors import PluginError
from worldlab.model.noise import stream
from worldlab.registry import load_registry
from worldlab.testing import (
    CheckFailure,
    all_checks,
    check_component,
    checks_for,
    parametrize_with_checks,
    run_checks,
    small_config,
    variants,
)
from worldlab.testing.probes import linear_probe, log_density_bias, require_independent_rows
from worldlab.testing.reference import ReferenceDecoder, ReferenceEncoder
from worldlab.testing.runner import as_subject, make_subject
from worldlab.testing.toys import ACTIONS, OBS, moving_dot, rewarded_action


def test_importing_the_suite_imports_no_torch():
    code = "import sys, worldlab.testing, worldlab.testing.sizes; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_every_check_is_documented_and_ids_sort_naturally():
    ids = [c.id for c in all_checks()]
    assert ids.index("E2") < ids.index("E10")
    for check in all_checks():
        assert check.doc and "Catches" in check.doc and "Fix:" in check.doc, check.id


def test_a_plugin_can_fix_the_level_of_its_checks():
    assert checks_for("encoder", since="0.0.9") == ()
    assert checks_for("encoder", since="0.1") == checks_for("encoder")
    with pytest.raises(PluginError):
        checks_for("policy")


class Raising(ReferenceEncoder):
    def embed(self, obs):
        raise ZeroDivisionError("oops")


def test_an_exception_in_a_component_is_reported_with_its_location():
    (result,) = run_checks("encoder", Raising, only={"E2"})
    assert not result.passed
    assert "ZeroDivisionError: oops" in result.cause and "test_suite.py" in result.cause


def test_a_registered_component_is_checked_by_its_registration():
    registration = load_registry().get("decoder", "vae")
    (result,) = check_component(registration, only={"P1"})
    assert result.passed and result.seconds > 0


def test_expected_failures_are_strict_and_known():
    mark = parametrize_with_checks([ReferenceDecoder], {"C4": "a reason"})
    (marked,) = [p for p in mark.args[1] if p.id.endswith("-C4")]
    (xfail,) = [m for m in marked.marks if m.name == "xfail"]
    assert xfail.kwargs["strict"] and xfail.kwargs["raises"] is CheckFailure
    with pytest.raises(PluginError, match="no check 'C44'"):
        parametrize_with_checks([ReferenceDecoder], {"C44": "a reason"})


@parametrize_with_checks([AnyPlayer], {"P7": "it returns losses for every player"})
def test_a_declared_failure_is_expected(subject, check):
    check(subject)


def test_a_check_that_does_not_apply_is_skipped_with_its_reason():
    """A point has no density for E8. A failure expected of it does not occur, so the strict xfail fails as it should."""
    point = make_subject("encoder", ReferenceEncoder, ReferenceEncoder.Config(kind="point"))
    reason = pytest.raises(pytest.skip.Exception, match="does not apply: posterior_kind is")
    for expected, outcome in (({}, reason), ({"E8": "a reason"}, contextlib.nullcontext())):
        rows = parametrize_with_checks([point], expected).args[1]
        subject, run = next(row.values for row in rows if row.id.endswith("-E8"))
        with outcome:
            run(subject)


def test_a_class_without_a_role_raises():
    with pytest.raises(PluginError, match="implements no role"):
        as_subject(torch.nn.Linear)  # type: ignore[arg-type]


class Sized(Config):
    units: int = sized("units", ge=1)
    depth: int = sized(nano=2, tiny=3, small=4, medium=5, large=6, ge=2)
    layers: int = 3
    steps: int = 1000


def test_small_config_is_the_smallest_size_with_the_given_values():
    small = small_config(Sized, layers=2)
    assert (small.units, small.depth, small.layers, small.steps) == (16, 2, 2, 1000)


def test_variants_are_the_other_choices_of_literal_fields():
    assert [name for name, _ in variants(ReferenceEncoder.Config())] == ["kind=categorical", "kind=point"]


@pytest.mark.parametrize("std", [0.3, 1.0, 2.5])
def test_density_bias_is_zero_for_a_gaussian_and_not_for_a_wrong_one(std):
    dist = Normal(torch.zeros(4000, 8), torch.full((4000, 8), std))
    x = dist.sample(stream(0))
    assert abs(log_density_bias(x, dist.log_prob(x), 0)) < 4
    assert abs(log_density_bias(x, dist.log_prob(x) + 0.2, 0)) > 5


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 3.0, 30.0])
def test_density_bias_finds_what_a_correlated_density_lacks(scale):
    """diag(s^2) + U U^T with torch's density as the truth: one without U, or without a part of its correction, is found."""
    std, factor = torch.full((8,), 0.1), 0.17 * scale * torch.randn(8, 2, generator=stream(2))
    true = torch.distributions.LowRankMultivariateNormal(torch.zeros(8), factor, std.square())
    own, shared = torch.randn(4000, 8, generator=stream(0)), torch.randn(4000, 2, generator=stream(1))
    x = std * own + shared @ factor.T
    assert abs(log_density_bias(x, true.log_prob(x), 0)) < 4
    if not scale:
        return
    diagonal = Normal(torch.zeros(8), std).log_prob(x)
    log_det = torch.logdet(true.covariance_matrix) / 2 - std.log().sum()
    assert log_density_bias(x, diagonal, 0) > 5  # forgets U
    assert log_density_bias(x, diagonal - log_det, 0) > 5  # forgets the quadratic part of its correction
    assert log_density_bias(x, true.log_prob(x) + log_det, 0) < -5  # forgets the determinant
    marginals = Normal(torch.zeros(8), true.variance.sqrt()).log_prob(x)
    assert log_density_bias(x, marginals, 0) > 5  # the product of the marginals


def test_density_bias_is_zero_for_categorical_samples():
    dist = OneHot.with_unimix(torch.randn(1, 2, 4, generator=stream(1)).expand(4000, 2, 4), 0.05)
    x = dist.sample(stream(0))
    assert abs(log_density_bias(x, dist.log_prob(x), 16)) < 4
    assert abs(log_density_bias(x, dist.log_prob(x) - 0.3, 16)) > 5


def test_a_linear_probe_fits_a_linear_target():
    z = torch.randn(400, 3, generator=stream(0))
    assert linear_probe(z, z @ torch.tensor([1.0, -2.0, 0.5])) > 0.99
    assert linear_probe(z, torch.randn(400, generator=stream(1))) < 0.1


def test_require_independent_rows_finds_a_detached_leak_and_a_tiny_one():
    x = torch.randn(4, 3, generator=stream(0))
    require_independent_rows(lambda v: torch.tanh(v), x, "tanh")
    with pytest.raises(CheckFailure, match=r"element \d influences element \d"):
        require_independent_rows(lambda v: v + v.mean(0).detach(), x, "a detached mean")
    with pytest.raises(CheckFailure, match=r"element \d influences element \d"):
        # Rounding hides the leak in the values, but not in the gradient.
        require_independent_rows(lambda v: v + 1e-9 * v.mean(0), x, "a faint mean")


def test_toys_are_arrival_aligned():
    batch = rewarded_action(OBS["vector"], ACTIONS["continuous"], 4, 6, stream(0))
    assert torch.equal(batch.reward, batch.prev_action[..., 0])
    dot = moving_dot(OBS["vector"], ACTIONS["continuous"], 4, 6, stream(0))
    x = dot.obs["vector"][..., 0]
    moved = (x[:, :-1] + 0.5 * dot.prev_action[:, 1:, 0]).clamp(-1, 1)
    assert torch.allclose(x[:, 1:], moved) and torch.equal(dot.reward[:, 1:], x[:, 1:])
