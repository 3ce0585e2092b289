"""Small worlds for the tests of the autoregressive family: specs, codes by enumeration, a future with four modes."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from config_kit import configured
from family_kit import gen as gen
from torch import Tensor
from worldlab_autoregressive.configs import AutoregressiveDynamicsConfig
from worldlab_autoregressive.dynamics import AutoregressiveDynamics

from worldlab import tree
from worldlab.interfaces import State
from worldlab.specs import ActionSpec, ArraySpec, LatentSpec, ObsSpec, Specs

VECTOR = ("vector", ArraySpec("vector", (3,)))
IMAGE = ("image", ArraySpec("image", (3, 16, 16)))
MODES = (0.4, 0.3, 0.2, 0.1)
KINDS = ("transformer", "lstm")


def make_specs(obs=(VECTOR,), latent: LatentSpec | None = None, memory: int = 16, action: int = 2) -> Specs:
    return Specs(ObsSpec(tuple(obs)), ActionSpec("continuous", action), latent or LatentSpec(4), memory, False)


def codes_spec(groups: int, classes: int) -> LatentSpec:
    return LatentSpec(groups * classes, "categorical", groups, classes)


def all_codes(groups: int, classes: int) -> Tensor:
    """Every row of codes there is: [classes^groups, groups] long."""
    return torch.tensor(list(itertools.product(range(classes), repeat=groups)))


def flat_hot(codes: Tensor, classes: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Codes [*, G] as flat one-hots [*, G * classes]."""
    return F.one_hot(codes, classes).to(dtype).flatten(-2)


def sequence(specs: Specs, rows: int, length: int, seed: int = 0, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Random latents [rows, length, D] of the declared kind and actions [rows, length, A]."""
    g, spec = gen(seed), specs.latent
    if spec.kind == "categorical":
        z = flat_hot(torch.randint(spec.classes, (rows, length, spec.groups), generator=g), spec.classes, dtype)
    else:
        z = torch.randn(rows, length, spec.dim, generator=g, dtype=dtype)
    return z, torch.rand(rows, length, specs.action.dim, generator=g, dtype=dtype) * 2 - 1


def resets(rows: int, length: int, *at: tuple[int, int]) -> Tensor:
    """is_first [rows, length]: true at the given (row, time)."""
    out = torch.zeros(rows, length, dtype=torch.bool)
    for row, time in at:
        out[row, time] = True
    return out


def four_modes(rows: int, length: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents that jump to one of four places around a centre that the last action sets.

    Returns z, action, where action[t] leads to z[t], and the centres: [rows, length, 2] each.
    """
    g = gen(seed)
    action = torch.rand(rows, length, 2, generator=g) * 2 - 1
    places = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    which = torch.multinomial(torch.tensor(MODES), rows * length, True, generator=g).view(rows, length)
    centre = 0.5 * action
    return centre + places[which] + 0.1 * torch.randn(rows, length, 2, generator=g), action, centre


def mode_weights(z: Tensor, centre: Tensor) -> tuple[Tensor, float]:
    """Share of samples in each of the four places [4], and of those farther than 4 std from all of them."""
    places = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
    distance = (z[:, None] - centre[:, None] - places).norm(dim=-1)
    near = distance.min(1)
    share = F.one_hot(near.indices, 4).float().mean(0)
    return share, (near.values > 0.4).float().mean().item()


def build(latent: LatentSpec | None = None, dtype=torch.float64, seed: int = 0, **config) -> AutoregressiveDynamics:
    torch.manual_seed(seed)
    settings = {"memory": 16, "layers": 2, "heads": 2, "window": 4, "units": 16} | config
    return AutoregressiveDynamics(configured(AutoregressiveDynamicsConfig, **settings), make_specs(latent=latent)).to(
        dtype
    )


def specs_of(dynamics: AutoregressiveDynamics):
    return make_specs(latent=dynamics.latent)


def scan(dynamics, state: State, z: Tensor, action: Tensor, is_first: Tensor) -> list[State]:
    """The states after each step, as the core steps it."""
    states = []
    for t in range(z.shape[1]):
        fresh = dynamics.initial(len(z))
        state = tree.where(is_first[:, t], fresh, state)
        state = dynamics.advance(state, z[:, t], action[:, t])
        states.append(state)
    return states
