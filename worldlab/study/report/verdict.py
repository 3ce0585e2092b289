"""The result in plain words: which difference is real and which is not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from worldlab.study import statistics
from worldlab.study.report.contests import LEVEL, OVERALL, Contest, Pair, contestants
from worldlab.study.report.findings import Findings, usable
from worldlab.study.report.formats import ends, listed, number, places_for, probability, span

SHOWN = 12
"""Most sentences on single comparisons; the table of comparisons has all."""


@dataclass(frozen=True)
class Sentence:
    """tag: the verdict in a word or two. facts: n and p. real: whether it is a difference that chance does not explain."""

    tag: str
    text: str
    facts: str
    real: bool


@dataclass(frozen=True)
class Caution:
    """What a reader must know before the numbers."""

    title: str
    text: str


@dataclass(frozen=True)
class Conclusion:
    """lead: one paragraph. remarks: how it was judged, and what could not be."""

    lead: str
    sentences: tuple[Sentence, ...]
    cautions: tuple[Caution, ...]
    remarks: tuple[str, ...]


def conclude(findings: Findings) -> Conclusion:
    """Say what was found, with n."""
    cautions = _cautions(findings)
    if not findings.returns:
        return Conclusion(
            "No trial has a result, so there is nothing to compare. Why, is listed below.", (), cautions, ()
        )
    contests = [contest for scope in findings.scopes if (contest := findings.rivals(scope))]
    lead = " ".join(_lead(findings, contest) for contest in contests) or _alone(findings)
    pairs = [sentence for contest in contests for sentence in _pairs(findings, contest)]
    baselines = [sentence for scope in findings.scopes for sentence in _baselines(findings, scope)]
    remarks = [_how(findings, contests)] if pairs or baselines else []
    if len(pairs) > SHOWN:
        remarks.append(f"{len(pairs) - SHOWN} more comparisons are in the table of all comparisons.")
    remarks += [*_not_compared(findings, contests), *_left_out(findings)]
    return Conclusion(lead, (*pairs[:SHOWN], *baselines), cautions, tuple(remarks))


def _lead(findings: Findings, contest: Contest) -> str:
    """Who is best for real, or why nobody is."""
    pairs = contest.pairs
    where = f"On {contest.scope}" if contest.scope else f"Over {len(findings.referenced)} environments"
    if all(pair.difference.verdict == "too few seeds" for pair in pairs):
        keys = [key for key in findings.labels if any(key in (pair.x, pair.y) for pair in pairs)]
        what = f"{_named(findings, keys)} apart: with {_runs(pairs)} not even scores that never overlap would do"
        return f"{where}, these runs cannot tell {what}."
    if contest.against:
        return f"{where} ({_runs(pairs)}), {_groups(findings, pairs, contest.against)}."
    best = _best(findings, contest)
    others = [key for key in findings.labels if key != best and any(key in (pair.x, pair.y) for pair in pairs)]
    open_ = [key for key in others if not any(_winner(pair) == best and _loser(pair) == key for pair in pairs)]
    name, whom = findings.labels[best], _named(findings, open_)
    if not open_:
        beaten = f"each of the other {len(others)}" if len(others) > 1 else _named(findings, others)
        lead = f"{name} is better than {beaten}, and the difference is real"
    elif len(open_) < len(others):
        lead = f"{name} scores highest, but its lead over {whom} may be chance; that over the others is real"
    else:
        lead = f"{name} scores highest, but its lead over {whom} may be chance"
    return " ".join(
        [f"{where} ({_runs(pairs)}), {lead}.", *_rest(findings, [p for p in pairs if best not in (p.x, p.y)])]
    )


def _rest(findings: Findings, pairs: Sequence[Pair]) -> list[str]:
    """What is real among those that are not the best."""
    losers: dict[str, list[str]] = {}
    for pair in pairs:
        if winner := _winner(pair):
            losers.setdefault(_loser(pair), []).append(winner)
    real, chance = sum(map(len, losers.values())), sum(_winner(pair) is None for pair in pairs)
    said = [f"{_named(findings, over)} {_is(over)} better than {findings.labels[key]}" for key, over in losers.items()]
    if not pairs:
        return []
    if not real:
        return [f"Between the others no difference is more than chance explains ({len(pairs)} compared)."]
    if len(said) > 3:
        return [f"Among the others, {real} of {len(pairs)} differences are real."]
    may_be = f"; {chance} more difference{'s' if chance > 1 else ''} may be chance" if chance else ""
    return [f"Among the others, {'; '.join(said)}{may_be}."]


def _pairs(findings: Findings, contest: Contest) -> list[Sentence]:
    """A sentence on each comparison: those with the best first, then the real ones, the largest first."""
    best = contest.against or _best(findings, contest)

    def order(pair: Pair) -> tuple[bool, bool, float]:
        return best not in (pair.x, pair.y), _winner(pair) is None, -abs(pair.difference.estimate.estimate)

    where = f" on {contest.scope}" if contest.scope and len(findings.scopes) > 1 else ""
    return [_pair(findings, pair, findings.places(contest.scope), where) for pair in sorted(contest.pairs, key=order)]


def _pair(findings: Findings, pair: Pair, places: int, where: str) -> Sentence:
    one, x, y = pair.difference, findings.labels[pair.x], findings.labels[pair.y]
    low, high, size = one.estimate.low, one.estimate.high, one.estimate.estimate
    if size < 0:
        x, y, low, high, size = y, x, -high, -low, -size
    places = places_for(size, places) if _winner(pair) else places
    by = " ".join(filter(None, (number(size, places), ends(low, high, places))))
    facts = f"n = {one.estimate.runs}, p {_equals(one.p_value)}"
    if _winner(pair):
        return Sentence("real", f"{x} is better than {y}{where}, by {by}", facts, True)
    if one.verdict == "too few seeds":
        return Sentence("too few seeds", f"{x} is ahead of {y}{where} by {by}, but {one.reason}", facts, False)
    if _same(findings, pair):
        return Sentence("not shown", f"{x} and {y} have the very same scores{where}", facts, False)
    return Sentence("not shown", f"{x} is ahead of {y}{where} by {by}, which may be chance", facts, False)


def _baselines(findings: Findings, scope: str) -> list[Sentence]:
    """One sentence a baseline: which models are better than it."""
    said = []
    where = f"On {scope}, " if scope and len(findings.scopes) > 1 else ""
    for key in (method.key for method in findings.comparison.methods if method.kind == "baseline"):
        contest = findings.contest(scope, key, "model")
        if contest:
            verdicts = [pair.difference.verdict for pair in contest.pairs]
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
            text = _groups(findings, contest.pairs, key)
            if better == len(verdicts) > 2:
                text = f"{'all' if where else 'All'} {better} models are better than {findings.labels[key]}"
            said.append(Sentence(tag, f"{where}{text}", _runs(contest.pairs), tag == "real"))
    return said


def _groups(findings: Findings, pairs: Sequence[Pair], against: str) -> str:
    """ "a and b are better than c; d cannot be told from it"."""
    said, name = [], findings.labels[against]
    for verdicts, what in (
        ({"better"}, "{} better than {}"),
        ({"worse"}, "{} worse than {}"),
        ({"indistinguishable", "too few seeds"}, "cannot be told from {1}"),
    ):
        if keys := [pair.x for pair in pairs if pair.difference.verdict in verdicts]:
            said.append(f"{_named(findings, keys)} {what.format(_is(keys), 'it' if said else name)}")
    return "; ".join(said)


def _alone(findings: Findings) -> str:
    found = findings.comparison
    there = [method for method in found.methods if any((method.key, env) in findings.returns for env in found.envs)]
    keys = [method.key for method in contestants(there)]
    names = _named(findings, keys)
    if len(keys) > 1:
        return f"{names} have results, but on no environment in common: they cannot be compared."
    return f"{names} is the only one of its kind with results: there is no other to compare it with."


def _best(findings: Findings, contest: Contest) -> str:
    """Whose mean is highest."""

    def mean(key: str) -> float:
        if contest.scope == OVERALL:
            return findings.aggregates[key]["mean"].estimate
        return findings.returns[key, contest.scope].estimate

    return max(dict.fromkeys(key for pair in contest.pairs for key in (pair.x, pair.y)), key=mean)


def _winner(pair: Pair) -> str | None:
    return {"better": pair.x, "worse": pair.y}.get(pair.difference.verdict)


def _loser(pair: Pair) -> str:
    return pair.y if _winner(pair) == pair.x else pair.x


def _same(findings: Findings, pair: Pair) -> bool:
    found = findings.comparison
    return all(np.array_equal(usable(found, pair.x, env), usable(found, pair.y, env)) for env in found.envs)


def _named(findings: Findings, keys: Iterable[str]) -> str:
    return listed(findings.labels[key] for key in keys)


def _is(things: Sequence[object]) -> str:
    return "is" if len(things) == 1 else "are"


def _runs(pairs: Sequence[Pair]) -> str:
    """ "n = 5 seeds each", from the fewest of any method on any environment."""
    runs = {pair.difference.estimate.runs for pair in pairs}
    return f"n = {span(runs)} seed{'s' if max(runs) > 1 else ''} each"


def _equals(p_value: float) -> str:
    text = probability(p_value)
    return text if text.startswith("<") else f"= {text}"


def _how(findings: Findings, contests: Sequence[Contest]) -> str:
    sizes = {len(contest.pairs) for contest in contests} or {1}
    together = f" for {span(sizes)} comparisons made together" if max(sizes) > 1 else ""
    scale = "normalised scores" if findings.scopes[0] == OVERALL else "mean returns"
    return (
        f"Differences are of {scale}, with 95% intervals (Welch). Real means that a permutation test of the runs gives p of at most "
        f"{LEVEL:g}, corrected by Holm's method{together}. Not shown does not mean that there is none. All of this is over "
        f"training seeds: the runs of an environment are judged on the same episodes{_episodes(findings)}."
    )


def _episodes(findings: Findings) -> str:
    """ ", 20 of them", if all environments have as many."""
    counts = {budget.get("eval_episodes") for budget in findings.comparison.budgets.values()}
    count = counts.pop() if len(counts) == 1 else None
    return f", {count:g} of them" if count else ""


def _not_compared(findings: Findings, contests: Sequence[Contest]) -> list[str]:
    """Which pairs nobody looked at, where everything is held against one method."""
    found = [contest for contest in contests if contest.against and len(contest.pairs) > 1]
    if not found:
        return []
    where = f" on {listed(contest.scope for contest in found)}" if len(found) < len(contests) else ""
    return [
        f"So few seeds could not tell that many pairs apart: all are held against the first, "
        f"{findings.labels[found[0].against]}{where}, and other pairs are not compared."
    ]


def _cautions(findings: Findings) -> tuple[Caution, ...]:
    found, few, cautions = findings.comparison, statistics.FEW, []
    seeds, cells = len(found.seeds), len(found.methods) * len(found.envs)
    if seeds < few:
        title = f"Only {seeds} seed{'s' if seeds != 1 else ''}: fewer than {few}"
        text = "Results vary from seed to seed, often more than methods differ. Take every number here as a hint, not as a finding."
        cautions.append(Caution(title, text))
    for env in found.envs:
        scores = np.concatenate([usable(found, method.key, env) for method in contestants(found.methods)])
        if len(scores) > 1 and np.ptp(scores) == 0:
            text = "It tells nothing of how they differ: a larger budget, or more episodes, may."
            cautions.append(Caution(f"All runs score the same on {env}", text))
    few_starts = [
        f"{env} ({n:g})" for env, budget in found.budgets.items() if (n := budget.get("eval_episodes", 10)) < 10
    ]
    if few_starts:
        text = "A difference that is real on these episodes may be none on others. --eval.final-episodes asks for more."
        cautions.append(Caution(f"Judged on few episodes: {listed(few_starts)}", text))
    counts = {(m.key, env): len(usable(found, m.key, env)) for m in found.methods for env in found.envs}
    short = [f"{findings.labels[key]} on {env} ({n} of {seeds})" for (key, env), n in counts.items() if n < seeds]
    if short:
        which = listed(short[:8]) if len(short) <= 8 else "see below"
        title = f"Seeds failed or are missing in {len(short)} of {cells} cells"
        cautions.append(Caution(title, f"Numbers are those of the seeds that finished, which may flatter: {which}."))
    return tuple(cautions)


def _left_out(findings: Findings) -> list[str]:
    """What no verdict over all environments covers, and why."""
    found = findings.comparison
    if OVERALL in findings.scopes:
        absent = [method.key for method in found.methods if method.key not in findings.aggregates]
        return (
            [f"Not judged over all environments, as no run finished on one: {_named(findings, absent)}."]
            if absent
            else []
        )
    if len(found.envs) > 1:
        lacking = listed(env for env in found.envs if env not in findings.referenced)
        return [f"Each environment is judged by itself: there are no references for {lacking}."]
    return []
