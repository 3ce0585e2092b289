"""The adversarial dynamics: a recurrent memory and a generator of the next latent, trained by critics."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from worldlab import tree
from worldlab.interfaces import ActionSpec, Alarm, Context, Dynamics, LatentSpec, Player, Specs, State
from worldlab.nn import RecurrentMemory
from worldlab_gan.adversarial import (
    critic_metrics,
    critic_terms,
    critic_weights,
    evaluate_pair,
    game_players,
    generator_loss,
    limit_slopes,
    matching_loss,
)
from worldlab_gan.averages import RunningAverage
from worldlab_gan.configs import Game, GANDynamicsConfig
from worldlab_gan.critics import VectorCritic
from worldlab_gan.energy import distance, energy_score, spread
from worldlab_gan.generators import Generated, LatentGenerator
from worldlab_gan.temporal import WINDOW_LENGTH, Windows, extract_windows, place_at_start


@final
class GANDynamics(Dynamics):
    """An implicit dynamics: h' = GRU(h, z, a); z' = G(h', eps).

    Relativistic pairs with both gradient penalties: Huang et al. 2025, arXiv:2501.05441. Projection critic: Miyato &
    Koyama 2018, arXiv:1802.05637. The energy score as an anchor: Bouchacourt et al. 2016, arXiv:1606.02556. The target
    latents are always detached: no term here trains an encoder.
    """

    Config = GANDynamicsConfig
    prior_kind = "sampler"
    reparameterised = True

    def __init__(self, config: GANDynamicsConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.game = Game.of(config.loss, config.r1, config.r2)
        dim, action = specs.latent.dim, specs.action.dim
        self.recurrence = RecurrentMemory(dim + action, config.units, config.memory)
        self.generator = LatentGenerator(
            config.memory, config.noise, config.units, config.layers, specs.latent, config.unimix
        )
        self.average = RunningAverage(self.generator, config.average)
        critic = critic_weights(self.game)
        self.loss_weights = {
            "adversarial": config.adversarial_scale,
            "energy": config.energy_scale,
            **critic,
            "temporal": config.adversarial_scale,
            **{f"temporal_{name}": weight for name, weight in critic.items()},
            "temporal_swapped": 1.0,
        }
        self.critic = VectorCritic(dim, config.memory, config.units, config.critic_layers)
        self.temporal: VectorCritic | None = None
        if config.temporal:
            self.temporal = VectorCritic(2 * dim, dim + 2 * action, config.units, config.critic_layers)
        limit_slopes(self.game, self.critic, self.temporal)

    @classmethod
    def memory_size(cls, config: GANDynamicsConfig, latent: LatentSpec, action: ActionSpec) -> int:
        return config.memory

    def players(self) -> dict[str, Player]:
        temporal = [] if self.temporal is None else list(self.temporal.parameters())
        main = [*self.recurrence.parameters(), *self.generator.parameters()]
        return game_players(main, [*self.critic.parameters(), *temporal])

    def initial(self, n: int) -> State:
        return self.recurrence.initial(n)

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        return self.recurrence.step(state, z, action)

    def memory(self, state: State) -> Tensor:
        return state["h"]

    def predict(self, memory: Tensor) -> Generated:
        """Return the samples of the averaged generator for memory [N, H]. Gradients reach the memory, not the average's
        weights.
        """
        return Generated(memory, self.average.mean)

    def score_latent(self, memory: Tensor, z: Tensor) -> Tensor:
        """Estimate log p(z | h) - log q(z | h), [N] in nats up to a function of h, by minus the critic's value. For a
        hinge or wasserstein critic only the sign is right.

        The critic is high where inferred latents are and dreams are not. An encoder that maximised it would move away
        from the predictions, and the generator would follow. KL(q || p) falls where the critic falls (README.md has the
        numbers).
        """
        return -self.critic(z, memory)

    def after_step(self, player: str) -> None:
        if player == "main":
            self.average.update(self.generator)
        else:
            limit_slopes(self.game, self.critic, self.temporal)

    def losses(self, ctx: Context, player: str = "main") -> dict[str, Tensor]:
        """Return the player's terms, [B, T] each. main: `adversarial` (nats of the critic's classification), `energy`
        (units of z), `temporal`. critic: the games and their penalties. Terms of windows are placed at the step where
        the window starts.
        """
        if player not in ("main", "critic"):
            return {}
        z, memory = ctx.latent.z.detach().flatten(0, 1), ctx.memory.flatten(0, 1)
        terms = (
            self._generator_terms(z, memory, ctx.generator)
            if player == "main"
            else self._critic_terms(z, memory, ctx.generator)
        )
        out = tree.unflatten_time(terms, len(ctx.row))
        if self.temporal is not None and ctx.row.shape[1] >= WINDOW_LENGTH:
            windows = extract_windows(ctx.latent.z.detach(), ctx.memory, ctx.batch)
            temporal_terms = self._temporal_generator_terms if player == "main" else self._temporal_critic_terms
            out.update(temporal_terms(self.temporal, windows, ctx.generator))
        return out

    def _generator_terms(self, z: Tensor, memory: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        condition = memory.detach()  # the memory is trained to predict, not to deceive the critic
        samples = self._draw_samples(self.generator, memory, generator)
        count = len(samples)
        fake = self.critic(samples.flatten(0, 1), condition.repeat(count, 1)).unflatten(0, (count, -1))
        adversarial = generator_loss(self.game, self.critic(z, condition), fake).mean(0)
        return {
            "adversarial": adversarial,
            "energy": energy_score(samples, z),
        }

    def _critic_terms(self, z: Tensor, memory: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = self.generator(memory, self.generator.draw(memory, generator))
        return critic_terms(self.game, evaluate_pair(self.game, self.critic, z, fake, memory, generator))

    def _draw_samples(self, network: nn.Module, memory: Tensor, generator: torch.Generator) -> Tensor:
        """Draw latents [S, N, D] from memory [N, H]."""
        repeated = memory.repeat(self.config.samples, 1)
        noise = network.draw(repeated, generator)  # type: ignore[operator]
        return network(repeated, noise).unflatten(0, (self.config.samples, -1))

    # ---- windows of three steps ----

    def _temporal_generator_terms(
        self, critic: VectorCritic, windows: Windows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        real = critic(windows.next_latents, windows.condition)
        adversarial = generator_loss(
            self.game, real, critic(self._generate_two_steps(windows, generator), windows.condition)
        )
        return {"temporal": place_at_start(adversarial, windows.valid)}

    def _temporal_critic_terms(
        self, critic: VectorCritic, windows: Windows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = self._generate_two_steps(windows, generator)
        outputs = evaluate_pair(self.game, critic, windows.next_latents, fake, windows.condition, generator)
        out = {
            f"temporal_{name}": place_at_start(term, windows.valid)
            for name, term in critic_terms(self.game, outputs).items()
        }
        swapped = matching_loss(self.game, outputs.real.value, critic.head(outputs.real.embedding, windows.swapped))
        out["temporal_swapped"] = place_at_start(swapped, windows.swappable)
        return out

    def _generate_two_steps(self, windows: Windows, generator: torch.Generator) -> Tensor:
        """Generate two consecutive latents, the second from a memory that has read the first: [W, 2 D]."""
        draw = self.generator.draw
        first = self.generator(windows.memory, draw(windows.memory, generator))
        after = self.memory(self.advance({"h": windows.memory}, first, windows.action))
        return torch.cat([first, self.generator(after, draw(after, generator))], -1)

    # ---- metrics ----

    def metrics(self, ctx: Context) -> dict[str, Tensor]:
        """Return the critic's gap and slope; `energy_score` of the averaged generator; `spread`, the mean distance
        between samples relative to their distance from the true latent (1: calibrated, below 1: modes are dropped);
        `action_gap`, the rise of the energy score when the last action is taken from another row (0: the predictions
        ignore the action).
        """
        # A separate generator: metrics must not advance the random stream of training.
        generator = torch.Generator(ctx.row.device).manual_seed(0)
        z, memory = ctx.latent.z.flatten(0, 1), ctx.memory.flatten(0, 1)
        samples = self._draw_samples(self.average.mean, memory, generator)
        score = energy_score(samples, z)
        out = critic_metrics(self.critic, z, samples[0], memory)
        out["energy_score"] = score.mean()
        out["spread"] = spread(samples).mean() / distance(samples, z).mean().clamp(min=1e-8)
        if ctx.row.shape[0] > 1 and ctx.row.shape[1] > 1:
            out["action_gap"] = self._action_gap(ctx, score.view_as(ctx.row), generator)
        return out

    def alarms(self, values: dict[str, float]) -> dict[str, Alarm]:
        if values.get("spread", 1.0) > 0.5:
            return {}
        message = "samples from one memory vary far less than the true latents: the generator drops modes"
        return {"modes_dropped": Alarm(message, "raise --dynamics.energy-scale")}

    def _action_gap(self, ctx: Context, score: Tensor, generator: torch.Generator) -> Tensor:
        batch, z = ctx.batch, ctx.latent.z
        before = {"h": ctx.memory[:, :-1].flatten(0, 1)}
        other_action = batch.prev_action.roll(1, 0)[:, 1:].flatten(0, 1)
        memory = self.memory(self.advance(before, z[:, :-1].flatten(0, 1), other_action))
        samples = self._draw_samples(self.average.mean, memory, generator)
        shuffled = energy_score(samples, z[:, 1:].flatten(0, 1)).view_as(score[:, 1:])
        # The first step of an episode has no previous action, so neither this row nor the other row may start one.
        valid = batch.mask[:, 1:] * ~batch.is_first[:, 1:] * ~batch.is_first.roll(1, 0)[:, 1:]
        return ((shuffled - score[:, 1:]) * valid).sum() / valid.sum().clamp(min=1)
