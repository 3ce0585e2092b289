"""Probes that predict standardised factors: ridge regression and a small MLP, selected on validation episodes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldlab.nn import mlp
from worldlab.study.measures.undefined import Undefined
from worldlab.training.adam import Adam

PENALTIES = (1e-5, 1e-3, 1e-1, 10.0)
"""Candidate ridge penalties per row, for inputs of variance 1; the validation episodes select one."""
MIN_STD = 1e-6
"""Relative std below which a value counts as constant: as an input it is rounding noise, as a target there is no
variance to explain."""
UNITS, LAYERS, BATCH, RATE, PATIENCE = 128, 2, 256, 1e-3, 10
"""Hyperparameters of the MLP: width, hidden layers, frames per update, Adam's learning rate, epochs without a better
validation error before training stops."""

Predictor = Callable[[Tensor], Tensor]
"""Maps inputs [N, F] to standardised targets float64 [N, K]."""


@dataclass(frozen=True)
class Standardiser:
    """Moments that standardise values. mean, std: float64 [K]; varies: bool [K], false for constant values."""

    mean: Tensor
    std: Tensor
    varies: Tensor

    @classmethod
    def fit(cls, values: Tensor) -> Standardiser:
        """Compute the moments of values [N, K]."""
        values = values.double()
        std = values.std(0)
        varies = std > MIN_STD * (1 + values.abs().amax(0))
        return cls(values.mean(0), torch.where(varies, std, 1.0), varies)

    def __call__(self, values: Tensor) -> Tensor:
        """Standardise values [N, K] to float64 [N, K]; constant ones become 0."""
        return (values.double() - self.mean) / self.std * self.varies


@dataclass(frozen=True)
class Examples:
    """Data that fits a predictor and data that selects it: inputs [N, F], standardised targets [N, K] each."""

    fit: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]


def fit_ridge(examples: Examples) -> Predictor:
    """Fit a ridge regression; the penalty with the smallest validation error is selected."""
    standardise = Standardiser.fit(examples.fit[0])
    x, y = _append_one(standardise(examples.fit[0])), examples.fit[1].double()
    gram, moment = x.mT @ x / len(x), x.mT @ y / len(x)
    penalty = torch.eye(len(gram), dtype=gram.dtype)
    penalty[-1, -1] = 0.0  # the intercept is not penalised
    held_out, target = _append_one(standardise(examples.validation[0])), examples.validation[1]
    solutions = [torch.linalg.solve(gram + amount * penalty, moment) for amount in PENALTIES]
    weight = min(solutions, key=lambda weight: float((held_out @ weight - target).square().mean()))
    return lambda inputs: _append_one(standardise(inputs)) @ weight


def fit_mlp(examples: Examples, epochs: int, generator: torch.Generator) -> Predictor:
    """Train an MLP with Adam on squared error; the weights with the smallest validation error are kept."""
    standardise = Standardiser.fit(examples.fit[0])
    x, y = standardise(examples.fit[0]).float(), examples.fit[1].float()
    held_out, target = standardise(examples.validation[0]).float(), examples.validation[1].float()
    net = build_seeded(generator, lambda: mlp(x.shape[1], UNITS, LAYERS, y.shape[1]))
    optimizer = Adam(net.parameters(), RATE)

    def train_epoch() -> float:
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            optimizer.zero_grad()
            (net(x[rows]) - y[rows]).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            return float((net(held_out) - target).square().mean())

    train_with_early_stopping(net, train_epoch, epochs, PATIENCE)
    return lambda inputs: _predict(net, standardise(inputs).float()).double()


def build_seeded(generator: torch.Generator, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a module whose initial weights depend on `generator` only; torch's global random state is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        return build()


def train_with_early_stopping(net: nn.Module, train_round: Callable[[], float], rounds: int, patience: int) -> None:
    """Call `train_round`, which trains and returns an error, up to `rounds` times; restore the weights with the
    smallest error."""
    with torch.enable_grad():
        best, weights, waited = float("inf"), copy.deepcopy(net.state_dict()), 0
        for _ in range(rounds):
            error = train_round()
            waited += 1
            if error < best:
                best, weights, waited = error, copy.deepcopy(net.state_dict()), 0
            if waited >= patience:
                break
    net.load_state_dict(weights)


@torch.no_grad()
def _predict(net: nn.Module, inputs: Tensor) -> Tensor:
    return net(inputs)


def _append_one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def check_finite(values: Tensor, what: str) -> Tensor:
    """Return the values if all are finite. Raises: Undefined."""
    if not bool(torch.isfinite(values).all()):
        raise Undefined(f"{what} are not finite numbers")
    return values
