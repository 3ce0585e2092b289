"""A network that is taught the true state outright: how much of it pictures and actions give away at all."""

from __future__ import annotations

import copy
from itertools import count, islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import worldlab
from worldlab.interfaces import Obs
from worldlab.model.preprocess import Preprocessor
from worldlab.nn import ObsTrunk, ema_update, mlp
from worldlab.specs import Specs
from worldlab.study.compare.code import code_digest
from worldlab.study.compare.identity import CELL
from worldlab.study.measures.kept import digest, kept
from worldlab.study.measures.regress import seeded, stop_early
from worldlab.study.measures.specimen import ROWS, Specimen

PAST = 4
"""Frames it looks at: one does not show a speed."""
WIDTH, UNITS = 8, 128
"""Of its convolutions and of its hidden layers."""
SEQUENCES, STEPS = 8, 16
"""Sequences in an update, frames of each."""
RATE, WARM_UP, CLIP, AVERAGE = 1e-3, 50, 1.0, 0.1
"""Adam's rate, which grows over the first updates; gradient norm at which they are clipped, as speeds have long tails; the share of an
update in the running average of the weights, which is what reads."""
CHECK, PATIENCE = 25, 6
"""Updates between looks at the stopping episodes; looks without a better one before it rests."""


class StateNet(nn.Module):
    """obs [B, T, ...] and the actions that led there [B, T, A] -> standardised state [B, T, K] from the last PAST frames."""

    def __init__(self, specs: Specs, outputs: int):
        super().__init__()
        self.trunk = ObsTrunk(specs.obs, WIDTH, UNITS, 2)
        self.narrow = nn.Linear(self.trunk.size, UNITS)
        self.head = mlp(PAST * (UNITS + specs.action.dim), UNITS, 2, outputs)

    def forward(self, obs: Obs, action: Tensor) -> Tensor:
        flat = {key: value.flatten(0, 1) for key, value in obs.items()}
        embed = self.narrow(self.trunk(flat)).unflatten(0, action.shape[:2])
        seen = torch.cat([embed, action], -1)
        # Nothing was seen before an episode: zeros stand for it.
        return self.head(torch.cat([F.pad(seen, (0, 0, back, 0))[:, : seen.shape[1]] for back in range(PAST)], -1))


def supervised_reading(specimen: Specimen, target: Tensor) -> Tensor:
    """What it reads of standardised factors float64 [E, T, K] in every recorded frame, [E, T, K].

    The same for every model of an environment, as nothing of the model has a part in it; so it is kept beside recordings.
    """
    asked = {
        "recording": specimen.recording.sha256,
        "target": digest({"target": target.numpy()}),
        "seed": specimen.seed,
        "updates": specimen.sizes.supervised_updates,
        "versions": {"worldlab": worldlab.__version__, "torch": torch.__version__},
        "code": code_digest(CELL),
    }
    found = kept(specimen.keep, "supervised", asked, lambda: {"reading": _taught(specimen, target).numpy()})
    return torch.from_numpy(found["reading"])


def _taught(specimen: Specimen, target: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(specimen.seed)
    net = seeded(generator, lambda: StateNet(specimen.model.specs, target.shape[-1])).to(specimen.model.device)
    average = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / WARM_UP, total_iters=WARM_UP)
    lesson, updates = _Lesson(specimen, target.float()), count(1)

    def some_updates() -> float:
        for update in islice(updates, CHECK):
            optimizer.zero_grad()
            lesson.error(net, *lesson.draw(generator)).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            optimizer.step()
            warm_up.step()
            ema_update(average, net, max(AVERAGE, 1 / update))
        with torch.no_grad():
            return float(lesson.error(average, *lesson.stop))

    stop_early(average, some_updates, -(-specimen.sizes.supervised_updates // CHECK), PATIENCE)
    return lesson.read(average).double()


class _Lesson:
    """The recorded episodes as this network is taught them; float pictures are made of the frames that are asked for only."""

    def __init__(self, specimen: Specimen, target: Tensor):
        self.data, self.target, self.specs = specimen.recording.data, target, specimen.model.specs
        self.device = specimen.model.device
        self.valid = torch.from_numpy(specimen.recording.valid)
        length = specimen.recording.length
        self.fit = torch.from_numpy(specimen.recording.episodes("fit"))
        # Frames are drawn evenly, whatever episode they are of.
        self.odds = torch.from_numpy(length[self.fit.numpy()]).double()
        stop = torch.from_numpy(specimen.recording.episodes("stop"))
        self.stop = (stop, torch.zeros_like(stop), self.valid.shape[1])
        # A scaling of its own: that of a model may come from what this very model met.
        self.preprocess = Preprocessor(self.specs.obs, "normalize").to(self.device)
        for key in self.specs.obs.vectors:
            self.preprocess.fit(key, torch.from_numpy(self.data[key])[specimen.frames("fit")].to(self.device))

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, int]:
        """Random sequences of fitted episodes: (episode [B], first frame [B], frames)."""
        chosen = torch.multinomial(self.odds, SEQUENCES, replacement=True, generator=generator)
        steps = min(STEPS, self.valid.shape[1])
        latest = (self.odds[chosen] - steps).clamp(min=0)
        first = (torch.rand(SEQUENCES, generator=generator, dtype=torch.float64) * (latest + 1)).long()
        return self.fit[chosen], first, steps

    def error(self, net: nn.Module, episode: Tensor, first: Tensor, steps: int) -> Tensor:
        """Mean squared error over the true frames of some sequences."""
        time = first[:, None] + torch.arange(steps)
        read = self._ask(net, episode, time)
        mask = self.valid[episode[:, None], time].to(read)
        target = self.target[episode[:, None], time].to(read)
        return ((read - target).square().mean(-1) * mask).sum() / mask.sum().clamp(min=1)

    @torch.no_grad()
    def read(self, net: nn.Module) -> Tensor:
        every, time = torch.arange(len(self.valid)), torch.arange(self.valid.shape[1])
        return torch.cat([self._ask(net, rows, time.expand(len(rows), -1)).cpu() for rows in every.split(ROWS)])

    def _ask(self, net: nn.Module, episode: Tensor, time: Tensor) -> Tensor:
        index = (episode[:, None].numpy(), time.numpy())
        raw = {key: torch.from_numpy(self.data[key][index]).to(self.device) for key in self.specs.obs.keys}
        return net(self.preprocess(raw), torch.from_numpy(self.data["prev_action"][index]).to(self.device))
