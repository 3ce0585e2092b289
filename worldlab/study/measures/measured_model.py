"""The model under measurement: a trained model, the recorded episodes, and its latents along them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from worldlab import rollout, tree
from worldlab.experience.acting import ActingAgent
from worldlab.experience.collect import to_batch
from worldlab.interfaces import Batch, Obs
from worldlab.rollout import Carry
from worldlab.study.measures.recording import Recording
from worldlab.study.measures.regression import Standardiser, check_finite
from worldlab.study.measures.sample_sizes import SampleSizes
from worldlab.study.measures.training_episodes import raise_no_replay
from worldlab.study.measures.undefined import Undefined
from worldlab.training.streams import Streams
from worldlab.world_model import WorldModel

CONTEXT = 5
"""Observations of an episode that a model receives before a dream starts."""
ROWS = 8
"""Episodes whose images are in memory as floats at a time."""


@dataclass(frozen=True)
class Trace:
    """The posterior along a recording. memory [E, T, H] and z [E, T, D] are on the CPU. at(episode, time) returns the
    Carry [M, ...] of these frames, from which a dream can start."""

    memory: Tensor
    z: Tensor
    at: Callable[[Tensor, Tensor], Carry]

    @property
    def features(self) -> Tensor:
        """Concatenate memory and z, [E, T, F]."""
        return torch.cat([self.memory, self.z], -1)


@dataclass(frozen=True)
class MeasuredModel:
    """A trained model with everything that the measures need.

    recording: the episodes. build_untrained: builds the same model with its initial weights. make_env: builds the
    evaluation environment. make_agent: returns the agent with a random stream of the given seed. seed: seeds every
    random draw of a measure. deterministic: whether evaluation uses the agent's most likely actions. cache: a folder
    for results that are the same for all models of an environment. load_training_episodes: loads what the run was
    trained on; raises Undefined where there is no replay. memo: results shared between measures, by name.
    """

    model: WorldModel
    recording: Recording
    build_untrained: Callable[[], WorldModel]
    make_env: Callable[[], gymnasium.Env]
    make_agent: Callable[[int], ActingAgent]
    seed: int = 0
    sizes: SampleSizes = field(default_factory=SampleSizes)
    deterministic: bool = True
    cache: Path | None = None
    load_training_episodes: Callable[[], Recording] = raise_no_replay
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def with_recording(self, recording: Recording) -> MeasuredModel:
        """Return the same model with other episodes."""
        return replace(self, recording=recording, memo={})

    def generator(self, name: str) -> torch.Generator:
        """Return the named random stream, from its start. Streams are independent, so no measure affects another."""
        return Streams(self.seed).torch(name, self.model.device)

    @cached_property
    def mode_trace(self) -> Trace:
        """The most likely latents, as a deterministic agent uses them. Raises: Undefined if they are not finite."""
        return self._infer(self.model, self.embed, None)

    @cached_property
    def sampled_trace(self) -> Trace:
        """Sampled latents, as training and dreams use them. Raises: Undefined if they are not finite."""
        return self._infer(self.model, self.embed, self.generator("trace"))

    @cached_property
    def untrained_trace(self) -> Trace:
        """The most likely latents of the untrained model."""
        model = self.build_untrained().eval()
        return self._infer(model, self._embed(model), None)

    @cached_property
    def embed(self) -> Tensor:
        """The encoder's embedding of every frame, [E, T, *], on the model's device."""
        return self._embed(self.model)

    def batch(self, rows: np.ndarray, model: WorldModel | None = None) -> Batch:
        """Return recorded episodes as a model's input, [len(rows), T, ...]."""
        model = model or self.model
        chosen = {key: value[rows] for key, value in self.recording.data.items()}
        return to_batch(chosen, model.preprocess, model.device)

    def obs(self, episode: Tensor, time: Tensor) -> Obs:
        """Return the preprocessed observations of frames (episode, time) [M]."""
        data, keys = self.recording.data, self.model.specs.obs.keys
        raw = {key: torch.from_numpy(data[key])[episode, time].to(self.model.device) for key in keys}
        return self.model.preprocess(raw)

    @cached_property
    def truth(self) -> Tensor:
        """The true state of every frame, float64 [E, T, K], standardised over the fit frames. Factors that are constant
        in these are excluded. Raises: Undefined."""
        if self.recording.truth is None:
            raise Undefined("this environment exposes no state: neither it nor its adapter has truth()")
        return self.standardise(self.recording.truth)

    def standardise(self, factors: np.ndarray) -> Tensor:
        """Standardise recorded factors [E, T, *] over the fit frames; constant factors are excluded. Raises: Undefined
        if all are constant."""
        values = torch.from_numpy(factors)
        scaling = Standardiser.fit(values[self.frames("fit")])
        if not bool(scaling.varies.any()):
            raise Undefined("all factors are constant in the recorded episodes")
        return scaling(values)[..., scaling.varies]

    def frames(self, split: str) -> tuple[Tensor, Tensor]:
        """Return (episode, time), int [N] each, of the frames of a split: "fit", "validation" or "test"."""
        episode, time = self.recording.frames(split)
        return torch.from_numpy(episode), torch.from_numpy(time)

    def all_frames(self) -> tuple[Tensor, Tensor]:
        """Return (episode, time), int [N] each, of all frames of the recording."""
        episode, time = self.recording.valid.nonzero()
        return torch.from_numpy(episode), torch.from_numpy(time)

    @torch.no_grad()
    def _embed(self, model: WorldModel) -> Tensor:
        episodes, embeds = len(self.recording.length), []
        for rows in np.array_split(np.arange(episodes), -(-episodes // ROWS)):
            obs = self.batch(rows, model).obs
            embeds.append(tree.unflatten_time(model.encoder.embed(tree.flatten_time(obs)), len(rows)))
        return torch.cat(embeds)

    @torch.no_grad()
    def _infer(self, model: WorldModel, embed: Tensor, generator: torch.Generator | None) -> Trace:
        data, device, episodes = self.recording.data, model.device, len(embed)
        action, first = (torch.from_numpy(data[key]).to(device) for key in ("prev_action", "is_first"))
        start = model.initial(episodes)
        use_memory = model.specs.use_memory
        observed = rollout.observe(model.encoder, model.dynamics, embed, action, first, generator, use_memory, start)
        valid = torch.from_numpy(self.recording.valid)
        memory, z = observed.memory.cpu(), observed.latent.z.cpu()
        check_finite(memory[valid], "the memories of this model")
        check_finite(z[valid], "the latents of this model")
        return Trace(memory, z, observed.at)


def sample_frames(episode: Tensor, time: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sample up to `count` of the frames (episode, time) [N] without replacement; their order is preserved."""
    chosen = torch.randperm(len(episode), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return episode[chosen], time[chosen]


def choose_dream_starts(subject: MeasuredModel, horizon: int) -> tuple[Tensor, Tensor]:
    """Choose up to `sizes.starts` frames (episode, time) of each test episode, evenly spaced.

    Each comes after CONTEXT observations and, where the episode is long enough, `horizon` steps before its end.
    Raises: Undefined if no episode is long enough.
    """
    episodes, times = [], []
    for episode in subject.recording.episodes("test").tolist():
        last = int(subject.recording.length[episode]) - 1
        if last <= CONTEXT - 1:
            continue
        latest = max(CONTEXT - 1, last - horizon)
        chosen = np.unique(np.linspace(CONTEXT - 1, latest, subject.sizes.starts).round().astype(int))
        episodes += [episode] * len(chosen)
        times += chosen.tolist()
    if not times:
        raise Undefined(f"no recorded episode continues after {CONTEXT} observations")
    return torch.tensor(episodes), torch.tensor(times)


def gather_actions(recording: Recording, episode: Tensor, time: Tensor, horizon: int) -> Tensor:
    """Return the recorded actions float32 [M, horizon, A] that follow frames (episode, time); 0 after the end."""
    action = torch.from_numpy(recording.data["prev_action"])
    padded = torch.cat([action, action.new_zeros(len(action), horizon, action.shape[-1])], 1)
    return padded[episode[:, None], time[:, None] + 1 + torch.arange(horizon)]


def gather_future(
    recording: Recording, values: Tensor, episode: Tensor, time: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """Return values [E, T, ...] `step` steps after frames (episode, time) [M].

    Returns: the values [M', ...] of frames that exist, and a mask bool [M] of the M' that do.
    """
    exists = time + step < torch.from_numpy(recording.length)[episode]
    return values[episode[exists], time[exists] + step], exists
