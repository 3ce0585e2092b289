"""Loops over time: `observe` runs the posterior along real data, `imagine` runs the prior with a policy or a plan.

Every reset happens in `reset_rows`, so no plugin can omit one, apply it late or leak through a second state tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from worldlab import tree
from worldlab.distributions import tempered
from worldlab.interfaces import Dynamics, Encoder, HasMembers, Latent, ParallelDynamics, State
from worldlab.nn import may_read


@dataclass(frozen=True)
class Particles:
    """K weighted samples of the state of each row: of a filter, given the observations so far (worldlab.model.particles)."""

    state: State
    """Leaves [N, K, ...]."""
    z: Tensor
    """[N, K, D]."""
    log_weight: Tensor
    """Unnormalised log weights of the last step [N, K]."""


@dataclass(frozen=True)
class Carry:
    """The input of the next step, batch first."""

    state: State
    """The state of the dynamics, leaves [N, ...]."""
    z: Tensor
    """The last latent [N, D]."""
    member: Tensor | None = None
    """The member of an ensemble that imagines each row, [N] long; None along real data (HasMembers)."""
    particles: Particles | None = None
    """All particles of a filter with `model.samples` above 1, of which state and z are one; None in dreams."""


Policy = Callable[[Tensor], Tensor]
"""Maps features [N, F] to encoded actions [N, A]."""


@dataclass(frozen=True)
class Observed:
    """The posterior along real data."""

    memory: Tensor
    """[B, T, H]."""
    latent: Latent
    """Leaves [B, T, ...]."""
    final: Carry
    """The carry after the last step."""
    at: Callable[[Tensor, Tensor], Carry]
    """at(row, time) returns the carry [M, ...] at chosen steps, from which to imagine."""
    shared_at: Callable[[Tensor, Tensor], Carry] | None = None
    """The same, row in ascending order, if the dynamics has a form that shares the past of these steps (SharesPast)."""


def initial_carry(dynamics: Dynamics, n: int, latent_dim: int) -> Carry:
    """Return the carry of n rows before the first observation."""
    return Carry(dynamics.initial(n), torch.zeros(n, latent_dim, device=dynamics.device))


def reset_rows(dynamics: Dynamics, carry: Carry, action: Tensor, is_first: Tensor | None) -> tuple[Carry, Tensor]:
    """Replace rows where is_first [N] by the initial carry, and their action by 0. None resets no row."""
    if is_first is None:
        return carry, action
    fresh = initial_carry(dynamics, len(is_first), carry.z.shape[-1])
    return tree.where(is_first, fresh, carry), action * (~is_first)[:, None]


def reset_columns(is_first: Tensor) -> list[Tensor | None]:
    """Split is_first [B, T] by step. A step without a reset gives None, which skips the replacement if values may be read."""
    if not may_read(is_first):
        return list(is_first.unbind(1))
    resets = cast(list[bool], is_first.any(0).tolist())  # pyright: ignore[reportUnknownMemberType]
    return [is_first[:, t] if any_row else None for t, any_row in enumerate(resets)]


def posterior_step(
    encoder: Encoder,
    dynamics: Dynamics,
    carry: Carry,
    embed: Tensor,
    action: Tensor,
    is_first: Tensor | None,
    generator: torch.Generator | None,
    use_memory: bool,
) -> tuple[Carry, Tensor, Latent]:
    """Advance with the last action, then infer z from the observation. Returns carry, memory [N, H] and latent."""
    carry, action = reset_rows(dynamics, carry, action, is_first)
    state = dynamics.advance(carry.state, carry.z, action)
    memory = dynamics.memory(state)
    latent = encoder.infer(embed, memory if use_memory else None, generator)
    return Carry(state, latent.z), memory, latent


def observe(
    encoder: Encoder,
    dynamics: Dynamics,
    embed: Tensor,
    prev_action: Tensor,
    is_first: Tensor,
    generator: torch.Generator | None,
    use_memory: bool,
    carry: Carry,
) -> Observed:
    """Infer latents along embed [B, T, E], prev_action [B, T, A], is_first [B, T], from a carry [B, ...]."""
    if not use_memory:
        return _observe_memoryless(encoder, dynamics, embed, prev_action, is_first, generator, carry)
    carries: list[Carry] = []
    memories: list[Tensor] = []
    latents: list[Latent] = []
    for t, first in enumerate(reset_columns(is_first)):
        carry, memory, latent = posterior_step(
            encoder, dynamics, carry, embed[:, t], prev_action[:, t], first, generator, use_memory
        )
        carries.append(carry)
        memories.append(memory)
        latents.append(latent)
    states = tree.stack(carries)
    return Observed(torch.stack(memories, 1), tree.stack(latents), carry, lambda row, t: tree.select(states, (row, t)))


def _observe_memoryless(
    encoder: Encoder,
    dynamics: Dynamics,
    embed: Tensor,
    prev_action: Tensor,
    is_first: Tensor,
    generator: torch.Generator | None,
    carry: Carry,
) -> Observed:
    """Infer all latents in one pass, then run the dynamics: in one pass if it supports that, else step by step."""
    batch = len(is_first)
    latent = tree.unflatten_time(encoder.infer(embed.flatten(0, 1), None, generator), batch)
    z_before = torch.cat([carry.z[:, None], latent.z[:, :-1]], 1) * (~is_first)[..., None]
    if isinstance(dynamics, ParallelDynamics):
        action = prev_action * (~is_first)[..., None]
        run = dynamics.advance_sequence(carry.state, z_before, action, is_first)
        final = Carry(run.final, latent.z[:, -1])
        shared_at = run.shared_at
        return Observed(
            run.memory,
            latent,
            final,
            lambda row, t: Carry(run.at(row, t), latent.z[row, t]),
            None if shared_at is None else lambda row, t: Carry(shared_at(row, t), latent.z[row, t]),
        )
    states: list[State] = []
    state = carry.state
    for t, first in enumerate(reset_columns(is_first)):
        before, action = reset_rows(dynamics, Carry(state, z_before[:, t]), prev_action[:, t], first)
        state = dynamics.advance(before.state, before.z, action)
        states.append(state)
    stacked = Carry(tree.stack(states), latent.z)
    memory = tree.unflatten_time(dynamics.memory(tree.flatten_time(stacked.state)), batch)
    final = Carry(state, latent.z[:, -1])
    return Observed(memory, latent, final, lambda row, t: tree.select(stacked, (row, t)))


def prior_step(
    dynamics: Dynamics, carry: Carry, action: Tensor, generator: torch.Generator | None, temperature: float = 1.0
) -> tuple[Carry, Tensor]:
    """Imagine one step with action [N, A]. generator None takes the most likely latent.

    Returns carry, features [N, F].
    """
    member = choose_members(dynamics, carry, generator).member
    state = dynamics.advance(carry.state, carry.z, action)
    memory = dynamics.memory(state)
    if member is None:
        z = _draw(dynamics, memory, generator, temperature)
    else:
        z = _draw_by_member(dynamics, memory, member, generator, temperature)
    return Carry(state, z, member), torch.cat([memory, z], -1)


def choose_members(dynamics: Dynamics, carry: Carry, generator: torch.Generator | None) -> Carry:
    """Sample the member of an ensemble that imagines each row from here on, unless the carry has it already.

    Without noise (generator None) no member is sampled, and the first one imagines all rows.
    """
    if generator is None or carry.member is not None or not isinstance(dynamics, HasMembers):
        return carry
    count = len(dynamics.each())
    if count == 1:
        return carry
    shape = (len(carry.z),)
    return replace(carry, member=torch.randint(count, shape, generator=generator, device=carry.z.device))


def _draw(dynamics: Dynamics, memory: Tensor, generator: torch.Generator | None, temperature: float) -> Tensor:
    prior = tempered(dynamics.predict(memory), temperature)
    return prior.mode if generator is None else prior.sample(generator)


def _draw_by_member(
    dynamics: Dynamics, memory: Tensor, member: Tensor, generator: torch.Generator | None, temperature: float
) -> Tensor:
    """Draw the latent of each row from the prior of its member. Each member computes its own rows only."""
    assert isinstance(dynamics, HasMembers)
    parts = dynamics.each()
    order = member.argsort(stable=True)
    counts = cast(list[int], torch.bincount(member, minlength=len(parts)).tolist())  # pyright: ignore[reportUnknownMemberType]
    rows = torch.split(memory[order], counts)
    drawn = [_draw(part, own, generator, temperature) for part, own in zip(parts, rows, strict=True) if len(own)]
    return torch.cat(drawn)[order.argsort()]


def carry_features(dynamics: Dynamics, carry: Carry) -> Tensor:
    """Return features = cat(memory, z) of a carry, [N, F]."""
    return torch.cat([dynamics.memory(carry.state), carry.z], -1)


def imagine(
    dynamics: Dynamics,
    carry: Carry,
    policy: Policy | Tensor,
    horizon: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Roll out the prior from a carry [N, ...], with a policy or a plan of actions [N, H, A].

    Returns features [N, H+1, F] and action [N, H, A]: action[:, k] was taken AT features[:, k] and
    led to features[:, k+1].
    """
    features = [carry_features(dynamics, carry)]
    actions: list[Tensor] = []
    for k in range(horizon):
        action = policy[:, k] if isinstance(policy, Tensor) else policy(features[-1])
        carry, next_features = prior_step(dynamics, carry, action, generator)
        actions.append(action)
        features.append(next_features)
    return torch.stack(features, 1), torch.stack(actions, 1)
