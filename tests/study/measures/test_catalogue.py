"""What can be measured, and how names choose among it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from worldlab.errors import ConfigError
from worldlab.study.measures import catalogue
from worldlab.study.measures.catalogue import GROUPS, select


def test_every_quantity_says_what_it_is_once():
    quantities = catalogue()
    assert len({quantity.name for quantity in quantities}) == len({q.title for q in quantities}) == len(quantities)
    assert all(len(quantity.estimator.split()) >= 5 and len(quantity.title) <= 50 for quantity in quantities)
    assert {quantity.name.partition("/")[0] for quantity in quantities} == {measure.name for measure in GROUPS}
    assert all(callable(measure.load()) for measure in GROUPS)


def test_names_and_groups_choose():
    measures, wanted = select(["latent", "bits/gap"])
    assert [measure.name for measure in measures] == ["latent", "bits"]
    assert wanted == {"bits/gap", *(q.name for q in catalogue() if q.name.startswith("latent/"))}
    assert select(None) == (list(GROUPS), {quantity.name for quantity in catalogue()})
    with pytest.raises(ConfigError, match="Did you mean 'latent/kl'") as caught:
        select(["latent/kll"])
    assert "latent" in caught.value.fix


def test_listing_needs_no_torch():
    code = "import sys, worldlab.study.measures as m; assert len(m.catalogue()) > 50 and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
