"""Checks of agents, in a world model whose rewards are known."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from worldlab import tree
from worldlab.agent import OwnLearner
from worldlab.interfaces import Player
from worldlab.runs.optimizer_state import flatten_optimizer, restore_optimizer
from worldlab.testing.agent_bench import AgentBench, AgentSubject, flip_row
from worldlab.testing.bench import clone
from worldlab.testing.checks import CheckFailure, NotApplicable, check
from worldlab.testing.probes import random_states, require_rows, require_shape, same

UPDATES = 800
"""Updates in which an agent must beat random actions."""
_EARLY = (1, 4, 10, 20)
"""Updates after which it is also scored: one of a library's algorithm may take as long as a hundred others."""
MARGIN = 0.4
"""Mean reward that counts as better than random: four standard errors of 64 random actions."""


@check("A1", role="agent", title="actions have the declared shape, and the state is a tree of rows")
def shapes(subject: AgentSubject) -> None:
    """act returns finite float actions [N, A] and a state whose leaves keep the shapes of initial(n), for N = 1 and 3,
    exploring or not.

    Catches indices in place of one-hots, squeeze() on a batch of one, NaN, and a state that changes its shape between
    steps or has leaves without a row for each environment. Fix: return [N, A]; allocate every leaf of the state in
    initial(n).
    """
    for bench in subject.benches():
        for n, explore in ((1, False), (3, True)):
            carry, first = bench.carry(n), bench.agent.initial(n)
            if tree.leaves(first):
                require_rows(first, n, "initial(n)")
            state: Any = first
            for _ in range(2):
                action, state = _acted(bench, carry, state, explore)
                require_shape(action, (n, bench.specs.action.dim), "the action of act")
                _require_same_layout(first, state)


def _acted(bench: AgentBench, carry: Any, state: Any, explore: bool) -> tuple[Any, Any]:
    answer = bench.act(carry, state, explore=explore)
    if not (isinstance(answer, tuple) and len(answer) == 2):
        raise CheckFailure(
            f"act returns a {type(answer).__name__}", "return (action, state), the state {} if there is none"
        )
    return answer


def _require_same_layout(first: Any, state: Any) -> None:
    before, after = tree.named_leaves(first), tree.named_leaves(state) if state is not None else {}
    if state is None or before.keys() != after.keys():
        raise CheckFailure(
            f"act returns a state with the leaves {sorted(after)}, initial(n) has {sorted(before)}",
            "return a state of the same structure at every step",
        )
    for name, leaf in before.items():
        if (leaf.shape, leaf.dtype) != (after[name].shape, after[name].dtype):
            raise CheckFailure(
                f"the state's leaf '{name}' is {after[name].dtype} {list(after[name].shape)} after act, "
                f"{leaf.dtype} {list(leaf.shape)} in initial(n)",
                "keep the shape and dtype of every leaf of the state",
            )


@check("A2", role="agent", title="actions are exact one-hots, or within [-1, 1]")
def encoded(subject: AgentSubject) -> None:
    """Discrete actions are one-hots of exactly 0 and 1; continuous actions are within [-1, 1], also when exploring.

    Catches probabilities or soft samples in place of one-hots, which the world model has never seen, and actions that
    the core clips without notice. Fix: F.one_hot(choice, A).float(); clamp(-1, 1), or tanh.
    """
    for bench in subject.benches():
        for explore in (False, True):
            action, _ = bench.act(bench.carry(6), explore=explore)
            if bench.specs.action.kind == "discrete":
                if not (bool(((action == 0) | (action == 1)).all()) and bool((action.sum(-1) == 1).all())):
                    row = [round(value, 2) for value in action[0].tolist()]
                    raise CheckFailure(f"a discrete action is no one-hot: {row}", "F.one_hot(choice, A).float()")
            elif float(action.abs().max()) > 1:
                raise CheckFailure(
                    f"a continuous action has an entry {float(action.abs().max()):.2f} in size, more than 1",
                    "action.clamp(-1, 1), or a tanh before it is returned",
                )


@check("A3", role="agent", title="rows are independent")
def independent_rows(subject: AgentSubject) -> None:
    """With the same noise, the observation of environment j does not influence the action and state of environment i, at
    the first step and at the next one.

    Catches planners that return the plan of another row or search one plan for all rows, and statistics over the batch.
    Fix: keep N in its own dimension, [N, S, H, A]; take the best candidate of each row.
    """
    for bench in subject.benches():
        carry = bench.carry(3)
        base = _two_steps(bench, carry)
        for j in range(3):
            changed = _two_steps(bench, flip_row(carry, j))
            for before, after in zip(tree.leaves(base), tree.leaves(changed), strict=True):
                moved = (before != after).reshape(3, -1).any(1)
                moved[j] = False
                if moved.any():
                    raise CheckFailure(
                        f"environment {j} influences environment {int(moved.nonzero()[0])}: rows of the batch are mixed",
                        "keep N in its own dimension, and take the best candidate of each row",
                    )


def _two_steps(bench: AgentBench, carry: Any) -> tuple[Any, ...]:
    first, state = bench.act(carry, seed=1)
    second, state = bench.act(carry, state, seed=2)
    return first, second, state


