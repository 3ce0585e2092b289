"""Does each entry of z stand for one factor of the true state (disentanglement), each factor in one entry (completeness)?

Eastwood & Williams 2018, "A framework for the quantitative evaluation of disentangled representations", section 3, with the weights
of a ridge regression from standardised z to standardised factors as importances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worldlab.study.measures.intervals import measurement
from worldlab.study.measures.probe import examples_of
from worldlab.study.measures.regress import Scaling, ridge
from worldlab.study.measures.specimen import Specimen
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement


def measured(specimen: Specimen) -> dict[str, Measurement]:
    """dci/... Raises: Undefined where no state is exposed, or there is nothing to be told apart."""
    factors = specimen.truth.shape[-1]
    if factors < 2 or specimen.quiet.z.shape[-1] < 2:
        raise Undefined("with one factor or one entry of z there is nothing to be told apart")
    examples = examples_of(specimen, specimen.quiet.z, specimen.truth)
    scaling, reading = Scaling.of(examples.fit[0]), ridge(examples)
    moved = reading(scaling.mean + torch.diag(scaling.std)) - reading(scaling.mean[None])
    importance = moved.abs()
    if float(importance.sum()) <= 0:
        raise Undefined("z says nothing of the state")
    return {
        "dci/disentanglement": measurement(disentanglement(importance)),
        "dci/completeness": measurement(completeness(importance)),
    }


def disentanglement(importance: Tensor) -> float:
    """1 if each entry matters to one factor only, 0 if each matters to all alike; entries by what they matter. [D, K]."""
    weight = importance.sum(1) / importance.sum()
    return float((weight * (1 - _entropy(importance))).sum())


def completeness(importance: Tensor) -> float:
    """1 if each factor is in one entry only, 0 if it is spread over all alike; the mean over factors that are known. [D, K]."""
    known = importance[:, importance.sum(0) > 0]
    return float((1 - _entropy(known.mT)).mean())


def _entropy(rows: Tensor) -> Tensor:
    """Entropy of each row [N, M] as shares, over that of equal ones; 0 for a row of zeros."""
    total = rows.sum(1, keepdim=True)
    shares = torch.where(total > 0, rows / total.clamp(min=torch.finfo(rows.dtype).tiny), 0.0)
    return torch.special.entr(shares).sum(1) / math.log(rows.shape[1])
