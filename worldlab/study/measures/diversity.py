"""Are dreamt pictures as varied as real ones, and new? By nearest neighbours in the features of a fixed random network.

Density and coverage: Naeem et al. 2020, arXiv:2002.09797, equations 3 and 4. A model that draws blur is near nothing real (low
density); one that keeps to a few pictures leaves real ones alone (low coverage); one that repeats what it was trained on is
nearer to that than to as many that it never saw (copies below 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldlab.study.measures.drawings import NO_ROOM, drawings_of, real
from worldlab.study.measures.intervals import by_episode, jackknife, mean, measurement
from worldlab.study.measures.specimen import Specimen, some
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement

NEIGHBOURS = 5
"""k: a real picture's surroundings reach as far as its k-th nearest real one of another episode."""


def measured(specimen: Specimen) -> dict[str, Measurement]:
    """diversity/... Raises: Undefined where the model draws nothing, or no dream had room."""
    found = drawings_of(specimen)
    if found.dream is None:
        raise Undefined(NO_ROOM)
    truth, dreamt = found.basis.features(found.real), found.basis.features(found.dream)
    near, covered = neighbourhoods(truth, dreamt, found.episode, found.episode)
    return {
        "diversity/density": mean(near, found.episode),
        "diversity/coverage": mean(covered, found.episode),
        "diversity/copies": _copies(specimen, dreamt, found.episode),
    }


def neighbourhoods(real: Tensor, drawn: Tensor, episode: Tensor, begun: Tensor) -> tuple[Tensor, Tensor]:
    """For features real [N, d] and drawn [M, d]: how many real surroundings each drawn one is in, over NEIGHBOURS, [M]; and
    whether each real one's surroundings hold a drawn one, [N] 0 or 1. episode [N], begun [M]: of the real ones, and the one a
    dream began in; frames of one episode resemble each other, so what is near is looked for in others only.
    Raises: Undefined below NEIGHBOURS others.
    """
    apart = _apart(real, real).masked_fill(episode[:, None] == episode, torch.inf)
    if len(real) <= NEIGHBOURS or bool(apart.isfinite().sum(1).lt(NEIGHBOURS).any()):
        raise Undefined(f"fewer than {NEIGHBOURS} recorded pictures of other episodes")
    radius = apart.kthvalue(NEIGHBOURS, 1).values
    inside = (_apart(drawn, real) <= radius) & (begun[:, None] != episode)
    return inside.double().sum(1) / NEIGHBOURS, inside.any(0).double()


def _apart(x: Tensor, y: Tensor) -> Tensor:
    """Distances [N, M]; exactly 0 between equals, which the way by products is not."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def _copies(specimen: Specimen, dreamt: Tensor, episode: Tensor) -> Measurement:
    """How far dreamt pictures are from the nearest one trained on, over how far from the nearest of as many never seen. What
    looks like nothing real is far from both: 1."""
    try:
        trained = specimen.with_recording(specimen.experience())
    except Undefined as error:
        return Measurement(None, why=str(error))
    unseen, seen = specimen.frames("fit"), trained.every_frame()
    count = min(specimen.sizes.trained, len(unseen[0]), len(seen[0]))
    basis = drawings_of(specimen).basis
    pools = [
        basis.features(real(one, *some(*at, count, one.seed))) for one, at in ((trained, seen), (specimen, unseen))
    ]
    nearest = torch.stack([_apart(dreamt, pool).amin(1) for pool in pools], 1)
    if float(nearest[:, 1].sum()) <= 0:
        return Measurement(None, why="every dreamt picture is one that was recorded")
    value, error = jackknife(by_episode(nearest, episode), lambda sums: sums[:1] / sums[1:])
    return measurement(value[0], error[0])
