"""The quantities of each group: name, title, unit, which direction is better, and how each is estimated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from worldlab.study.results import Quantity

HORIZONS = (1, 5, 15)
"""Imagined steps after which states are scored; dreamt images are rendered after the last one."""
WEIGHTS = (16, 64)
"""Importance samples inside the logarithm of the bound on bits, beside 1."""
TEMPERATURES = (0.5, 1.0, 1.5)
"""Temperatures of the prior at which dreamt and real returns are compared."""
BATCHES = (1, 64)
"""Batch sizes for the timings of drawing images and imagining steps."""

Row = tuple[str, str, str, Literal["higher", "lower"] | None, str]
"""Name after the slash, title, unit, better, estimator."""
_INPUTS = {"": "z", "_features": "memory and z"}
_PROBES = {"linear": "a ridge regression", "mlp": "an MLP with two hidden layers"}


def _probe() -> Iterator[Row]:
    test = "on test episodes, mean over factors of the true state, each clipped at -1"
    for kind, probe in _PROBES.items():
        for suffix, inputs in _INPUTS.items():
            name, title = f"{kind}_r2{suffix}", f"State probed from {inputs}, {kind}"
            untrained = f"the same R2 for the same model with its initial weights, {test}"
            normalised = (
                "R2 on the scale from the untrained model (0) to the supervised network (1); undefined unless these "
                "differ by two standard errors"
            )
            yield name, title, "R2", "higher", f"R2 of {probe} from the most likely {inputs}, {test}"
            yield f"{name}_random", f"{title}, untrained", "R2", None, untrained
            yield f"{kind}_normalised{suffix}", f"{title}, normalised", "", "higher", normalised
    supervised = f"R2 of a network trained to predict the state from the last frames and actions, {test}"
    yield "supervised_r2", "State predicted by a supervised network", "R2", None, supervised


def _distractor() -> Iterator[Row]:
    for model_suffix, title, better in (("", "", "lower"), ("_random", ", untrained", None)):
        for suffix, inputs in _INPUTS.items():
            for kind, probe in _PROBES.items():
                how = (
                    f"R2 of {probe} from the most likely {inputs} to the factors of env.distractors, each clipped at "
                    "-1, on test episodes"
                )
                name = f"noise_r2{suffix}{model_suffix}" if kind == "linear" else f"noise_mlp_r2{suffix}{model_suffix}"
                yield name, f"Noise probed from {inputs}, {kind}{title}", "R2", better, how  # type: ignore[misc]
    supervised = (
        "R2 of a network trained to predict the factors of env.distractors from the last frames, on test episodes"
    )
    yield "supervised_r2", "Noise predicted by a supervised network", "R2", None, supervised


def _energy() -> Iterator[Row]:
    space = "in std of the true state, predicted from dreamt features by a ridge regression plus its residuals"
    baseline = "the same score for a baseline without a model, which predicts"
    for k in HORIZONS:
        ahead = f"{k} step{'s' if k > 1 else ''} ahead"
        yield f"score_{k}", f"Energy score {ahead}", "std", "lower", f"unbiased energy score of dreams, {space}"
        yield f"crps_{k}", f"CRPS {ahead}", "std", "lower", f"unbiased CRPS of dreams, mean over factors, {space}"
        inside = f"share of factors inside the central 90% interval of the dreams (0.9 is calibrated), {space}"
        yield f"inside90_{k}", f"Inside the 90% interval {ahead}", "", None, inside
        persistence = f"{baseline} the current true state"
        yield f"persistence_{k}", f"Energy score of persistence {ahead}", "std", None, persistence
        yield (
            f"marginal_{k}",
            f"Energy score of the marginal {ahead}",
            "std",
            None,
            f"{baseline} random recorded states",
        )


def _latent() -> Iterator[Row]:
    rank = "exponential of the entropy of the normalised singular values of the most likely z on test frames"
    yield "effective_rank", "Effective rank of z", "", None, rank
    active = "entries of the most likely z whose variance over frames is above 0.01"
    yield "active", "Active dimensions of z", "", None, active
    yield "dims", "Dimensions of z", "", None, "width of z; for codes, groups times classes"
    ratio = "width of z divided by the number of entries of the observation"
    yield "ratio", "Dimensions of z per dimension observed", "", None, ratio
    kl = "KL(q || p) per frame on test episodes, exact or from one sample"
    yield "kl", "Information in z beyond the prior", "nats", None, kl


def _bits() -> Iterator[Row]:
    unit = "bits/dim"
    elbo = "the model's bound on -log2 P(frames | actions) per frame, on test frames; mean over samples"
    yield "bound", "Bits per dimension, world model", unit, "lower", elbo
    distortion = "mean of -log2 P(o | h, z) under q: the bound without the KL"
    yield "distortion", "Bits per dimension given z", unit, None, distortion
    for k in WEIGHTS:
        weighted = (
            f"importance-weighted bound on -log2 P(o | h) of test frames given the memory, {k} samples inside the log"
        )
        yield f"iw{k}", f"Bits per dimension given the past, {k} samples", unit, "lower", weighted
    gap = "the bound with one sample inside the log minus that with the most"
    yield "gap", "Looseness of the bound", unit, "lower", gap


def _sharpness() -> Iterator[Row]:
    detail = (
        "energy of the 4-neighbour Laplacian of rendered images over that of real ones: 1 is right, below is blur, "
        "above is noise; rendered as a sample where the decoder's distribution models the image itself, as the mode "
        "where it is noise around an image"
    )
    kid = (
        "unbiased MMD^2 with the cubic kernel in the features of the fixed network worldlab-random-conv-1, over pairs "
        "of different episodes; error by jackknife over episodes"
    )
    for name, what in (("posterior", "from posteriors"), ("dream", f"after {HORIZONS[-1]} dreamt steps")):
        yield f"ratio_{name}", f"Detail of images {what}", "", None, detail
        yield f"kid_{name}", f"KID of images {what}", "", "lower", kid
    half = "half-way between the features of two frames of different episodes"
    yield "kid_middle", "KID of images half-way between two", "", "lower", f"{kid}; of images rendered {half}"
    between = f"kid_middle minus kid_posterior: the cost of being {half}, beyond that of being rendered"
    yield "kid_between", "KID cost of interpolation", "", "lower", between


def _diversity() -> Iterator[Row]:
    space = f"of images after {HORIZONS[-1]} dreamt steps, in the features of worldlab-random-conv-1"
    radius = (
        "the neighbourhood of a real image extends to its 5th nearest real image in another episode, and only dreams "
        "started in other episodes count"
    )
    density = f"number of real neighbourhoods that contain a dream, over 5 (1 for real images), {space}; {radius}"
    yield "density", "Density of dreamt images", "", "higher", density
    coverage = f"share of real images with a dream in their neighbourhood, {space}; {radius}"
    yield "coverage", "Coverage of real images by dreams", "", "higher", coverage
    copies = (
        f"distance to the nearest training image over that to the nearest of as many unseen images, {space}: below 1 "
        "dreams repeat training images"
    )
    yield "copies", "Novelty of dreamt images", "", None, copies


def _generalisation() -> Iterator[Row]:
    error = "mean absolute error of images rendered from sampled posteriors"
    yield "error", "Error of rendered images", "grey levels", "lower", f"{error}, test frames"
    gap = "test frames minus frames of the run's first episodes"
    yield "error_gap", "Generalisation gap of the image error", "grey levels", "lower", f"{error}, {gap}"
    yield "bits_gap", "Generalisation gap of the bits", "bits/dim", "lower", f"-log2 P(o | h, z) under q, {gap}"


def _dci() -> Iterator[Row]:
    how = "from the weights of a ridge regression of standardised factors on the standardised most likely z"
    each = "1 - normalised entropy of an entry's weights over factors, mean weighted by importance"
    yield "disentanglement", "Disentanglement: one factor per entry of z", "", "higher", f"{each}, {how}"
    each = "1 - normalised entropy of a factor's weights over entries, mean over factors"
    yield "completeness", "Completeness: one entry of z per factor", "", "higher", f"{each}, {how}"


def _coverage() -> Iterator[Row]:
    distance = (
        "total variation between dreamt and true next states, mean over states and actions with several outcomes; "
        "images that show no state count as wrong; a perfect model gets coverage/by_chance"
    )
    yield "total_variation", "Distance to the true probabilities", "", "lower", distance
    distinct = "share of the possible next states that receive over 1% of the dreams"
    yield "distinct", "Next states reached", "", "higher", distinct
    yield "nowhere", "Dreams of no state", "", "lower", "share of dreams whose image shows no state"
    by_chance = "expected total variation of as many samples of the true probabilities"
    yield "by_chance", "Distance expected by chance", "", None, by_chance


def _calls() -> Iterator[Row]:
    counted = "sequential matrix products, convolutions and attentions, counted as torch's functions are called"
    yield "frame", "Network calls per image", "calls", "lower", f"{counted}, in one sample from the decoder"
    step = f"{counted}, in one prior step as the model imagines"
    yield "step", "Network calls per imagined step", "calls", "lower", step
    naive = f"{counted}, in one prior step that recomputes its whole past"
    yield "naive_step", "Network calls per step without a cache", "calls", None, naive


def _gap() -> Iterator[Row]:
    how = "mean undiscounted return of the run's agent in the dream minus that in reality, from the same starts"
    for t in TEMPERATURES:
        title = f"Dream minus reality, temperature {t:g}"
        yield f"difference_{t:g}", title, "return", None, f"{how}; temperature of the prior {t:g}"
    yield "real", "Real return over the same decisions", "return", None, "mean return in reality, for scale"


def _speed() -> Iterator[Row]:
    clock = "median of wall-clock timings after a warm-up"
    for n in BATCHES:
        yield f"frames_{n}", f"Images drawn, batch of {n}", "frames/s", "higher", f"samples from the decoder; {clock}"
        steps = f"prior steps without images; {clock}"
        yield f"steps_{n}", f"Steps imagined, batch of {n}", "steps/s", "higher", steps
        naive = f"prior steps that recompute their whole past; {clock}"
        yield f"naive_steps_{n}", f"Steps imagined without a cache, batch of {n}", "steps/s", None, naive
    simulator = f"includes repeated actions and rendering, excludes resets; {clock}"
    yield "simulator", "Decisions of the simulator", "steps/s", None, simulator
    ratio = f"steps imagined in a batch of {BATCHES[-1]} over decisions of the simulator"
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
"""Quantities by group."""
