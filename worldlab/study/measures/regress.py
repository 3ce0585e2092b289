"""Reading one set of numbers off another: ridge regression and a small network, judged on episodes they never saw."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldlab.nn import mlp
from worldlab.study.measures.undefined import Undefined

RIDGES = (1e-5, 1e-3, 1e-1, 10.0)
"""Ridges a row that are tried, for inputs of variance 1; the stopping episodes choose."""
DEAD = 1e-6
"""Std below which a number says nothing: of an input it is noise of rounding, of a target there is nothing to explain."""
UNITS, LAYERS, BATCH, RATE, PATIENCE = 128, 2, 256, 1e-3, 10
"""The small network: width, hidden layers, frames an update, Adam's rate, epochs without a better stop before it rests."""

Reading = Callable[[Tensor], Tensor]
"""inputs [N, F] -> standardised targets float64 [N, K]."""


@dataclass(frozen=True)
class Scaling:
    """Moments that make numbers standard: mean, std [K] float64; alive [K] bool, where there is anything to standardise."""

    mean: Tensor
    std: Tensor
    alive: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Scaling:
        """The moments of values [N, K]."""
        values = values.double()
        std = values.std(0)
        alive = std > DEAD * (1 + values.abs().amax(0))
        return cls(values.mean(0), torch.where(alive, std, 1.0), alive)

    def __call__(self, values: Tensor) -> Tensor:
        """values [N, K] -> float64 [N, K], dead ones 0."""
        return (values.double() - self.mean) / self.std * self.alive


@dataclass(frozen=True)
class Examples:
    """What a reading is fitted to (fit) and what decides when it is good (stop): inputs [N, F], standardised targets [N, K]."""

    fit: tuple[Tensor, Tensor]
    stop: tuple[Tensor, Tensor]


def ridge(examples: Examples) -> Reading:
    """The linear reading of least squared error with the ridge that serves the stopping episodes best."""
    scaling = Scaling.of(examples.fit[0])
    x, y = _with_one(scaling(examples.fit[0])), examples.fit[1].double()
    gram, moment = x.mT @ x / len(x), x.mT @ y / len(x)
    penalty = torch.eye(len(gram), dtype=gram.dtype)
    penalty[-1, -1] = 0.0  # the intercept is free
    judged, target = _with_one(scaling(examples.stop[0])), examples.stop[1]
    solved = [torch.linalg.solve(gram + amount * penalty, moment) for amount in RIDGES]
    weight = min(solved, key=lambda weight: float((judged @ weight - target).square().mean()))
    return lambda inputs: _with_one(scaling(inputs)) @ weight


def network(examples: Examples, epochs: int, generator: torch.Generator) -> Reading:
    """A reading by an MLP: Adam on squared error, as it was when the stopping episodes were read best."""
    scaling = Scaling.of(examples.fit[0])
    x, y = scaling(examples.fit[0]).float(), examples.fit[1].float()
    judged, target = scaling(examples.stop[0]).float(), examples.stop[1].float()
    net = seeded(generator, lambda: mlp(x.shape[1], UNITS, LAYERS, y.shape[1]))
    optimizer = torch.optim.Adam(net.parameters(), RATE)

    def epoch() -> float:
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            optimizer.zero_grad()
            (net(x[rows]) - y[rows]).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            return float((net(judged) - target).square().mean())

    stop_early(net, epoch, epochs, PATIENCE)
    return lambda inputs: _quiet(net, scaling(inputs).float()).double()


def seeded(generator: torch.Generator, build: Callable[[], nn.Module]) -> nn.Module:
    """A module whose initial weights come from the generator; torch's global one is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        return build()


def stop_early(net: nn.Module, round_: Callable[[], float], rounds: int, patience: int) -> None:
    """Call `round_`, which trains and returns an error, up to `rounds` times; leave the net at its smallest error."""
    with torch.enable_grad():
        best, kept, waited = float("inf"), copy.deepcopy(net.state_dict()), 0
        for _ in range(rounds):
            error = round_()
            waited += 1
            if error < best:
                best, kept, waited = error, copy.deepcopy(net.state_dict()), 0
            if waited >= patience:
                break
    net.load_state_dict(kept)


@torch.no_grad()
def _quiet(net: nn.Module, inputs: Tensor) -> Tensor:
    return net(inputs)


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], 1)


def finite(values: Tensor, what: str) -> Tensor:
    """The values, if they are finite. Raises: Undefined."""
    if not bool(torch.isfinite(values).all()):
        raise Undefined(f"{what} are not finite numbers")
    return values
