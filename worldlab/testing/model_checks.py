"""Checks of a whole world model: that its parts work together and learn what the toys teach."""

from __future__ import annotations

import torch
from torch import Tensor

from worldlab import tree
from worldlab.model.noise import stream
from worldlab.testing import toys
from worldlab.testing.bench import Bench, Subject
from worldlab.testing.checks import CheckFailure, check
from worldlab.testing.probes import r2, same


@check("W1", role="world_model", title="dreamed rewards belong to the action that earned them", slow=True)
def reward_alignment(subject: Subject) -> None:
    """Where the reward on arrival is the action that led there, the dream's reward[k] follows action[k], not its
    neighbours.

    Catches rewards off by one in storage, training or dreams: an agent then credits the wrong action.
    Fix: arrival alignment everywhere: prev_action[t] led to obs[t], where reward[t] was received.
    """
    bench = subject.with_default_losses().bench("vector image")
    batch = toys.rewarded_action(bench.specs.obs, bench.specs.action, 64, 4, stream(9))
    plan = bench.actions(64, 6)

    @torch.no_grad()
    def fits() -> dict[str, float]:
        carry = bench.model.observe(batch, stream(0))[1].final
        reward = bench.model.imagine(carry, plan, 6, stream(0)).reward[:, 1:5]
        return {f"action[k{lag:+d}]": _correlation(plan[:, 1 + lag : 5 + lag, 0], reward) for lag in (0, 1, -1)}

    def aligned() -> bool:
        at, *near = fits().values()
        return at > 0.7 and at > max(near) + 0.4

    bench.fit(200, toys.rewarded_action, rows=16, length=6, until=aligned)
    if not aligned():
        told = ", ".join(f"{name} {value:.2f}" for name, value in fits().items())
        raise CheckFailure(
            f"the dream's reward[k] does not follow action[k] (correlation with {told})",
            "align rewards with arrival, in every loop",
        )


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].nan_to_num())


@check("W2", role="world_model", title="it learns the moving dot", slow=True)
def moving_dot(subject: Subject) -> None:
    """Within 300 updates the reward head explains over 90 % of an unseen reward that is the dot's place.

    Catches representations that lose the one thing that moves, and gradients that never reach the encoder.
    Fix: see which loss trains the encoder; raise its weight.
    """
    bench = subject.with_default_losses().bench("image vector")
    batch = toys.moving_dot(bench.specs.obs, bench.specs.action, 64, 8, stream(9))

    @torch.no_grad()
    def explained() -> float:
        features = bench.context(batch).features
        return r2(batch.reward[:, 1:], bench.model.reward(features).mean[:, 1:])

    bench.fit(300, rows=16, length=8, until=lambda: explained() > 0.9)
    if explained() < 0.9:
        raise CheckFailure(
            f"reward R2 on a moving dot is {explained():.2f} after 300 updates", "check what trains the encoder"
        )


@check("W3", role="world_model", title="each player's losses train only its own parameters")
def player_isolation(subject: Subject) -> None:
    """The players hold every trainable parameter once, and a critic's losses give no gradient to anyone else.

    Catches a critic that leaks into main through another part. Fix: detach what main produced.
    """
    bench = subject.bench()
    players = bench.model.players()
    held = [id(p) for group in players.values() for p in group]
    missing = {id(p) for p in bench.model.parameters() if p.requires_grad} - set(held)
    if missing or len(held) != len(set(held)):
        raise CheckFailure("players() does not hold every parameter exactly once", "see checks P3 of the parts")
    ctx = bench.context()
    for player, group in players.items():
        if player == "main":
            continue
        others = [p for p in bench.model.parameters() if p.requires_grad and id(p) not in {id(q) for q in group}]
        terms = bench.model.losses(ctx.detach(), player)
        total = torch.stack([term.sum() for term in terms.values()]).sum()
        found = torch.autograd.grad(total, others, allow_unused=True)
        if any(grad is not None and grad.abs().sum() > 0 for grad in found):
            raise CheckFailure(f"the {player}'s losses train parameters of another player", "see check P7 of the parts")


