"""Runs in which one value of one update is not finite, or is huge, and what the updates then did.

Each run is a fork. What it reports is seen from outside of the trainer: which updates had a loss or a gradient that is not
finite, and which of them changed weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from forks import SECONDS, start_fork
from interrupted_runs import become_train
from safetensors.torch import load_file

from worldlab import tree

VALUES = {"nan": math.nan, "inf": math.inf, "1e38": 1e38}
PARTS = ("encoder.embed", "encoder.infer", "dynamics.predict", "dynamics.memory", "reward", "cont")
"""Outputs of modules."""
TERMS = ("decoder/vector", "dyn", "rep", "reward", "cont", "agent/actor", "agent/critic")
"""Terms of the losses of the core's own parts."""
WORLD = ("obs", "reward of the environment", "action")
ENVIRONMENT = '''
"""CartPole, which returns one value that POISON names."""
import os

import gymnasium
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class Poisoned(CartPoleEnv):
    steps = 0

    def step(self, action):
        obs, reward, *rest = super().step(action)
        Poisoned.steps += 1
        place, _, value = os.environ.get("POISON", "").partition("=")
        if value and Poisoned.steps == 60:
            if place == "obs":
                obs = np.full_like(obs, float(value))
            else:
                reward = float(value)
        return obs, reward, *rest


gymnasium.register("Poisoned-v0", Poisoned)
'''


def train_poisoned(
    place: Path, run: str, flags: list[str], target: str, value: str, at: int, *, ever: bool = False
) -> tuple[int, str, list[dict[str, Any]]]:
    """Train with one poisoned value. at: the number of the update, or of the decision if the target is "action".

    ever: from there on, not only once. Returns: exit code, stderr, and for each update {"bad", "changed"}.
    """
    (place / "poisoned.py").write_text(ENVIRONMENT)
    out, err, notes = (place / f"{run}.{kind}" for kind in ("stdout", "stderr", "updates"))
    environment = dict(os.environ) | ({"POISON": f"{target}={value}"} if target in WORLD[:2] else {})
    line = ("train", *flags, "--env", "poisoned:Poisoned", "--run", run)
    poison = (target, VALUES[value], at, ever)
    process = start_fork(_become_poisoned, place, line, environment, out, err, poison, notes)
    process.join(SECONDS)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode, err.read_text(), [json.loads(line) for line in notes.read_text().splitlines()]


def nonfinite_tensors(run: Path) -> list[str]:
    """Return the tensors with NaN or inf in any checkpoint of a run."""
    found = []
    for path in sorted(run.glob("checkpoints/*/*.safetensors")):
        for name, tensor in load_file(path).items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                found.append(f"{path.parent.name}/{path.stem}/{name}")
    return found


def _become_poisoned(
    place: Path, line: tuple[str, ...], environment: dict[str, str], out: Path, err: Path, poison: Any, notes: Path
) -> None:
    target, value, at, ever = poison
    _watch_updates(notes, lambda trainer: _poison(trainer, target, value), at, ever)
    if target == "action":
        _poison_action(value, at)
    become_train(place, line, environment, out, err)


def _watch_updates(notes: Path, poison: Callable[[Any], Callable[[], None]], at: int, ever: bool) -> None:
    """Poison the chosen updates, and note of each whether a loss or gradient is not finite and whether weights change."""
    from worldlab.training.trainer import Trainer

    honest = Trainer.update
    notes.touch()

    def update(self: Trainer, *args: Any) -> Any:
        number = self.updates + 1
        heal = poison(self) if number == at or (ever and number > at) else (lambda: None)
        before = _digests(self)
        try:
            values = honest(self, *args)
        finally:
            heal()
        bad = [
            k for k, v in values.items() if k.startswith(("loss/", "grad_norm/")) and not bool(torch.isfinite(v).all())
        ]
        changed = [player for player, digest in _digests(self).items() if digest != before[player]]
        with notes.open("a") as file:
            file.write(json.dumps({"update": number, "bad": bad, "changed": changed}) + "\n")
        return values

    Trainer.update = update  # type: ignore[method-assign]


def _digests(trainer: Any) -> dict[str, str]:
    """Return a hash of the weights that each player's optimiser steps, by "model/main", "agent/actor", ..."""
    found = {}
    for player, optimizer in trainer.optimizers.items():
        weights = [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]
        found[player] = hashlib.sha256(b"".join(one.numpy().tobytes() for one in weights)).hexdigest()
    return found


def _poison(trainer: Any, target: str, value: float) -> Callable[[], None]:
    """Let the target give the value until the function that is returned is called."""
    if target in TERMS:
        return _poison_agent(trainer, target, value) if target.startswith("agent/") else _poison_term(target, value)
    if target not in PARTS:
        return lambda: None
    name, _, method = target.partition(".")
    part: Any = trainer.model.parts[name] if method else getattr(trainer.model, name)
    method = method or "forward"
    honest = getattr(part, method)

    def spoilt(*args: Any, **kwargs: Any) -> Any:
        return tree.tree_map(
            lambda leaf: leaf * 0 + value if leaf.is_floating_point() else leaf, honest(*args, **kwargs)
        )

    setattr(part, method, spoilt)
    return lambda: delattr(part, method)


def _poison_term(name: str, value: float) -> Callable[[], None]:
    from dataclasses import replace

    from worldlab.training import trainer as module

    honest = module.model_losses

    def losses(*args: Any, **kwargs: Any) -> Any:
        terms = honest(*args, **kwargs)
        assert name in terms, f"{name} is none of {sorted(terms)}"
        return terms | {name: replace(terms[name], value=terms[name].value * value)}

    module.model_losses = losses
    return lambda: setattr(module, "model_losses", honest)


def _poison_agent(trainer: Any, name: str, value: float) -> Callable[[], None]:
    player, honest = name.partition("/")[2], trainer.agent.losses

    def losses(*args: Any) -> Any:
        found, metrics = honest(*args)
        assert player in found, f"{player} is none of {sorted(found)}"
        return found | {player: found[player] * value}, metrics

    trainer.agent.losses = losses
    return lambda: delattr(trainer.agent, "losses")


def _poison_action(value: float, at: int) -> None:
    from worldlab.experience.acting import ActingAgent

    honest, count = ActingAgent.choose, iter(range(1, 10**9))

    def choose(self: ActingAgent, *args: Any, **kwargs: Any) -> Any:
        action, state = honest(self, *args, **kwargs)
        return (action * 0 + value if next(count) == at else action), state

    ActingAgent.choose = choose  # type: ignore[method-assign]
