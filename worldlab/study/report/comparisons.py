"""Decides which pairs of methods are compared, and compares them.

The comparisons that answer one question form a family of tests, and their p values are corrected together
(`statistics.apply_holm`). Which families exist depends only on the methods and the number of seeds, never on the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from worldlab.study import statistics
from worldlab.study.results import Method
from worldlab.study.statistics import Difference

LEVEL = 0.05
"""Family-wise error rate: the probability that any difference in one family is called real although there is none."""
OVERALL = ""
"""The scope of comparisons over all environments that have a reference score."""
AMONG_MODELS = "rivals"
"""The kind of the family that compares the models with each other, as summary.json writes it."""


@dataclass(frozen=True)
class Pair:
    """The comparison of methods x and y, given by their keys. difference: its p value is corrected."""

    x: str
    y: str
    difference: Difference


@dataclass(frozen=True)
class ComparisonFamily:
    """Comparisons whose p values are corrected together.

    scope: OVERALL or an environment. against: key of the method that all others are compared with, "" where every pair
    is compared. kind: kind of the methods that are compared with it.
    """

    scope: str
    against: str
    kind: str
    pairs: tuple[Pair, ...]


def compare_methods(
    scope: str, methods: Sequence[Method], scores: Mapping[str, Sequence[np.ndarray]], seeds: int, for_result: bool
) -> list[ComparisonFamily]:
    """Run all comparisons of a scope and return them as families.

    scores: by method key, one array [n] per task, for the methods that have scores. seeds: number of seeds that were
    planned, including those that failed.
    for_result: whether the report's result is drawn from this scope. If so, the models are compared with each other and
    with each baseline. Models are compared in all pairs, or each with the first if so few seeds could never make that
    many pairs significant. The table of an environment compares every method with the first method and with random
    actions.
    """
    known: dict[tuple[str, str], Difference] = {}

    def compare_pairs(pairs: Sequence[tuple[str, str]]) -> list[Difference]:
        for x, y in pairs:
            if (x, y) not in known:
                known[x, y] = statistics.difference(scores[x], scores[y], level=LEVEL)
        return [known[pair] for pair in pairs]

    def family(against: str, kind: str, pairs: Sequence[tuple[str, str]]) -> ComparisonFamily:
        corrected = statistics.apply_holm(compare_pairs(pairs)) if pairs else ()
        return ComparisonFamily(scope, against, kind, tuple(Pair(x, y, one) for (x, y), one in zip(pairs, corrected)))

    scored = [method for method in methods if method.key in scores]
    families = []
    if for_result:
        models = [method.key for method in main_methods(scored)]
        pairs = list(combinations(models, 2))
        if pairs and len(pairs) * statistics.smallest_p([(seeds, seeds)] * len(scores[models[0]])) > LEVEL:
            families.append(family(models[0], AMONG_MODELS, [(x, models[0]) for x in models[1:]]))
        else:
            families.append(family("", AMONG_MODELS, pairs))
    targets = [method.key for method in scored if method.kind == "baseline"] if for_result else []
    if scope != OVERALL:
        targets += [key for key in table_targets(methods) if key in scores]
    for target in dict.fromkeys(targets):
        for kind in ("model",) if scope == OVERALL else ("model", "baseline"):
            families.append(
                family(target, kind, [(m.key, target) for m in scored if m.kind == kind and m.key != target])
            )
    return [one for one in families if one.pairs]


def main_methods(methods: Sequence[Method]) -> list[Method]:
    """Return the models; if there are none, all methods."""
    return [method for method in methods if method.kind == "model"] or list(methods)


def table_targets(methods: Sequence[Method]) -> list[str]:
    """Return the keys that an environment's table compares all methods with: the first method, and random actions."""
    return list(dict.fromkeys(filter(None, [*(method.key for method in methods[:1]), random_actions(methods)])))


def random_actions(methods: Sequence[Method]) -> str:
    """Return the key of the baseline that acts at random; "" if there is none."""
    found = (m.key for m in methods if m.kind == "baseline" and "random" in (m.agent, m.key.rpartition("-")[2]))
    return next(found, "")
