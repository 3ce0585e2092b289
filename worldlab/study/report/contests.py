"""Which methods are held against which, and what came of it. Comparisons that answer one question are corrected together
(`statistics.apply_holm`), so what questions are asked is fixed before anybody looks at scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from worldlab.study import statistics
from worldlab.study.results import Method
from worldlab.study.statistics import Difference

LEVEL = 0.05
"""Chance at which a difference that is none is called real, for all comparisons of one question together."""
OVERALL = ""
"""The scope of comparisons over all environments that have a reference."""
RIVALS = "rivals"
"""The kind of a contest among those whom a comparison is about."""


@dataclass(frozen=True)
class Pair:
    """x against y, by their keys; the difference is corrected."""

    x: str
    y: str
    difference: Difference


@dataclass(frozen=True)
class Contest:
    """The comparisons that answer one question. scope: OVERALL or an environment; against: the key of what all others are
    held against, "" where each is held against each; kind: of the methods that are held against it."""

    scope: str
    against: str
    kind: str
    pairs: tuple[Pair, ...]


def contests(
    scope: str, methods: Sequence[Method], scores: Mapping[str, Sequence[np.ndarray]], seeds: int, result: bool
) -> list[Contest]:
    """All that is asked in a scope. scores: of each method that has some, by key, one array [n] a task; seeds: that were
    asked for, whatever became of them.

    result: the result is looked for here. Then the models are held against each other: each against each, or each against
    the first where so few seeds could never tell that many pairs apart; and against each baseline. For the table of an environment
    everything is held against the first method and against random actions.
    """
    known: dict[tuple[str, str], Difference] = {}

    def differ(pairs: Sequence[tuple[str, str]]) -> list[Difference]:
        for x, y in pairs:
            if (x, y) not in known:
                known[x, y] = statistics.difference(scores[x], scores[y], level=LEVEL)
        return [known[pair] for pair in pairs]

    def contest(against: str, kind: str, pairs: Sequence[tuple[str, str]]) -> Contest:
        corrected = statistics.apply_holm(differ(pairs)) if pairs else ()
        return Contest(scope, against, kind, tuple(Pair(x, y, one) for (x, y), one in zip(pairs, corrected)))

    there = [method for method in methods if method.key in scores]
    asked = []
    if result:
        rivals = [method.key for method in contestants(there)]
        pairs = list(combinations(rivals, 2))
        if pairs and len(pairs) * statistics.smallest_p([(seeds, seeds)] * len(scores[rivals[0]])) > LEVEL:
            asked.append(contest(rivals[0], RIVALS, [(x, rivals[0]) for x in rivals[1:]]))
        else:
            asked.append(contest("", RIVALS, pairs))
    targets = [method.key for method in there if method.kind == "baseline"] if result else []
    if scope != OVERALL:
        targets += [key for key in shown_against(methods) if key in scores]
    for target in dict.fromkeys(targets):
        for kind in ("model",) if scope == OVERALL else ("model", "baseline"):
            asked.append(contest(target, kind, [(m.key, target) for m in there if m.kind == kind and m.key != target]))
    return [one for one in asked if one.pairs]


def contestants(methods: Sequence[Method]) -> list[Method]:
    """Whom a comparison is about: the models; where there is none, all."""
    return [method for method in methods if method.kind == "model"] or list(methods)


def shown_against(methods: Sequence[Method]) -> list[str]:
    """What everything is held against in an environment's table: the first method, and random actions if they are there."""
    chance = [m.key for m in methods if m.kind == "baseline" and "random" in (m.agent, m.key.rpartition("-")[2])]
    return list(dict.fromkeys([method.key for method in methods[:1]] + chance[:1]))
