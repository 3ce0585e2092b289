"""Comparisons whose outcomes are known by construction, and claims about them."""

from __future__ import annotations

from dataclasses import replace

from worldlab.study.results import Comparison, Measurement, Method, Quantity, Trial
from worldlab.study.roundup.claims import Claim, Prediction, Roundup, RoundupPart

SHARP = Quantity("toy/sharp", "Sharpness", "bits", "higher", "counted")
SPEED = Quantity("toy/speed", "Speed", "frames/s", "higher", "timed")
SEEDS = range(5)


def comparison(values, returns=None, failed=(), quantities=(SHARP, SPEED), seeds=SEEDS) -> Comparison:
    """Make a comparison. values: {method: {quantity: function of the seed, or the reason why it is undefined}}."""
    trials = []
    for label, of in values.items():
        for seed in seeds:
            measures = {
                name: Measurement(None, why=value) if isinstance(value, str) else Measurement(float(value(seed)))
                for name, value in of.items()
            }
            score = (returns or {}).get(label, lambda seed: 0.0)(seed)
            broken = (label, seed) in failed
            trials.append(
                Trial(
                    label, "Toy", seed, "failed" if broken else "finished", cause="it broke" if broken else "",
                    returns=() if broken else (score,), parameters=100, measures={} if broken else measures,
                )
            )  # fmt: skip
    methods = tuple(Method(label, label, "model") for label in values)
    budgets = {"Toy": {"env_steps": 10.0}}
    return Comparison(
        "toy", methods, ("Toy",), tuple(seeds), tuple(trials), quantities, budgets=budgets, about={"command": "c"}
    )


CLEAR = comparison(
    {
        "low": {"toy/sharp": lambda s: 1 + 0.01 * s, "toy/speed": lambda s: 10 + s},
        "high": {"toy/sharp": lambda s: 2 + 0.01 * s, "toy/speed": lambda s: 1000 + s},
        "same": {"toy/sharp": lambda s: 1.001 + 0.01 * s, "toy/speed": lambda s: 11 + s},
        "mute": {"toy/sharp": "it has no density", "toy/speed": lambda s: 0.0},
    }
)


def claim(*predictions: Prediction, quantity="toy/sharp", columns=()) -> Claim:
    return Claim(1, "one is sharper", "toy", quantity, predictions, columns=columns)


def prediction(x, relation, y, quantity="toy/sharp", **more) -> Prediction:
    return Prediction(x, relation, y, quantity, "toy", **more)


PARTS = (
    RoundupPart("toy", "A toy.", {"axes": {"env": "CartPole"}}),
    RoundupPart("other", "Another.", {"axes": {"env": "Pendulum"}}),
)
WRONG = claim(prediction("low", "above", "high"), prediction("mute", "above", "low"))
ROUNDUP = Roundup("Toys & <more>", PARTS, (claim(prediction("high", "above", "low")), replace(WRONG, number=2)))