@check("W4", role="world_model", title="acting follows what training sees")
def filter_is_observe(subject: Subject) -> None:
    """filter, step by step on raw uint8 pictures and raw vectors, gives the features observe gives on the sequence.

    Catches observations scaled one way in acting and another in training, and paths that treat resets differently.
    Fix: scale in the core's Preprocessor only; derive both paths from one function.
    """
    for use_memory in (True, False):
        bench = subject.bench(use_memory=use_memory)
        raw = _raw(bench, 3, 6)
        noise = bench.batch(3, 6)
        batch = _with_obs(noise, bench.model.preprocess(raw))
        with torch.no_grad():
            expected = bench.model.observe(batch, None)[0].features
            carry, found = bench.model.initial(3), []
            for t in range(6):
                seen = {key: value[:, t] for key, value in raw.items()}
                carry, features = bench.model.filter(carry, seen, batch.prev_action[:, t], batch.is_first[:, t], None)
                found.append(features)
        if not same(expected, torch.stack(found, 1), 1e-3):
            raise CheckFailure(
                "filter on raw observations differs from observe on the same sequence",
                "scale observations in one place; let both run the same step",
            )


def _raw(bench: Bench, rows: int, length: int) -> dict[str, Tensor]:
    """Observations as an environment gives them: uint8 [B, T, H, W, C] and float [B, T, n]."""
    gen, out = stream(6), {}
    for key, entry in bench.specs.obs.entries:
        if entry.kind == "image":
            channels, height, width = entry.shape
            shape = (rows, length, height, width, channels)
            out[key] = torch.randint(0, 256, shape, generator=gen, dtype=torch.uint8)
        else:
            out[key] = 30 * torch.randn(rows, length, *entry.shape, generator=gen)
    return out


def _with_obs(batch: toys.Batch, obs: dict[str, Tensor]) -> toys.Batch:
    return toys.Batch(obs, batch.prev_action, batch.reward, batch.cont, batch.is_first, batch.mask)


@check("W5", role="world_model", title="a dream starts where observation ended")
def dream_continues(subject: Subject) -> None:
    """imagine begins at the features of its carry, and one imagined step equals `step`; pictures have the env's units.

    Catches dreams that start a step late or from another state than the one observed. Fix: features[:, 0] is the carry.
    """
    bench = subject.bench()
    model, plan = bench.model, bench.actions(3, 2)
    with torch.no_grad():
        ctx, seen = model.observe(bench.batch(3, 6), stream(0))
        dream = model.imagine(seen.final, plan, 2, None)
        stepped, features, reward, _ = model.step(seen.final, plan[:, 0], None)
        follow = model.step(stepped, plan[:, 1], None)[1]
        pictures = model.render(dream.features[:, 1])
    chosen = seen.at(torch.arange(3), torch.full((3,), 5))
    for expected, found, what in (
        (ctx.features[:, -1], dream.features[:, 0], "features[:, 0] is not where observation ended"),
        (seen.final, chosen, "observe's `at` and `final` disagree about the last step"),
        ((features, reward), (dream.features[:, 1], dream.reward[:, 0]), "one imagined step differs from step()"),
        (follow, dream.features[:, 2], "two imagined steps differ from two calls of step()"),
    ):
        if not same(expected, found):
            raise CheckFailure(what, "carry state and z from step to step; advance with the last z and action")
    for key, entry in bench.specs.obs.images.items():
        channels, height, width = entry.shape
        if pictures[key].dtype != torch.uint8 or tuple(pictures[key].shape) != (3, height, width, channels):
            raise CheckFailure(
                f"render gives '{key}' as {pictures[key].dtype} {list(pictures[key].shape)}", "uint8 [N,H,W,C]"
            )


@check("W6", role="world_model", title="two builds with one seed learn the same numbers")
def repeatable_training(subject: Subject) -> None:
    """Three updates from one seed give bit-equal parameters.

    Catches global randomness and order-dependent state anywhere in the mix. Fix: see P2, P9 and P11 of the parts.
    """
    states = []
    for _ in range(2):
        bench = subject.bench(seed=4)
        bench.fit(3, rows=4, length=6)
        states.append(bench.model.state_dict())
    if not same(tree.tree_map(torch.clone, states[0]), tree.tree_map(torch.clone, states[1]), 0.0):
        raise CheckFailure(
            "two runs with one seed end with different parameters", "draw from the given generators only"
        )