@check("A4", role="agent", title="the same generator gives the same action, and act changes nothing")
def reproducible(subject: AgentSubject) -> None:
    """Two calls of act with generators of the same seed give bit-equal actions and states. act modifies neither the
    carry nor the state, and draws no global random numbers.

    Catches torch.randn without the generator, random states kept in self, and plans that are updated in place. Fix: pass
    the generator to every draw; keep what changes from step to step in the state.
    """
    for bench in subject.benches():
        for explore in (False, True):
            carry, state = bench.carry(3), bench.agent.initial(3)
            kept, randoms = clone((carry, state)), random_states()
            first = bench.act(carry, state, seed=3, explore=explore)
            if random_states() != randoms:
                raise CheckFailure("act draws from a global random generator", "draw from the generator it is given")
            if not same(kept, (carry, state), 0.0):
                raise CheckFailure("act modifies the carry or the state it was given", "build new tensors")
            if not same(first, bench.act(carry, state, seed=3, explore=explore), 0.0):
                raise CheckFailure(
                    "two calls of act with the same seed give different actions or states",
                    "draw all noise from the generator, and keep what changes in the state",
                )


@check("A5", role="agent", title="acting and learning leave the world model unchanged")
def model_untouched(subject: AgentSubject) -> None:
    """act, and three updates of the agent, change no weight and no buffer of the world model.

    Catches an agent that trains the world model by its own loss, or adjusts it in place. Fix: give the weights of the
    agent alone to `players`; copy what you want to change.
    """
    for bench in subject.benches():
        before = clone(bench.model.state_dict())
        bench.act(bench.carry(3), explore=True)
        if bench.learns:
            list(bench.updates(bench.trainer(), 3))
        changed = [name for name, value in bench.model.state_dict().items() if not torch.equal(value, before[name])]
        if changed:
            raise CheckFailure(f"the agent changed the world model's '{changed[0]}'", "leave the model's weights alone")


@check("A6", role="agent", title="losses are finite scalars, one for each declared player")
def losses(subject: AgentSubject) -> None:
    """losses returns ({player: scalar}, metrics) with exactly the names of players(), whose parameters are those of the
    agent that require a gradient, each once. Losses and metrics are finite scalars.

    Catches a loss per row, which has no gradient; a loss for a player that does not exist; a player without a loss; and
    a network that no player trains. Fix: take the mean; use the same names in players and losses; requires_grad_(False)
    for slow targets.
    """
    for bench in subject.benches():
        _require_players(bench)
        trainer = bench.trainer()
        seen = bench.experience(trainer)
        if isinstance(bench.agent, OwnLearner):
            _require_scalars("metrics", bench.agent.learn(bench.model, seen, trainer.generators.agent))
            continue
        found = bench.agent.losses(bench.model, seen, trainer.generators.agent)
        if not (isinstance(found, tuple) and len(found) == 2 and all(isinstance(part, dict) for part in found)):
            raise CheckFailure(f"losses returns a {type(found).__name__}", "return ({player: loss}, {name: metric})")
        terms, metrics = found
        if terms.keys() != bench.agent.players().keys():
            raise CheckFailure(
                f"losses has the players {sorted(terms)}, players() has {sorted(bench.agent.players())}",
                "use the same names in both",
            )
        _require_scalars("losses", terms)
        _require_scalars("metrics", metrics)


def _require_players(bench: AgentBench) -> None:
    players = bench.agent.players()
    for name, player in players.items():
        if not isinstance(player, Player) or player.rate is None:
            raise CheckFailure(f"player '{name}' has no learning rate", "Player(list_of_parameters, rate)")
    held = [id(p) for player in players.values() for p in player.parameters]
    for name, p in bench.agent.named_parameters() if players else ():
        if p.requires_grad and held.count(id(p)) != 1:
            raise CheckFailure(
                f"players() lists '{name}' {held.count(id(p))} times",
                "give each parameter to one player, and requires_grad_(False) to those that no loss trains",
            )


def _require_scalars(what: str, values: dict[str, Any]) -> None:
    for name, value in values.items():
        number = torch.as_tensor(value)
        if number.dim() != 0:
            raise CheckFailure(f"{what} has '{name}' of shape {list(number.shape)}, not a scalar", "take its mean")
        if not bool(torch.isfinite(number)):
            raise CheckFailure(
                f"{what} has '{name}' = {float(number)}", "keep arguments of log and division away from 0"
            )


