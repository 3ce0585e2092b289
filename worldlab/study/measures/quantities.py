"""The quantities of each measure: what they are called, in which unit they come, which way is better, how they come about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from worldlab.study.results import Quantity

HORIZONS = (1, 5, 15)
"""Steps into a dream at which its states are judged; the last one also for its pictures."""
WEIGHTS = (16, 64)
"""Importance weights inside the logarithm of the bound on bits, beside 1."""
TEMPERATURES = (0.5, 1.0, 1.5)
"""Of the prior, where the dream is compared with reality."""
BATCHES = (1, 64)
"""Pictures drawn, or steps imagined, at once where they are timed."""

Row = tuple[str, str, str, Literal["higher", "lower"] | None, str]
"""name after the slash, title, unit, better, estimator."""
_READ = {"": "z", "_features": "memory and z"}
_KINDS = {"linear": "a ridge regression", "mlp": "a network of two hidden layers"}


def _probe() -> Iterator[Row]:
    judged = "on held-out episodes, mean over factors of the true state, each -1 at least"
    for kind, how in _KINDS.items():
        for ending, what in _READ.items():
            name, title = f"{kind}_r2{ending}", f"State read from {what}, {kind}"
            untrained = f"the same R2 of the same model with its first weights, {judged}"
            between = (
                "its R2 on the scale from the untrained model's (0) to the supervised network's (1); undefined unless these "
                "are two standard errors apart"
            )
            yield name, title, "R2", "higher", f"R2 of {how} from noiseless {what} {judged}"
            yield f"{name}_random", f"{title}, untrained", "R2", None, untrained
            yield f"{kind}_normalised{ending}", f"{title}, normalised", "", "higher", between
    taught = f"R2 of a network taught the state from the last frames and actions, {judged}"
    yield "supervised_r2", "State read by a supervised network", "R2", None, taught


def _distractor() -> Iterator[Row]:
    for whose, title, better in (("", "", "lower"), ("_random", ", untrained", None)):
        for ending, what in _READ.items():
            for kind, how in _KINDS.items():
                how = f"R2 of {how} from noiseless {what} to the factors of env.distractors, each -1 at least, on held-out episodes"
                name = f"noise_r2{ending}{whose}" if kind == "linear" else f"noise_mlp_r2{ending}{whose}"
                yield name, f"Noise read from {what}, {kind}{title}", "R2", better, how  # type: ignore[misc]
    taught = "R2 of a network taught the factors of env.distractors from the last frames, on held-out episodes"
    yield "supervised_r2", "Noise read by a supervised network", "R2", None, taught


def _energy() -> Iterator[Row]:
    space = "in standard deviations of the true state, read from dreamt features by a ridge together with its residuals"
    baseline = "the same score, no model at all: a forecast of"
    for k in HORIZONS:
        ahead = f"{k} step{'s' if k > 1 else ''} ahead"
        yield f"score_{k}", f"Energy score {ahead}", "std", "lower", f"unbiased energy score of dreams, {space}"
        yield f"crps_{k}", f"CRPS {ahead}", "std", "lower", f"unbiased CRPS of dreams, mean over factors, {space}"
        inside = f"share of factors within the central 90% of the dreams (right is 0.9), {space}"
        yield f"inside90_{k}", f"Inside the 90% interval {ahead}", "", None, inside
        yield f"persistence_{k}", f"Energy score of no change {ahead}", "std", None, f"{baseline} the true state now"
        yield f"marginal_{k}", f"Energy score of any state {ahead}", "std", None, f"{baseline} states drawn at random"


def _latent() -> Iterator[Row]:
    rank = "exponential of the entropy of the normalised singular values of noiseless z on held-out frames"
    yield "effective_rank", "Effective rank of z", "", None, rank
    yield (
        "active",
        "Active dimensions of z",
        "",
        None,
        "entries of noiseless z whose variance over frames is above 0.01",
    )
    yield "dims", "Dimensions of z", "", None, "width of z; for codes, groups times classes"
    yield (
        "ratio",
        "Dimensions of z over a frame's",
        "",
        None,
        "width of z over the number of entries of the observation",
    )
    yield (
        "kl",
        "Nats of z beyond the prior",
        "nats",
        None,
        "KL(q || p) a frame on held-out episodes, exact or by one draw",
    )


def _bits() -> Iterator[Row]:
    unit = "bits/dim"
    elbo = "the model's bound on -log2 P(frames | actions), a frame's share, on held-out frames; mean over draws"
    yield "bound", "Bits per dimension, world model", unit, "lower", elbo
    yield (
        "distortion",
        "Bits per dimension given z",
        unit,
        None,
        "mean of -log2 P(o | h, z) under q: the bound without KL",
    )
    for k in WEIGHTS:
        weighted = (
            f"importance-weighted bound on -log2 P(o | h) of held-out frames given the memory, {k} draws in the log"
        )
        yield f"iw{k}", f"Bits per dimension given the past, {k} weights", unit, "lower", weighted
    yield "gap", "Slack of the bound", unit, "lower", "the bound with one draw in the log minus that with the most"


def _sharpness() -> Iterator[Row]:
    detail = (
        "energy of the 4-neighbour Laplacian, drawn over real pictures: right is 1, below is blur, above is noise; drawn: sampled "
        "where the decoder's density makes the picture, the mode where it is noise around one"
    )
    kid = (
        "unbiased MMD^2 of the cubic kernel in the features of the fixed network worldlab-random-conv-1, over pairs of "
        "different episodes; error by jackknife over episodes"
    )
    for name, what in (("posterior", "from posteriors"), ("dream", f"after {HORIZONS[-1]} dreamt steps")):
        yield f"ratio_{name}", f"Detail of pictures {what}", "", None, detail
        yield f"kid_{name}", f"KID of pictures {what}", "", "lower", kid
    half = "half-way between the features of two frames of different episodes"
    yield "kid_middle", "KID of pictures half-way between two", "", "lower", f"{kid}; of pictures drawn {half}"
    more = f"kid_middle minus kid_posterior: what being {half} costs beyond being drawn"
    yield "kid_between", "KID that lying between costs", "", "lower", more


def _diversity() -> Iterator[Row]:
    space = f"of pictures after {HORIZONS[-1]} dreamt steps, in the features of worldlab-random-conv-1"
    ball = "a real picture's surroundings reach to its 5th nearest real one of another episode, and count dreams begun in others"
    yield (
        "density",
        "Density of dreamt pictures",
        "",
        "higher",
        f"how many real surroundings a dream is in, by 5 (as real: 1), {space}; {ball}",
    )
    covered = f"share of real pictures that have a dream in their surroundings, {space}; {ball}"
    yield "coverage", "Real pictures that were dreamt", "", "higher", covered
    new = f"distance to the nearest frame trained on, over that to the nearest of as many never seen, {space}: below 1 dreams repeat"
    yield "copies", "Newness of dreamt pictures", "", None, new


def _generalisation() -> Iterator[Row]:
    error = "mean absolute error of pictures drawn from sampled posteriors"
    yield "error", "Error of drawn pictures", "grey levels", "lower", f"{error}, held-out frames"
    gap = "held-out frames minus frames of the run's first episodes"
    yield "error_gap", "Error learned by heart", "grey levels", "lower", f"{error}, {gap}"
    yield "bits_gap", "Bits learned by heart", "bits/dim", "lower", f"-log2 P(o | h, z) under q, {gap}"


def _dci() -> Iterator[Row]:
    how = "from the weights of a ridge regression of standardised factors on standardised noiseless z"
    each = "1 - normalised entropy of an entry's weights over factors, mean by weight"
    yield "disentanglement", "One factor an entry of z", "", "higher", f"{each}, {how}"
    each = "1 - normalised entropy of a factor's weights over entries, mean over factors"
    yield "completeness", "One entry of z a factor", "", "higher", f"{each}, {how}"


def _coverage() -> Iterator[Row]:
    distance = (
        "total variation between dreamt and true next states, mean over states and actions with several outcomes; pictures "
        "that show no state count as wrong; chance alone gives coverage/by_chance"
    )
    yield "total_variation", "Distance to the true odds", "", "lower", distance
    yield "distinct", "Next states reached", "", "higher", "share of the true next states with over 1% of the dreams"
    yield "nowhere", "Dreams of no state", "", "lower", "share of dreams whose picture shows no state"
    yield (
        "by_chance",
        "Distance that chance explains",
        "",
        None,
        "total variation expected of as many draws of the odds",
    )


def _calls() -> Iterator[Row]:
    counted = "matrix products, convolutions and attentions, one after another, counted as they are called"
    yield "frame", "Network calls a frame drawn", "calls", "lower", f"{counted}, of one sample of the decoder"
    yield (
        "step",
        "Network calls a step imagined",
        "calls",
        "lower",
        f"{counted}, of one prior step as the model takes it",
    )
    again = f"{counted}, of one prior step that goes through its whole past again"
    yield "naive_step", "Network calls a step, nothing kept", "calls", None, again


def _gap() -> Iterator[Row]:
    how = "mean difference of undiscounted returns of the run's agent in the dream and in reality, from the same starts"
    for t in TEMPERATURES:
        title = f"Dream minus reality, temperature {t:g}"
        yield f"difference_{t:g}", title, "return", None, f"{how}; temperature of the prior {t:g}"
    yield "real", "Return over the same decisions", "return", None, "what the agent got in reality, for scale"


def _speed() -> Iterator[Row]:
    clock = "median of timings by wall clock after a warm-up"
    for n in BATCHES:
        yield f"frames_{n}", f"Frames drawn, {n} at once", "frames/s", "higher", f"samples of the decoder; {clock}"
        yield f"steps_{n}", f"Steps imagined, {n} at once", "steps/s", "higher", f"prior steps, nothing drawn; {clock}"
        naive = f"prior steps that go through their whole past again; {clock}"
        yield f"naive_steps_{n}", f"Steps imagined, nothing kept, {n} at once", "steps/s", None, naive
    simulator = f"repeated actions and drawing included, resets not; {clock}"
    yield "simulator", "Decisions of the simulator", "steps/s", None, simulator
    ratio = f"steps imagined {BATCHES[-1]} at once over decisions of the simulator"
    yield "ratio", "Imagination over simulator", "", "higher", ratio


def _named(group: str, rows: Iterator[Row]) -> tuple[Quantity, ...]:
    return tuple(Quantity(f"{group}/{row[0]}", *row[1:]) for row in rows)


QUANTITIES: dict[str, tuple[Quantity, ...]] = {
    name: _named(name, rows())
    for name, rows in {
        "probe": _probe,
        "dci": _dci,
        "distractor": _distractor,
        "latent": _latent,
        "energy": _energy,
        "bits": _bits,
        "sharpness": _sharpness,
        "diversity": _diversity,
        "generalisation": _generalisation,
        "coverage": _coverage,
        "calls": _calls,
        "gap": _gap,
        "speed": _speed,
    }.items()
}
"""By group."""
