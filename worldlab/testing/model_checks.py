"""Checks of a whole world model: its parts work together and learn from toy data."""

from __future__ import annotations

import torch
from torch import Tensor

from worldlab import tree
from worldlab.model.losses import model_losses
from worldlab.model.noise import stream
from worldlab.testing import toys
from worldlab.testing.bench import Bench, Subject
from worldlab.testing.checks import CheckFailure, check
from worldlab.testing.probes import r2, same


@check("W1", role="world_model", title="imagined rewards follow the action that earned them", slow=True)
def reward_alignment(subject: Subject) -> None:
    """After training on data in which each reward equals the action that led to it, imagined reward[k] correlates with
    action[k] and not with action[k - 1] or action[k + 1].

    Catches rewards that are off by one step in storage, training or imagination: an agent would credit the wrong
    action.
    Fix: align by arrival everywhere: prev_action[t] led to obs[t], where reward[t] was received.
    """
    bench = subject.with_default_losses().bench("vector image")
    batch = toys.rewarded_action(bench.specs.obs, bench.specs.action, 64, 4, stream(9))
    plan = bench.actions(64, 6)

    @torch.no_grad()
    def correlations() -> dict[str, float]:
        carry = bench.model.observe(batch, stream(0))[1].final
        reward = bench.model.imagine(carry, plan, 6, stream(0)).reward[:, 1:5]
        return {f"action[k{lag:+d}]": _correlation(plan[:, 1 + lag : 5 + lag, 0], reward) for lag in (0, 1, -1)}

    def aligned() -> bool:
        aligned_value, *shifted = correlations().values()
        return aligned_value > 0.7 and aligned_value > max(shifted) + 0.4

    bench.fit(200, toys.rewarded_action, rows=16, length=6, until=aligned)
    if not aligned():
        values = ", ".join(f"{name} {value:.2f}" for name, value in correlations().items())
        raise CheckFailure(
            f"imagined reward[k] does not follow action[k] (correlation with {values})",
            "align rewards by arrival in every loop",
        )


def _correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].nan_to_num())


@check("W2", role="world_model", title="it learns the position of a moving dot", slow=True)
def moving_dot(subject: Subject) -> None:
    """Within 300 updates the reward head explains over 90 % of the variance of the reward, the dot's position, on
    held-out data.

    Catches representations that lose the only moving object, and gradients that never reach the encoder.
    Fix: find the loss that trains the encoder; increase its weight.
    """
    bench = subject.with_default_losses().bench("image vector")
    batch = toys.moving_dot(bench.specs.obs, bench.specs.action, 64, 8, stream(9))

    @torch.no_grad()
    def reward_r2() -> float:
        features = bench.context(batch).features
        return r2(batch.reward[:, 1:], bench.model.reward(features).mean[:, 1:])

    bench.fit(300, rows=16, length=8, until=lambda: reward_r2() > 0.9)
    if reward_r2() < 0.9:
        raise CheckFailure(
            f"reward R2 on a moving dot is {reward_r2():.2f} after 300 updates", "check which loss trains the encoder"
        )


@check("W3", role="world_model", title="each player's losses train only its own parameters")
def player_isolation(subject: Subject) -> None:
    """The players of the model list every trainable parameter exactly once, and a critic's losses give no gradient to
    the parameters of another player.

    Catches a critic that leaks into main through another component. Fix: detach main's outputs in the critic's losses.
    """
    bench = subject.bench()
    players = {name: player.parameters for name, player in bench.model.players().items()}
    held = [id(p) for group in players.values() for p in group]
    missing = {id(p) for p in bench.model.parameters() if p.requires_grad} - set(held)
    if missing or len(held) != len(set(held)):
        raise CheckFailure("players() does not list every parameter exactly once", "run check P3 on each component")
    ctx = bench.context()
    for player, group in players.items():
        if player == "main":
            continue
        others = [p for p in bench.model.parameters() if p.requires_grad and id(p) not in {id(q) for q in group}]
        terms = model_losses(bench.model, ctx.detach(), player)
        total = torch.stack([term.value.sum() for term in terms.values()]).sum()
        found = torch.autograd.grad(total, others, allow_unused=True)
        if any(grad is not None and grad.abs().sum() > 0 for grad in found):
            raise CheckFailure(
                f"the {player}'s losses train parameters of another player", "run check P7 on each component"
            )


@check("W4", role="world_model", title="acting and training compute the same features")
def filter_is_observe(subject: Subject) -> None:
    """filter, applied step by step to raw uint8 images and raw vectors, gives the same features as observe on the whole
    sequence.

    Catches observations that are scaled differently in acting and in training, and paths that treat resets differently.
    Fix: scale only in the core's Preprocessor; build both paths from one function.
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
                obs = {key: value[:, t] for key, value in raw.items()}
                carry, features = bench.model.filter(carry, obs, batch.prev_action[:, t], batch.is_first[:, t], None)
                found.append(features)
        if not same(expected, torch.stack(found, 1), 1e-3):
            raise CheckFailure(
                "filter on raw observations differs from observe on the same sequence",
                "scale observations in one place; use the same step function in both",
            )


def _raw(bench: Bench, rows: int, length: int) -> dict[str, Tensor]:
    """Return random observations in the format of an environment: uint8 [B, T, H, W, C] and float [B, T, n]."""
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


@check("W5", role="world_model", title="imagination starts from the last observed state")
def dream_continues(subject: Subject) -> None:
    """The first features of imagine are those of its carry, each imagined step equals a call of `step`, and render
    returns uint8 images [N, H, W, C].

    Catches imagination that starts one step late or from a different state than the last observed one.
    Fix: return the carry's features as features[:, 0].
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
        (ctx.features[:, -1], dream.features[:, 0], "features[:, 0] differs from the last observed features"),
        (seen.final, chosen, "`at` and `final` of observe give different last steps"),
        ((features, reward), (dream.features[:, 1], dream.reward[:, 0]), "one imagined step differs from step()"),
        (follow, dream.features[:, 2], "two imagined steps differ from two calls of step()"),
    ):
        if not same(expected, found):
            raise CheckFailure(what, "carry state and z from step to step; advance with the last z and action")
    for key, entry in bench.specs.obs.images.items():
        channels, height, width = entry.shape
        if pictures[key].dtype != torch.uint8 or tuple(pictures[key].shape) != (3, height, width, channels):
            raise CheckFailure(
                f"render returns '{key}' as {pictures[key].dtype} {list(pictures[key].shape)}",
                "return uint8 [N, H, W, C]",
            )


@check("W6", role="world_model", title="training with the same seed gives the same parameters")
def repeatable_training(subject: Subject) -> None:
    """Three updates of two models built with the same seed give bit-equal parameters.

    Catches global random generators and order-dependent state anywhere in the world model. Fix: run checks P2, P9 and
    P11 on each component.
    """
    states = []
    for _ in range(2):
        bench = subject.bench(seed=4)
        bench.fit(3, rows=4, length=6)
        states.append(bench.model.state_dict())
    if not same(tree.tree_map(torch.clone, states[0]), tree.tree_map(torch.clone, states[1]), 0.0):
        raise CheckFailure(
            "two runs with the same seed end with different parameters", "draw only from the given generators"
        )
