"""Checks an agent before a run collects data: two actions, and one update of its losses."""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from worldlab import tree
from worldlab.agent import Agent, Experience, LearnsFromEpisodes, OwnLearner
from worldlab.errors import one_line
from worldlab.interfaces import Batch, Player
from worldlab.nn import frozen
from worldlab.registry import Registration
from worldlab.rollout import Carry, Observed
from worldlab.training.part_probe import PartProbe
from worldlab.world_model import WorldModel

ONE_HOT_ERROR = 1e-4
"""Largest distance of a discrete action from a one-hot. A straight-through sample is off by a rounding error."""


def check_agent(
    registration: Registration, agent: Agent, model: WorldModel, batch: Batch, generator: torch.Generator
) -> None:
    """Check an agent's state, actions, players and losses. model: a copy, whose weights may change.

    An agent that steps its own optimisers (`OwnLearner`) is not asked to learn: that takes a whole round of dreams.
    Raises: PluginError that names the plugin, the method, and the expected and actual result.
    """
    with suppress(Exception):  # an agent need not be copyable; what it then remembers is what a first step leaves
        agent = copy.deepcopy(agent)
    probe = PartProbe(registration, agent)
    with torch.no_grad():
        ctx, seen = model.observe(batch, generator)
    _check_actions(probe, model, seen.final, ctx.features[:, -1], generator)
    players = _check_players(probe)
    if not players or isinstance(agent, OwnLearner):
        return
    sequence = ctx.detach() if agent.reads_sequences else None
    carry, rows, last = _starts(seen, batch)
    experience = Experience(carry, batch.reward[rows, last], batch.cont[rows, last], sequence)
    with torch.enable_grad(), frozen(model):
        _check_losses(probe, probe.call("losses", model, experience, generator), players)
    probe.call("after_step")


def _check_actions(
    probe: PartProbe, model: WorldModel, carry: Carry, features: Tensor, generator: torch.Generator
) -> None:
    n, action = len(features), model.specs.action
    start = probe.call("initial", n)
    _check_state(probe, "initial", start, n)
    # An agent that learns from the episodes it plays may need its first updates before it explores.
    for explore in (False,) if isinstance(probe.part, LearnsFromEpisodes) else (True, False):
        with torch.no_grad():
            found = probe.call("act", model, carry, features, start, generator, explore)
        if not isinstance(found, tuple) or len(found) != 2:
            raise probe.error("act", f"gives a {type(found).__name__}, expected (actions [N, A], state)")
        chosen = probe.check_tensor("act", found[0], (n, action.dim), "[N, A]", "the action")
        if action.kind == "discrete":
            hot = torch.nn.functional.one_hot(chosen.argmax(-1), action.dim)
            if float((chosen - hot).abs().max()) > ONE_HOT_ERROR:
                row = [round(value, 2) for value in chosen[0].tolist()]
                raise probe.error("act", f"gives the discrete action {one_line(row, 40)}, expected a one-hot")
        _check_state(probe, "act", found[1], n, start)


def _check_state(probe: PartProbe, method: str, state: Any, n: int, like: Any = None) -> None:
    """Check that a state is {} or a tree of [N, ...], with the leaves of `like`: the core resets single rows of it."""
    if tree.leaves(state) or tree.leaves(like or {}):
        probe.check_rows(method, state, n, like)


def _check_players(probe: PartProbe) -> dict[str, Player]:
    players = probe.call("players")
    if not isinstance(players, dict):
        raise probe.error("players", f"gives a {type(players).__name__}, expected {{name: Player(parameters, rate)}}")
    for name, player in players.items():
        if not isinstance(player, Player):
            raise probe.error("players", f"gives a {type(player).__name__} as '{name}', expected a Player")
        if player.rate is None:
            raise probe.error("players", f"gives '{name}' without a learning rate, expected Player(parameters, rate)")
    return players


def _starts(seen: Observed, batch: Batch) -> tuple[Carry, Tensor, Tensor]:
    """Return the carry at the last step of every row, detached, with the rows and steps."""
    rows = torch.arange(len(batch.reward), device=batch.reward.device)
    last = torch.full_like(rows, batch.reward.shape[1] - 1)
    return tree.detach(seen.at(rows, last)), rows, last


def _check_losses(probe: PartProbe, result: Any, players: dict[str, Player]) -> None:
    if not isinstance(result, tuple) or len(result) != 2 or not all(isinstance(part, dict) for part in result):
        raise probe.error("losses", f"gives a {type(result).__name__}, expected two dicts: losses and metrics")
    losses, metrics = result
    if unknown := sorted(set(losses) - set(players)):
        known = ", ".join(players)
        raise probe.error("losses", f"gives a loss of '{unknown[0]}', which players() does not have ({known})")
    for name, loss in losses.items():
        probe.check_tensor("losses", loss, (), "a scalar", f"'{name}'")
        if not loss.requires_grad:
            raise probe.error("losses", f"gives '{name}' without a gradient: it depends on no weight of the agent")
    for name, value in metrics.items():
        if not isinstance(value, int | float | Tensor) or torch.as_tensor(value).numel() != 1:
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise probe.error("losses", f"gives the metric '{name}' as {shape}, expected one number")
    probe.guard("losses", lambda: torch.stack(list(losses.values())).sum().backward() if losses else None)
