"""The means of metrics between two log lines, and their way through a checkpoint."""

from __future__ import annotations

import json
import math

import torch

from worldlab.training.means import Means

CPU = torch.device("cpu")


def test_means_are_over_the_updates_that_had_the_name():
    means = Means()
    means.add({"a": torch.tensor(1.0), "b": torch.tensor(5.0)})
    means.add({"a": torch.tensor(2.0)})
    assert means.take() == {"a": 1.5, "b": 5.0} and means.take() == {}


def test_a_restored_sum_goes_on_in_the_same_rounding_and_keeps_nan():
    values = torch.rand(50, generator=torch.Generator().manual_seed(0))
    whole, cut = Means(), Means()
    for number, value in enumerate(values):
        whole.add({"a": value, "d": value.double(), "n": torch.tensor(math.nan)})
        cut.add({"a": value, "d": value.double(), "n": torch.tensor(math.nan)})
        if number in (7, 30):
            state = json.loads(json.dumps(cut.state(), allow_nan=False))
            cut = Means()
            cut.restore(state, CPU)
    expected, found = whole.take(), cut.take()
    assert math.isnan(found.pop("n")) and math.isnan(expected.pop("n")) and found == expected
