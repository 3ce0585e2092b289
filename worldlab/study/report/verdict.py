"""States the result in sentences: which differences are statistically significant ("real") and which are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from worldlab.study import statistics
from worldlab.study.report.comparisons import LEVEL, OVERALL, ComparisonFamily, Pair, main_methods, random_actions
from worldlab.study.report.findings import Findings, finite_scores
from worldlab.study.report.formats import (
    decimals_to_show,
    format_bounds,
    format_number,
    format_p,
    format_range,
    join_words,
)

MAX_SENTENCES = 12
"""Most sentences about single comparisons; the table of comparisons lists all."""


@dataclass(frozen=True)
class Sentence:
    """One sentence of the result.

    tag: the verdict in a word or two. facts: n and p. real: whether the difference is significant.
    """

    tag: str
    text: str
    facts: str
    real: bool


@dataclass(frozen=True)
class Caution:
    """A warning that readers need before the numbers."""

    title: str
    text: str


@dataclass(frozen=True)
class Conclusion:
    """The result. lead: one paragraph. remarks: how differences were tested, and what could not be compared."""

    lead: str
    sentences: tuple[Sentence, ...]
    cautions: tuple[Caution, ...]
    remarks: tuple[str, ...]


def conclude(findings: Findings) -> Conclusion:
    """Write the result of a comparison, with n."""
    cautions = _cautions(findings)
    if not findings.returns:
        return Conclusion(
            "No trial has a result, so there is nothing to compare. The causes are listed below.", (), cautions, ()
        )
    families = [family for scope in findings.scopes if (family := findings.among_models(scope))]
    lead = " ".join(_lead(findings, family) for family in families) or _nothing_to_compare(findings)
    pairs = [sentence for family in families for sentence in _pairs(findings, family)]
    baselines = [sentence for scope in findings.scopes for sentence in _baselines(findings, scope)]
    remarks = [_method_remark(findings, families)] if pairs or baselines else []
    if len(pairs) > MAX_SENTENCES:
        remarks.append(f"{len(pairs) - MAX_SENTENCES} more comparisons are in the table of all comparisons.")
    remarks += [*_first_only_remark(findings, families), *_scope_remarks(findings)]
    return Conclusion(lead, (*pairs[:MAX_SENTENCES], *baselines), cautions, tuple(remarks))


def _lead(findings: Findings, family: ComparisonFamily) -> str:
    """Return the lead: which method is significantly best, or why none is."""
    pairs = family.pairs
    where = f"On {family.scope}" if family.scope else f"Over {len(findings.referenced)} environments"
    if all(pair.difference.verdict == "too few seeds" for pair in pairs):
        keys = [key for key in findings.labels if any(key in (pair.x, pair.y) for pair in pairs)]
        names = _join_labels(findings, keys)
        why = f"with {_seed_counts(pairs)}, no difference can be significant, even if the scores never overlap"
        return f"{where}, these runs cannot distinguish {names}: {why}."
    if family.against:
        return f"{where} ({_seed_counts(pairs)}), {_by_verdict(findings, pairs, family.against)}."
    best = _best(findings, family)
    others = [key for key in findings.labels if key != best and any(key in (pair.x, pair.y) for pair in pairs)]
    open_ = [key for key in others if not any(_winner(pair) == best and _loser(pair) == key for pair in pairs)]
    name, whom = findings.labels[best], _join_labels(findings, open_)
    if not open_:
        beaten = f"each of the other {len(others)}" if len(others) > 1 else _join_labels(findings, others)
        lead = f"{name} is better than {beaten}, and the difference is real"
    elif len(open_) < len(others):
        lead = f"{name} scores highest, but its lead over {whom} may be chance; its lead over the others is real"
    else:
        lead = f"{name} scores highest, but its lead over {whom} may be chance"
    return " ".join(
        [
            f"{where} ({_seed_counts(pairs)}), {lead}.",
            *_other_differences(findings, [p for p in pairs if best not in (p.x, p.y)]),
        ]
    )


def _other_differences(findings: Findings, pairs: Sequence[Pair]) -> list[str]:
    """Return a sentence about the differences between methods other than the best."""
    losers: dict[str, list[str]] = {}
    for pair in pairs:
        if winner := _winner(pair):
            losers.setdefault(_loser(pair), []).append(winner)
    real, chance = sum(map(len, losers.values())), sum(_winner(pair) is None for pair in pairs)
    parts = [
        f"{_join_labels(findings, over)} {_be(over)} better than {findings.labels[key]}" for key, over in losers.items()
    ]
    if not pairs:
        return []
    if not real:
        return [f"Among the others, chance may explain every difference ({len(pairs)} compared)."]
    if len(parts) > 3:
        return [f"Among the others, {real} of {len(pairs)} differences are real."]
    may_be = f"; {chance} more difference{'s' if chance > 1 else ''} may be chance" if chance else ""
    return [f"Among the others, {'; '.join(parts)}{may_be}."]


def _pairs(findings: Findings, family: ComparisonFamily) -> list[Sentence]:
    """Write a sentence per comparison: first those with the best method, real before not shown, the largest first."""
    best = family.against or _best(findings, family)

    def order(pair: Pair) -> tuple[bool, bool, float]:
        return best not in (pair.x, pair.y), _winner(pair) is None, -abs(pair.difference.estimate.estimate)

    where = f" on {family.scope}" if family.scope and len(findings.scopes) > 1 else ""
    return [_pair(findings, pair, findings.places(family.scope), where) for pair in sorted(family.pairs, key=order)]


def _pair(findings: Findings, pair: Pair, places: int, where: str) -> Sentence:
    one, x, y = pair.difference, findings.labels[pair.x], findings.labels[pair.y]
    low, high, size = one.estimate.low, one.estimate.high, one.estimate.estimate
    if size < 0:
        x, y, low, high, size = y, x, -high, -low, -size
    places = decimals_to_show(size, places) if _winner(pair) else places
    by = " ".join(filter(None, (format_number(size, places), format_bounds(low, high, places))))
    facts = f"n = {one.estimate.runs}, p {_p_text(one.p_value)}"
    if _winner(pair):
        return Sentence("real", f"{x} is better than {y}{where}, by {by}", facts, True)
    if one.verdict == "too few seeds":
        return Sentence("too few seeds", f"{x} is ahead of {y}{where} by {by}, but {one.reason}", facts, False)
    if _identical_scores(findings, pair):
        return Sentence("not shown", f"{x} and {y} have identical scores{where}", facts, False)
    return Sentence("not shown", f"{x} is ahead of {y}{where} by {by}, which may be chance", facts, False)


def _baselines(findings: Findings, scope: str) -> list[Sentence]:
    """Write one sentence per baseline: which models are better than it."""
    parts = []
    where = f"On {scope}, " if scope and len(findings.scopes) > 1 else ""
    for key in (method.key for method in findings.comparison.methods if method.kind == "baseline"):
        family = findings.family(scope, key, "model")
        if family:
            verdicts = [pair.difference.verdict for pair in family.pairs]
            better = verdicts.count("better")
            if set(verdicts) == {"too few seeds"}:
                tag = "too few seeds"
            else:
                tag = (
                    "real"
                    if better == len(verdicts)
                    else "real in part"
                    if {"better", "worse"} & {*verdicts}
                    else "not shown"
                )
            text = _by_verdict(findings, family.pairs, key)
            if better == len(verdicts) > 2:
                text = f"{'all' if where else 'All'} {better} models are better than {findings.labels[key]}"
            parts.append(Sentence(tag, f"{where}{text}", _seed_counts(family.pairs), tag == "real"))
    return parts


def _by_verdict(findings: Findings, pairs: Sequence[Pair], against: str) -> str:
    """Group methods by verdict: "a and b are better than c; d cannot be distinguished from it"."""
    parts, name = [], findings.labels[against]
    for verdicts, what in (
        ({"better"}, "{} better than {}"),
        ({"worse"}, "{} worse than {}"),
        ({"indistinguishable", "too few seeds"}, "cannot be distinguished from {1}"),
    ):
        if keys := [pair.x for pair in pairs if pair.difference.verdict in verdicts]:
            parts.append(f"{_join_labels(findings, keys)} {what.format(_be(keys), 'it' if parts else name)}")
    return "; ".join(parts)


def _nothing_to_compare(findings: Findings) -> str:
    found = findings.comparison
    scored = [method for method in found.methods if any((method.key, env) in findings.returns for env in found.envs)]
    keys = [method.key for method in main_methods(scored)]
    names = _join_labels(findings, keys)
    if len(keys) > 1:
        return f"{names} have results, but not on a common environment, so they cannot be compared."
    return f"{names} is the only method of its kind with results, so there is nothing to compare it with."


def _best(findings: Findings, family: ComparisonFamily) -> str:
    """Return the key of the method with the highest mean."""

    def mean(key: str) -> float:
        if family.scope == OVERALL:
            return findings.aggregates[key]["mean"].estimate
        return findings.returns[key, family.scope].estimate

    return max(dict.fromkeys(key for pair in family.pairs for key in (pair.x, pair.y)), key=mean)


def _winner(pair: Pair) -> str | None:
    return {"better": pair.x, "worse": pair.y}.get(pair.difference.verdict)


def _loser(pair: Pair) -> str:
    return pair.y if _winner(pair) == pair.x else pair.x


def _identical_scores(findings: Findings, pair: Pair) -> bool:
    found = findings.comparison
    return all(
        np.array_equal(finite_scores(found, pair.x, env), finite_scores(found, pair.y, env)) for env in found.envs
    )


def _join_labels(findings: Findings, keys: Iterable[str]) -> str:
    return join_words(findings.labels[key] for key in keys)


def _be(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"


def _seed_counts(pairs: Sequence[Pair]) -> str:
    """Return "n = 5 seeds each"; n is the smallest number of runs of any method on any environment."""
    runs = {pair.difference.estimate.runs for pair in pairs}
    return f"n = {format_range(runs)} seed{'s' if max(runs) > 1 else ''} each"


def _p_text(p_value: float) -> str:
    text = format_p(p_value)
    return text if text.startswith("<") else f"= {text}"


def _method_remark(findings: Findings, families: Sequence[ComparisonFamily]) -> str:
    sizes = {len(family.pairs) for family in families} or {1}
    together = f" for {format_range(sizes)} comparisons" if max(sizes) > 1 else ""
    scale = "normalised scores" if findings.scopes[0] == OVERALL else "mean returns"
    return (
        f"Differences are of {scale}, with 95% intervals (Welch). Real: significant in a permutation test of the runs, "
        f"p at most {LEVEL:g} after Holm's correction{together}. Not shown: not significant, which does not mean that "
        "there is no difference. The tests account for training seeds only: all runs on an environment are evaluated on "
        f"the same episodes{_episodes(findings)}."
    )


def _episodes(findings: Findings) -> str:
    """Return " (20 per run)" if all environments have 20 evaluation episodes; "" if numbers differ or are unknown."""
    counts = {budget.get("eval_episodes") for budget in findings.comparison.budgets.values()}
    count = counts.pop() if len(counts) == 1 else None
    return f" ({count:g} per run)" if count else ""


def _first_only_remark(findings: Findings, families: Sequence[ComparisonFamily]) -> list[str]:
    """Explain that other pairs were not compared, where all models are compared with the first only."""
    found = [family for family in families if family.against and len(family.pairs) > 1]
    if not found:
        return []
    where = f" on {join_words(family.scope for family in found)}" if len(found) < len(families) else ""
    return [
        "With so few seeds, no difference could be significant after correction for all pairs. So each model is compared "
        f"only with the first, {findings.labels[found[0].against]}{where}."
    ]


def _cautions(findings: Findings) -> tuple[Caution, ...]:
    found, few, cautions = findings.comparison, statistics.FEW, []
    seeds, cells = len(found.seeds), len(found.methods) * len(found.envs)
    if seeds < few:
        title = f"Only {seeds} seed{'s' if seeds != 1 else ''}: fewer than {few}"
        text = "Results often vary more between seeds than between methods. Treat these numbers as preliminary."
        cautions.append(Caution(title, text))
    for env in found.envs:
        scores = np.concatenate([finite_scores(found, method.key, env) for method in main_methods(found.methods)])
        if len(scores) > 1 and np.ptp(scores) == 0:
            text = "This environment does not separate the methods. A larger budget or more episodes may."
            cautions.append(Caution(f"All runs score the same on {env}", text))
    cautions += _unlearned(findings)
    few_starts = [
        f"{env} ({n:g})" for env, budget in found.budgets.items() if (n := budget.get("eval_episodes", 10)) < 10
    ]
    if few_starts:
        text = "A difference that is real on these episodes may not hold on others. Set --eval.final-episodes for more."
        cautions.append(Caution(f"Few evaluation episodes: {join_words(few_starts)}", text))
    counts = {(m.key, env): len(finite_scores(found, m.key, env)) for m in found.methods for env in found.envs}
    short = [f"{findings.labels[key]} on {env} ({n} of {seeds})" for (key, env), n in counts.items() if n < seeds]
    if short:
        which = join_words(short[:8]) if len(short) <= 8 else "see below"
        title = f"Seeds failed or are missing in {len(short)} of {cells} cells"
        cautions.append(
            Caution(title, f"Numbers include only the seeds that finished, which may be too optimistic: {which}.")
        )
    return tuple(cautions)


def _unlearned(findings: Findings) -> list[Caution]:
    """Warn of environments on which no model's mean return is above that of random actions."""
    found, cautions = findings.comparison, []
    chance = random_actions(found.methods)
    models = [method for method in found.methods if method.kind == "model"]
    for env in found.envs:
        means = {m.key: one.estimate for m in models if (one := findings.returns.get((m.key, env)))}
        random = findings.returns.get((chance, env))
        if not means or random is None or max(means.values()) > random.estimate:
            continue
        best, places = max(means, key=means.__getitem__), findings.places(env)
        updates = [float(t.updates) for m in models for t in found.of(m.key, env) if t.status == "finished"]
        text = (
            f"The best mean return of a model is {format_number(means[best], places)} ({findings.labels[best]}), that of "
            f"random actions {format_number(random.estimate, places)}. After {format_range(updates)} updates nothing useful "
            "was learned, so differences between the models say nothing of their quality. Train for more steps."
        )
        cautions.append(Caution(f"No model beats random actions on {env}", text))
    return cautions


def _scope_remarks(findings: Findings) -> list[str]:
    """Explain which methods or environments no overall result covers."""
    found = findings.comparison
    if OVERALL in findings.scopes:
        absent = [method.key for method in found.methods if method.key not in findings.aggregates]
        return (
            [
                "Not compared over all environments, because no run finished on at least one: "
                f"{_join_labels(findings, absent)}."
            ]
            if absent
            else []
        )
    if len(found.envs) > 1:
        lacking = join_words(env for env in found.envs if env not in findings.referenced)
        return [f"Each environment is compared separately, because there are no reference scores for {lacking}."]
    return []
