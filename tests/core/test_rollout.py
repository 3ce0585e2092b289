from dataclasses import dataclass

import pytest
import torch
from model_kit import MEMORY, build_parts, gen
from torch import Tensor

from worldlab import rollout, tree
from worldlab.interfaces import Dynamics, LatentSpec
from worldlab.model.noise import noise_batch
from worldlab.testing.toys import ACTIONS

MIXES = [
    pytest.param(True, False, id="reads-memory"),
    pytest.param(False, False, id="memoryless"),
    pytest.param(False, True, id="parallel"),
]


@dataclass
class World:
    specs: object
    encoder: object
    dynamics: object
    embed: Tensor
    action: Tensor
    is_first: Tensor
    use_memory: bool

    def carry(self):
        return rollout.initial_carry(self.dynamics, len(self.embed), self.specs.latent.dim)

    def observe(self, generator=None, carry=None, embed=None, time=slice(None)):
        embed = self.embed if embed is None else embed
        return rollout.observe(
            self.encoder,
            self.dynamics,
            embed[:, time],
            self.action[:, time],
            self.is_first[:, time],
            generator,
            self.use_memory,
            self.carry() if carry is None else carry,
        )


def make(use_memory: bool, parallel: bool, kind="gaussian", rows: int = 3, length: int = 8) -> World:
    specs, encoder, dynamics, _ = build_parts(use_memory=use_memory, parallel=parallel, kind=kind)
    batch = noise_batch(specs.obs, specs.action, rows, length, gen())
    embed = tree.unflatten_time(encoder.embed(tree.flatten_time(batch.obs)), rows).detach()
    # Raw data at resets: the core, not the data, must make the action vanish there.
    action = batch.prev_action + 1.0
    return World(specs, encoder, dynamics, embed, action, batch.is_first, use_memory)