@check("A7", role="agent", title="each player's loss trains that player, and no other")
def players_apart(subject: AgentSubject) -> None:
    """The loss of each player has a gradient with respect to its own parameters and none with respect to those of the
    other players.

    Catches an actor's loss that also trains the critic, towards values that are easy to reach. Fix: compute values with
    frozen weights or a slow copy; detach targets.
    """
    checked = False
    for bench in subject.benches():
        players = bench.agent.players()
        if isinstance(bench.agent, OwnLearner) or not players:
            continue
        checked = True
        trainer = bench.trainer()
        list(bench.updates(trainer, 1))  # some heads start at 0, and pass no gradient on
        terms, _ = bench.agent.losses(bench.model, bench.experience(trainer, 1), trainer.generators.agent)
        for name, loss in terms.items():
            for other, player in players.items():
                found = torch.autograd.grad(loss, player.parameters, retain_graph=True, allow_unused=True)
                reached = any(grad is not None and bool(grad.any()) for grad in found)
                if other == name and not reached:
                    raise CheckFailure(f"the loss of player '{name}' has no gradient", "do not detach what it trains")
                if other != name and reached:
                    raise CheckFailure(
                        f"the loss of player '{name}' also trains player '{other}'",
                        f"detach, or use frozen weights of, '{other}' in the loss of '{name}'",
                    )
    if not checked:
        raise NotApplicable("the agent has no players")


@check("A8", role="agent", title="a saved agent acts and learns as before")
def resumes(subject: AgentSubject) -> None:
    """An agent that is built anew and loads a state_dict and the states of its optimisers acts like the saved one, and,
    if the core owns its optimisers, makes the same next update, bit for bit.

    Catches weights, statistics and counters outside the module: a resumed run would not continue. Fix: register_buffer
    for numbers that change; the optimisers of players are saved by the core.
    """
    for bench in subject.benches():
        trainer = bench.trainer()
        if bench.learns:
            list(bench.updates(trainer, 2))
        other = subject.bench(bench.specs.action.kind, seed=1)
        saved = clone(bench.agent.state_dict())
        if any(not isinstance(value, Tensor) for value in bench.agent.state_dict().values()):
            raise CheckFailure("state_dict holds more than tensors", "register_buffer for numbers")
        other.agent.load_state_dict(saved)
        carry = bench.carry(4, seed=5)
        if not same(bench.act(carry, seed=6), other.act(carry, seed=6), 0.0):
            raise CheckFailure("the loaded agent acts differently", "keep all weights and statistics in the module")
        if bench.learns and not isinstance(bench.agent, OwnLearner):
            _require_equal_update(bench, other, trainer)


def _require_equal_update(bench: AgentBench, other: AgentBench, trainer: Any) -> None:
    loaded = other.trainer()
    for name, optimizer in trainer.optimizers.items():
        tensors, scalars = flatten_optimizer(optimizer)
        restore_optimizer(loaded.optimizers[name], copy.deepcopy(tensors), scalars)
    for one in (trainer, loaded):
        one.generators.agent.manual_seed(9)
    first, second = (next(b.updates(t, 1, first=7)) for b, t in ((bench, trainer), (other, loaded)))
    for name, value in first.items():
        if name not in second or not torch.equal(torch.as_tensor(value), torch.as_tensor(second[name])):
            raise CheckFailure(
                f"the next update differs after loading: '{name}' is {float(value):.6g} and "
                f"{float(second.get(name, torch.nan)):.6g}",
                "keep moving averages and counters in buffers (register_buffer)",
            )


@check("A9", role="agent", title="it beats random actions where the best action is known", slow=True)
def beats_random(subject: AgentSubject) -> None:
    """In a world model in which the sign of an observed number says which action earns 1 and which earns -1, the agent
    earns at least 0.4 on average: a planner at once, a learner within 800 updates. Random actions earn 0.

    Catches a loss of the wrong sign, an advantage or a reward that is off by one step, plans scored by another row's
    rewards, and a policy that never sees the features. Fix: align by arrival: dream.reward[:, k] follows
    dream.action[:, k]; minimise minus the return.
    """
    learns = False
    for bench in subject.benches():
        if bench.agent.imitates:
            raise NotApplicable("the agent repeats recorded actions, whatever they earn")
        if not bench.learns and not _dreams(bench):
            continue
        learns = True
        best = _best_score(bench)
        if best < MARGIN:
            raise CheckFailure(
                f"with {bench.specs.action.kind} actions it earns {best:.2f} on average; random actions earn 0, the best 0.99",
                "align rewards by arrival, check the sign of the loss, and score each candidate in its own dream",
            )
    if not learns:
        raise NotApplicable("the agent neither learns nor dreams")


def _best_score(bench: AgentBench) -> float:
    """Return the mean reward of the agent, as soon as it is above MARGIN, or after UPDATES updates."""
    score = _score(bench)
    if score >= MARGIN or not bench.learns:
        return score
    trainer = bench.trainer()
    for number, _ in enumerate(bench.updates(trainer, UPDATES), 1):
        if number in _EARLY or number % 40 == 0:
            score = _score(bench)
            if score >= MARGIN:
                break
    return score


def _score(bench: AgentBench) -> float:
    """Return the mean reward of 64 actions, or of explored ones if these are better: a policy's average lags behind."""
    carry = bench.carry(64, seed=11)
    return max(float(bench.reward(carry, bench.act(carry, seed=12, explore=e)[0]).mean()) for e in (False, True))


def _dreams(bench: AgentBench) -> bool:
    """Return whether act imagines: it reads the dynamics of the model."""
    calls = []
    handle = bench.model.reward.register_forward_hook(lambda *_: calls.append(1))
    try:
        bench.act(bench.carry(2))
    finally:
        handle.remove()
    return bool(calls)
