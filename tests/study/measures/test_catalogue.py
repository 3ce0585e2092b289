"""The catalogue of quantities, and selection by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from worldlab.errors import ConfigError
from worldlab.study.measures import catalogue
from worldlab.study.measures.catalogue import GROUPS, select


def test_every_quantity_is_described_and_unique():
    quantities = catalogue()
    assert len({quantity.name for quantity in quantities}) == len({q.title for q in quantities}) == len(quantities)
    assert all(len(quantity.estimator.split()) >= 5 and len(quantity.title) <= 50 for quantity in quantities)
    assert {quantity.name.partition("/")[0] for quantity in quantities} == {group.name for group in GROUPS}
    assert all(callable(group.load()) for group in GROUPS)


def test_selects_by_quantity_and_by_group():
    groups, wanted = select(["latent", "bits/gap"])
    assert [group.name for group in groups] == ["latent", "bits"]
    assert wanted == {"bits/gap", *(q.name for q in catalogue() if q.name.startswith("latent/"))}
    assert select(None) == (list(GROUPS), {quantity.name for quantity in catalogue()})
    with pytest.raises(ConfigError, match="Did you mean 'latent/kl'") as caught:
        select(["latent/kll"])
    assert "latent" in caught.value.fix


def test_listing_needs_no_torch():
    code = "import sys, worldlab.study.measures as m; assert len(m.catalogue()) > 50 and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
