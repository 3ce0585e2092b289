"""Disentanglement (one factor of the state per entry of z) and completeness (one entry of z per factor).

Eastwood & Williams 2018, "A framework for the quantitative evaluation of disentangled representations", section 3. The
importances are the absolute weights of a ridge regression from standardised z to standardised factors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldlab.study.measures.measured_model import MeasuredModel
from worldlab.study.measures.probe import split_examples
from worldlab.study.measures.regression import Standardiser, fit_ridge
from worldlab.study.measures.standard_errors import make_measurement
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement


def measure(subject: MeasuredModel) -> dict[str, Measurement]:
    """Measure dci/... Raises: Undefined where the state is not exposed, or z or the state has a single entry."""
    factors = subject.truth.shape[-1]
    if factors < 2 or subject.mode_trace.z.shape[-1] < 2:
        raise Undefined("disentanglement needs at least two factors and two entries of z")
    examples = split_examples(subject, subject.mode_trace.z, subject.truth)
    scaling, predict = Standardiser.fit(examples.fit[0]), fit_ridge(examples)
    weights = predict(scaling.mean + torch.diag(scaling.std)) - predict(scaling.mean[None])
    importance = weights.abs()
    if float(importance.sum()) <= 0:
        raise Undefined("z does not predict the state at all")
    return {
        "dci/disentanglement": make_measurement(compute_disentanglement(importance)),
        "dci/completeness": make_measurement(compute_completeness(importance)),
    }


def compute_disentanglement(importance: Tensor) -> float:
    """Return 1 if each entry of z matters to one factor only, 0 if each matters to all factors equally.

    importance: [D, K]. Entries are weighted by their total importance.
    """
    weight = importance.sum(1) / importance.sum()
    return float((weight * (1 - _normalised_entropy(importance))).sum())


def compute_completeness(importance: Tensor) -> float:
    """Return 1 if each factor is in one entry of z only, 0 if each is spread over all entries equally.

    importance: [D, K]. The mean is over factors with any importance.
    """
    predicted = importance[:, importance.sum(0) > 0]
    return float((1 - _normalised_entropy(predicted.mT)).mean())


def _normalised_entropy(rows: Tensor) -> Tensor:
    """Compute the entropy of each row [N, M], normalised to sum 1, over that of a uniform row; 0 for a row of zeros."""
    total = rows.sum(1, keepdim=True)
    shares = torch.where(total > 0, rows / total.clamp(min=torch.finfo(rows.dtype).tiny), 0.0)
    return torch.special.entr(shares).sum(1) / math.log(rows.shape[1])
