"""What is measured: a trained model, the recorded episodes it is shown, and what it makes of them."""

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
from worldlab.study.measures.experience import none_kept
from worldlab.study.measures.recording import Recording
from worldlab.study.measures.regress import Scaling, finite
from worldlab.study.measures.sizes import Sizes
from worldlab.study.measures.undefined import Undefined
from worldlab.training.streams import Streams
from worldlab.world_model import WorldModel

SEEN = 5
"""Observations a model has had of an episode before it is asked to dream on."""
ROWS = 8
"""Episodes whose pictures are in memory as floats at a time."""


@dataclass(frozen=True)
class Trace:
    """The posterior along a recording, on the CPU but for `at`. memory [E, T, H], z [E, T, D]; at(episode, time): the Carry
    [M, ...] there, from which to dream."""

    memory: Tensor
    z: Tensor
    at: Callable[[Tensor, Tensor], Carry]

    @property
    def features(self) -> Tensor:
        """cat(memory, z), [E, T, F]."""
        return torch.cat([self.memory, self.z], -1)


@dataclass(frozen=True)
class Specimen:
    """A trained model and all that measures need beside it.

    fresh: builds the same model as it was before any training. make: its environment, as evaluation builds it. acting: its agent
    with a random stream of a seed. seed: of every draw that a measure makes. deterministic: whether evaluation judges the agent's
    most likely actions. keep: a folder for what is the same for every model of an environment. experience: what the run was
    trained on; raises Undefined where that is not there. memo: what measures share, by name.
    """

    model: WorldModel
    recording: Recording
    fresh: Callable[[], WorldModel]
    make: Callable[[], gymnasium.Env]
    acting: Callable[[int], ActingAgent]
    seed: int = 0
    sizes: Sizes = field(default_factory=Sizes)
    deterministic: bool = True
    keep: Path | None = None
    experience: Callable[[], Recording] = none_kept
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def with_recording(self, recording: Recording) -> Specimen:
        """The same model on other episodes."""
        return replace(self, recording=recording, memo={})

    def generator(self, name: str) -> torch.Generator:
        """A random stream of a name, from its beginning: what one measure draws is nothing to another."""
        return Streams(self.seed).torch(name, self.model.device)

    @cached_property
    def quiet(self) -> Trace:
        """The most likely latents, as a deterministic agent has them. Raises: Undefined if they are not finite."""
        return self._trace(self.model, self.embed, None)

    @cached_property
    def noisy(self) -> Trace:
        """Sampled latents, as training and dreams have them. Raises: Undefined if they are not finite."""
        return self._trace(self.model, self.embed, self.generator("trace"))

    @cached_property
    def untrained(self) -> Trace:
        """The most likely latents of the same model before training."""
        model = self.fresh().eval()
        return self._trace(model, self._embedded(model), None)

    @cached_property
    def embed(self) -> Tensor:
        """What the encoder makes of every frame by itself, [E, T, *] on the model's device."""
        return self._embedded(self.model)

    def batch(self, rows: np.ndarray, model: WorldModel | None = None) -> Batch:
        """Recorded episodes as a model sees them: [len(rows), T, ...]."""
        model = model or self.model
        chosen = {key: value[rows] for key, value in self.recording.data.items()}
        return to_batch(chosen, model.preprocess, model.device)

    def obs(self, episode: Tensor, time: Tensor) -> Obs:
        """What the model sees of frames (episode, time) [M]."""
        data, keys = self.recording.data, self.model.specs.obs.keys
        raw = {key: torch.from_numpy(data[key])[episode, time].to(self.model.device) for key in keys}
        return self.model.preprocess(raw)

    @cached_property
    def truth(self) -> Tensor:
        """The true state of every frame, standardised by the frames that are learned from: float64 [E, T, K], without factors
        that never move in these. Raises: Undefined."""
        if self.recording.truth is None:
            raise Undefined("this environment exposes no state: neither it nor its adapter has truth()")
        return self.standardised(self.recording.truth)

    def standardised(self, factors: np.ndarray) -> Tensor:
        """Those of recorded factors [E, T, *] that move, with mean 0 and std 1 over the frames that are learned from. Raises:
        Undefined if none does."""
        values = torch.from_numpy(factors)
        scaling = Scaling.of(values[self.frames("fit")])
        if not bool(scaling.alive.any()):
            raise Undefined("no factor moves in the recorded episodes")
        return scaling(values)[..., scaling.alive]

    def frames(self, part: str) -> tuple[Tensor, Tensor]:
        """(episode, time), int [N] each, of the frames of a part of the recording: "fit", "stop", "test"."""
        episode, time = self.recording.frames(part)
        return torch.from_numpy(episode), torch.from_numpy(time)

    def every_frame(self) -> tuple[Tensor, Tensor]:
        """The same of all frames of the recording."""
        episode, time = self.recording.valid.nonzero()
        return torch.from_numpy(episode), torch.from_numpy(time)

    @torch.no_grad()
    def _embedded(self, model: WorldModel) -> Tensor:
        episodes, embeds = len(self.recording.length), []
        for rows in np.array_split(np.arange(episodes), -(-episodes // ROWS)):
            obs = self.batch(rows, model).obs
            embeds.append(tree.unflatten_time(model.encoder.embed(tree.flatten_time(obs)), len(rows)))
        return torch.cat(embeds)

    @torch.no_grad()
    def _trace(self, model: WorldModel, embed: Tensor, generator: torch.Generator | None) -> Trace:
        data, device, episodes = self.recording.data, model.device, len(embed)
        action, first = (torch.from_numpy(data[key]).to(device) for key in ("prev_action", "is_first"))
        start = model.initial(episodes)
        use_memory = model.specs.use_memory
        seen = rollout.observe(model.encoder, model.dynamics, embed, action, first, generator, use_memory, start)
        valid = torch.from_numpy(self.recording.valid)
        memory, z = seen.memory.cpu(), seen.latent.z.cpu()
        finite(memory[valid], "the memories of this model")
        finite(z[valid], "the latents of this model")
        return Trace(memory, z, seen.at)


def some(episode: Tensor, time: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Up to `count` random ones of frames (episode, time) [N], in their order."""
    chosen = torch.randperm(len(episode), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return episode[chosen], time[chosen]


def where_dreams_begin(specimen: Specimen, horizon: int) -> tuple[Tensor, Tensor]:
    """(episode, time) of up to `sizes.starts` frames of each judged episode, spread out, at least SEEN observations into it and,
    where it is long enough, `horizon` before its end. Raises: Undefined if no episode lasts that long."""
    episodes, times = [], []
    for episode in specimen.recording.episodes("test").tolist():
        last = int(specimen.recording.length[episode]) - 1
        if last <= SEEN - 1:
            continue
        latest = max(SEEN - 1, last - horizon)
        chosen = np.unique(np.linspace(SEEN - 1, latest, specimen.sizes.starts).round().astype(int))
        episodes += [episode] * len(chosen)
        times += chosen.tolist()
    if not times:
        raise Undefined(f"no recorded episode goes on after {SEEN} observations")
    return torch.tensor(episodes), torch.tensor(times)


def plan(recording: Recording, episode: Tensor, time: Tensor, horizon: int) -> Tensor:
    """The actions float32 [M, horizon, A] that were taken after frames (episode, time); 0 after an episode's end."""
    action = torch.from_numpy(recording.data["prev_action"])
    padded = torch.cat([action, action.new_zeros(len(action), horizon, action.shape[-1])], 1)
    return padded[episode[:, None], time[:, None] + 1 + torch.arange(horizon)]


def future(recording: Recording, values: Tensor, episode: Tensor, time: Tensor, step: int) -> tuple[Any, Tensor]:
    """What values [E, T, ...] were `step` later, and where there was a frame then: ([M', ...], bool [M] of M' true ones)."""
    there = time + step < torch.from_numpy(recording.length)[episode]
    return values[episode[there], time[there] + step], there
