"""Each broken component fails its intended check with a message that names the bug; correct ones pass all checks."""

from __future__ import annotations

import pytest
from zoo import BROKEN_COMPONENTS, BrokenComponent
from zoo.adapters import ReachAdapter
from zoo.agents import Learning, Shooting
from zoo.decoders import Adversarial, Coupled, Dequantised, LaplaceDecoder
from zoo.launchers import Serial
from zoo.trackers import Lines

from worldlab.testing import all_checks, checks_for, run_checks
from worldlab.testing.reference import (
    ReferenceDecoder,
    ReferenceDynamics,
    ReferenceEncoder,
    ReferenceEncoderConfig,
    ReferenceParallelDynamics,
)


@pytest.mark.parametrize("broken", BROKEN_COMPONENTS, ids=lambda b: f"{b.cls.__name__}-{b.check}")
def test_the_intended_check_catches_the_bug(broken: BrokenComponent):
    config = broken.cls.Config(**broken.settings) if hasattr(broken.cls, "Config") else None
    (result,) = run_checks(broken.role, broken.cls, config, only={broken.check})
    assert not result.passed and not result.skipped, f"{broken.cls.__name__} passed {broken.check}"
    assert any(words in result.cause for words in broken.message.split("|")), result.cause
    assert result.fix


def test_a_component_that_cannot_be_built_fails_only_once():
    class Unbuildable(ReferenceDecoder):
        def __init__(self, config, specs):
            super().__init__(config, specs)
            self.net = specs.no_such_size

    first, *others = [r for r in run_checks("decoder", Unbuildable) if not r.passed or r.skipped]
    assert not first.passed and "it cannot be built: AttributeError" in first.cause and "no_such_size" in first.cause
    assert len(others) > 15 and all(r.skipped and f"see {first.check}" in r.cause for r in others)


CORRECT = [
    ("encoder", ReferenceEncoder, ReferenceEncoderConfig()),
    ("encoder", ReferenceEncoder, ReferenceEncoderConfig(kind="categorical")),
    ("encoder", ReferenceEncoder, ReferenceEncoderConfig(kind="point")),
    ("dynamics", ReferenceDynamics, None),
    ("dynamics", ReferenceParallelDynamics, None),
    ("decoder", ReferenceDecoder, None),
    ("decoder", Adversarial, None),
    ("agent", Shooting, None),
    ("agent", Learning, None),
    ("env", ReachAdapter, None),
    ("launcher", Serial, None),
    ("tracker", Lines, None),
    ("decoder", LaplaceDecoder, None),
    ("decoder", Dequantised, None),
]


@pytest.mark.parametrize(("role", "cls", "config"), CORRECT, ids=lambda v: getattr(v, "__name__", None))
def test_correct_components_pass_every_check(role, cls, config):
    # test_conformance runs the slow ones on real components
    quick = {c.id for c in checks_for(role) if not c.slow or role == "agent"}
    failed = [(r.check, r.cause) for r in run_checks(role, cls, config, only=quick) if not r.passed]
    assert not failed


def test_log_mass_of_dependent_pixels_is_compared_with_the_score():
    (result,) = run_checks("decoder", Coupled, only={"C10"})
    assert result.passed and not result.skipped


def test_every_component_check_has_a_broken_component():
    assert {c.id for c in all_checks() if c.role != "world_model"} == {broken.check for broken in BROKEN_COMPONENTS}
