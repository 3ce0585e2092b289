"""Every check of worldlab.testing, in every mode; run it where this package is installed."""

from __future__ import annotations

import pytest
from worldlab.testing import checks_for, parametrize_with_checks, run_checks, small_config, variants

from worldlab_diffusion.decoder import RectifiedFlowDecoder
from worldlab_diffusion.dynamics import RectifiedFlowDynamics

PARTS = {"dynamics": RectifiedFlowDynamics, "decoder": RectifiedFlowDecoder}
TRAINING = {role: {check.id for check in checks_for(role) if check.slow} for role in PARTS}
MODES = [
    (role, name, config)
    for role, cls in PARTS.items()
    for name, config in variants(small_config(cls.Config))
    if TRAINING[role]
]


@parametrize_with_checks([f"{role}:rectified-flow" for role in PARTS])
def test_part(subject, check):
    check(subject)


@pytest.mark.slow
@pytest.mark.parametrize(("role", "name", "config"), MODES, ids=[f"{role}-{name}" for role, name, _ in MODES])
def test_mode(role, name, config):
    """The checks that train: `parametrize_with_checks` runs the others in every mode."""
    found = run_checks(role, PARTS[role], config, only=TRAINING[role])
    assert len(found) == len(TRAINING[role])
    assert not [f"{result.check}: {result.cause}" for result in found if not result.passed]


def test_what_does_not_apply_is_what_is_not_promised():
    """No density of latents or observations, one step at a time, no shared past, a loss of its own that trains no latent."""
    skipped = {
        role: {
            result.check
            for result in run_checks(role, cls, only={"C8", "D10", "D12", "T3", "T4", "T6"})
            if result.skipped
        }
        for role, cls in PARTS.items()
    }
    assert skipped == {"dynamics": {"D10", "T3", "T4", "T6"}, "decoder": {"C8"}}
