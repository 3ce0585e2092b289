"""Each broken component is caught by the check meant for it, in words that name its bug; sound ones pass everything."""

from __future__ import annotations

import pytest
from zoo import ANIMALS, Animal
from zoo.decoders import Adversarial

from worldlab.testing import all_checks, checks_for, run_checks
from worldlab.testing.reference import (
    ReferenceDecoder,
    ReferenceDynamics,
    ReferenceEncoder,
    ReferenceEncoderConfig,
    ReferenceParallelDynamics,
)


@pytest.mark.parametrize("animal", ANIMALS, ids=lambda a: f"{a.cls.__name__}-{a.check}")
def test_the_intended_check_catches_the_bug(animal: Animal):
    config = animal.cls.Config(**animal.use)
    (result,) = run_checks(animal.role, animal.cls, config, only={animal.check})
    assert not result.passed and not result.skipped, f"{animal.cls.__name__} slipped through {animal.check}"
    assert any(words in result.cause for words in animal.says.split("|")), result.cause
    assert result.fix


def test_what_cannot_be_built_is_told_once():
    class Unbuildable(ReferenceDecoder):
        def __init__(self, config, specs):
            super().__init__(config, specs)
            self.net = specs.no_such_size

    first, *others = [r for r in run_checks("decoder", Unbuildable) if not r.passed or r.skipped]
    assert not first.passed and "it cannot be built: AttributeError" in first.cause and "no_such_size" in first.cause
    assert len(others) > 15 and all(r.skipped and f"see {first.check}" in r.cause for r in others)


SOUND = [
    ("encoder", ReferenceEncoder, ReferenceEncoderConfig()),
    ("encoder", ReferenceEncoder, ReferenceEncoderConfig(kind="categorical")),
    ("encoder", ReferenceEncoder, ReferenceEncoderConfig(kind="point")),
    ("dynamics", ReferenceDynamics, None),
    ("dynamics", ReferenceParallelDynamics, None),
    ("decoder", ReferenceDecoder, None),
    ("decoder", Adversarial, None),
]


@pytest.mark.parametrize(("role", "cls", "config"), SOUND, ids=lambda v: getattr(v, "__name__", None))
def test_sound_components_pass_every_check(role, cls, config):
    quick = {c.id for c in checks_for(role) if not c.slow}  # test_conformance runs the slow ones on real components
    failed = [(r.check, r.cause) for r in run_checks(role, cls, config, only=quick) if not r.passed]
    assert not failed


def test_every_check_of_a_component_has_its_animal():
    assert {c.id for c in all_checks() if c.role != "world_model"} == {animal.check for animal in ANIMALS}