@pytest.mark.parametrize("use_memory, parallel", MIXES)
def test_observe_is_a_loop_over_posterior_step(use_memory, parallel):
    world = make(use_memory, parallel)
    seen, carry = world.observe(), world.carry()
    for t in range(world.embed.shape[1]):
        carry, memory, latent = rollout.posterior_step(
            world.encoder, world.dynamics, carry, world.embed[:, t], world.action[:, t], world.is_first[:, t], None,
            use_memory,
        )  # fmt: skip
        torch.testing.assert_close(seen.memory[:, t], memory)
        torch.testing.assert_close(seen.latent.z[:, t], latent.z)
        row = torch.arange(len(memory))
        at = seen.at(row, torch.full_like(row, t))
        for ours, theirs in zip(tree.leaves(at), tree.leaves(carry), strict=True):
            torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(tree.leaves(seen.final), tree.leaves(carry), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_observe_with_noise_is_the_loop_with_the_same_noise():
    world = make(True, False)
    seen, carry, noise = world.observe(gen(3)), world.carry(), gen(3)
    for t in range(world.embed.shape[1]):
        carry, _, latent = rollout.posterior_step(
            world.encoder, world.dynamics, carry, world.embed[:, t], world.action[:, t], world.is_first[:, t], noise,
            True,
        )  # fmt: skip
        torch.testing.assert_close(seen.latent.z[:, t], latent.z)


def test_memoryless_and_parallel_paths_equal_the_general_one():
    """The same components, an encoder that ignores memory, driven through each of the three code paths."""
    for parallel in (False, True):
        world = make(False, parallel)
        fast = world.observe()

        class Ignores(torch.nn.Module):
            def infer(self, embed, memory, generator, encoder=world.encoder):
                return encoder.infer(embed, None, generator)

        general = rollout.observe(
            Ignores(), world.dynamics, world.embed, world.action, world.is_first, None, True, world.carry()
        )
        torch.testing.assert_close(fast.memory, general.memory)
        torch.testing.assert_close(fast.latent.z, general.latent.z)


@pytest.mark.parametrize("use_memory, parallel", MIXES)
def test_a_sequence_may_be_cut_anywhere_and_carried_on(use_memory, parallel):
    world = make(use_memory, parallel)
    whole = world.observe()
    for cut in (1, 4, 7):
        first = world.observe(time=slice(0, cut))
        second = world.observe(time=slice(cut, None), carry=first.final)
        torch.testing.assert_close(torch.cat([first.memory, second.memory], 1), whole.memory)


@pytest.mark.parametrize("use_memory, parallel", MIXES)
def test_a_reset_isolates_values(use_memory, parallel):
    """After the reset at step 4 of row 0 all is as if the episode had begun there, whatever came before."""
    world = make(use_memory, parallel)
    assert world.is_first[0, 4]
    whole = world.observe()
    late = world.observe(time=slice(4, None))
    torch.testing.assert_close(whole.memory[0, 4:], late.memory[0])
    disturbed = world.embed.clone()
    disturbed[0, :4] += 5
    moved = world.observe(embed=disturbed)
    assert torch.equal(moved.memory[0, 4:], whole.memory[0, 4:])
    assert not torch.equal(moved.memory[0, 1:4], whole.memory[0, 1:4])


@pytest.mark.parametrize("use_memory, parallel", MIXES)
def test_a_reset_isolates_gradients_and_rows(use_memory, parallel):
    world = make(use_memory, parallel)
    embed = world.embed.clone().requires_grad_()
    action = world.action.clone().requires_grad_()
    world.action = action
    seen = world.observe(embed=embed)
    seen.memory[0, 7].sum().backward()
    assert embed.grad is not None and action.grad is not None
    assert embed.grad[0, 4:7].any()
    assert not embed.grad[0, :4].any() and not embed.grad[1:].any()
    assert not action.grad[0, :5].any(), "the action into a reset must not count"
    assert action.grad[0, 5:].any()


@pytest.mark.parametrize("use_memory, parallel", MIXES)
def test_the_memory_of_a_step_never_sees_its_own_observation_or_later_ones(use_memory, parallel):
    world = make(use_memory, parallel)
    embed = world.embed.clone().requires_grad_()
    world.observe(embed=embed).memory[1, 5].sum().backward()
    assert embed.grad is not None
    assert embed.grad[1, 4].any() and not embed.grad[1, 5:].any()


def test_reset_rows_replaces_exactly_the_marked_rows():
    world = make(True, False)
    carry = rollout.Carry({"h": torch.ones(3, MEMORY)}, torch.ones(3, 4))
    mask = torch.tensor([False, True, False])
    after, action = rollout.reset_rows(world.dynamics, carry, torch.ones(3, 2), mask)
    assert after.state["h"].sum(1).tolist() == [MEMORY, 0, MEMORY]
    assert after.z.sum(1).tolist() == [4, 0, 4] and action.sum(1).tolist() == [2, 0, 2]


class Counter(Dynamics):
    """A world one can compute by hand: h' = h + 10 a + z, p(z | h) a point at 1. Everything is known in advance."""

    prior_kind = "analytic"

    def __init__(self) -> None:
        super().__init__(None, None)  # type: ignore[arg-type]
        self.one = torch.nn.Parameter(torch.ones(()))

    @classmethod
    def memory_size(cls, config, latent: LatentSpec, action) -> int:
        return 1

    def initial(self, n: int):
        return {"h": torch.zeros(n, 1)}

    def advance(self, state, z, action):
        return {"h": state["h"] + 10 * action[:, :1] + z}

    def memory(self, state):
        return state["h"]

    def predict(self, memory):
        return Point(torch.ones_like(memory))


@dataclass(frozen=True)
class Point:
    mode: Tensor

    def sample(self, generator) -> Tensor:
        return self.mode


def test_imagine_follows_the_plan_action_k_leads_to_features_k_plus_1():
    carry = rollout.Carry({"h": torch.tensor([[100.0], [200.0]])}, torch.tensor([[2.0], [0.0]]))
    plan = torch.tensor([[[1.0], [3.0], [0.0]], [[0.0], [0.0], [2.0]]])
    features, action = rollout.imagine(Counter(), carry, plan, 3, None)
    # h after each step: 100 + 10 + 2, then + 30 + 1, then + 0 + 1
    assert features[0].tolist() == [[100, 2], [112, 1], [143, 1], [144, 1]]
    assert features[1].tolist() == [[200, 0], [200, 1], [201, 1], [222, 1]]
    assert torch.equal(action, plan)


def test_imagine_asks_the_policy_at_the_features_it_acts_from():
    carry = rollout.Carry({"h": torch.tensor([[0.0]])}, torch.tensor([[0.0]]))
    asked = []

    def policy(features: Tensor) -> Tensor:
        asked.append(features.clone())
        return features[:, :1] + 1

    features, action = rollout.imagine(Counter(), carry, policy, 3, None)
    torch.testing.assert_close(torch.stack(asked, 1), features[:, :-1])
    torch.testing.assert_close(action, features[:, :-1, :1] + 1)


def test_imagine_is_prior_step_in_a_loop_and_without_noise_takes_the_mode():
    specs, _, dynamics, _ = build_parts()
    carry = rollout.initial_carry(dynamics, 3, specs.latent.dim)
    plan = torch.randn(3, 4, ACTIONS["continuous"].dim, generator=gen())
    for seed in (None, 5):
        features, _ = rollout.imagine(dynamics, carry, plan, 4, None if seed is None else gen(seed))
        noise, step = (None if seed is None else gen(seed)), carry
        for k in range(4):
            step, expected = rollout.prior_step(dynamics, step, plan[:, k], noise)
            torch.testing.assert_close(features[:, k + 1], expected)
            prior = dynamics.predict(expected[:, :MEMORY])
            assert torch.equal(expected[:, MEMORY:], prior.mode) == (seed is None)


def test_nothing_is_changed_in_place():
    world = make(True, False)
    carry = rollout.initial_carry(world.dynamics, 3, 4)
    before = [leaf.clone() for leaf in tree.leaves(carry)]
    world.observe(carry=carry)
    rollout.imagine(world.dynamics, carry, torch.ones(3, 2, 2), 2, gen())
    assert all(torch.equal(a, b) for a, b in zip(before, tree.leaves(carry), strict=True))
