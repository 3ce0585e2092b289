"""A network trained to predict the true state from images and actions: an upper reference for the probes."""

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
from worldlab.study.measures.cache import digest, load_or_make
from worldlab.study.measures.measured_model import ROWS, MeasuredModel
from worldlab.study.measures.regression import build_seeded, train_with_early_stopping
from worldlab.training.adam import Adam

PAST = 4
"""Frames per prediction: a single frame does not show velocities."""
WIDTH, UNITS = 8, 128
"""Width of the convolutions and of the hidden layers."""
SEQUENCES, STEPS = 8, 16
"""Sequences per update, frames per sequence."""
RATE, WARM_UP, CLIP, AVERAGE = 1e-3, 50, 1.0, 0.1
"""Adam's learning rate; updates of linear warm-up; gradient norm for clipping, since velocities have heavy tails;
weight of each update in the running average of the weights, which makes the predictions."""
CHECK, PATIENCE = 25, 6
"""Updates between validations; validations without a better one before training stops."""


class StateNet(nn.Module):
    """Predicts the standardised state [B, T, K] from the last PAST frames of obs [B, T, ...] and of the actions that
    led to them [B, T, A]."""

    def __init__(self, specs: Specs, outputs: int):
        super().__init__()
        self.trunk = ObsTrunk(specs.obs, WIDTH, UNITS, 2)
        self.narrow = nn.Linear(self.trunk.size, UNITS)
        self.head = mlp(PAST * (UNITS + specs.action.dim), UNITS, 2, outputs)

    def forward(self, obs: Obs, action: Tensor) -> Tensor:
        flat = {key: value.flatten(0, 1) for key, value in obs.items()}
        embed = self.narrow(self.trunk(flat)).unflatten(0, action.shape[:2])
        inputs = torch.cat([embed, action], -1)
        # Frames before an episode's start are zeros.
        return self.head(torch.cat([F.pad(inputs, (0, 0, back, 0))[:, : inputs.shape[1]] for back in range(PAST)], -1))


def predict_supervised(subject: MeasuredModel, target: Tensor) -> Tensor:
    """Train the network on standardised factors float64 [E, T, K]; return predictions [E, T, K] for every frame.

    The result does not depend on the model, only on the recording, so it is cached beside the recordings.
    """
    request = {
        "recording": subject.recording.sha256,
        "target": digest({"target": target.numpy()}),
        "seed": subject.seed,
        "updates": subject.sizes.supervised_updates,
        "versions": {"worldlab": worldlab.__version__, "torch": torch.__version__},
        "code": code_digest(CELL),
    }
    arrays = load_or_make(subject.cache, "supervised", request, lambda: {"reading": _train(subject, target).numpy()})
    return torch.from_numpy(arrays["reading"])


def _train(subject: MeasuredModel, target: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(subject.seed)
    net = build_seeded(generator, lambda: StateNet(subject.model.specs, target.shape[-1])).to(subject.model.device)
    average = copy.deepcopy(net)
    optimizer = Adam(net.parameters(), RATE)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / WARM_UP, total_iters=WARM_UP)
    data, updates = _Episodes(subject, target.float()), count(1)

    def train_round() -> float:
        for update in islice(updates, CHECK):
            optimizer.zero_grad()
            data.error(net, *data.sample(generator)).backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), CLIP)
            optimizer.step()
            warm_up.step()
            ema_update(average, net, max(AVERAGE, 1 / update))
        with torch.no_grad():
            return float(data.error(average, *data.validation))

    train_with_early_stopping(average, train_round, -(-subject.sizes.supervised_updates // CHECK), PATIENCE)
    return data.predict_all(average).double()


class _Episodes:
    """The recorded episodes as training data; images are converted to floats on demand."""

    def __init__(self, subject: MeasuredModel, target: Tensor):
        self.data, self.target, self.specs = subject.recording.data, target, subject.model.specs
        self.device = subject.model.device
        self.valid = torch.from_numpy(subject.recording.valid)
        length = subject.recording.length
        self.fit = torch.from_numpy(subject.recording.episodes("fit"))
        # Episodes are sampled in proportion to their length, so that frames are sampled uniformly.
        self.lengths = torch.from_numpy(length[self.fit.numpy()]).double()
        validation = torch.from_numpy(subject.recording.episodes("validation"))
        self.validation = (validation, torch.zeros_like(validation), self.valid.shape[1])
        # The network has its own scaling: a model's scaling may depend on the data of that model.
        self.preprocess = Preprocessor(self.specs.obs, "normalize").to(self.device)
        for key in self.specs.obs.vectors:
            self.preprocess.fit(key, torch.from_numpy(self.data[key])[subject.frames("fit")].to(self.device))

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor, int]:
        """Sample sequences of the fit episodes: (episode [B], first frame [B], number of frames)."""
        chosen = torch.multinomial(self.lengths, SEQUENCES, replacement=True, generator=generator)
        steps = min(STEPS, self.valid.shape[1])
        latest = (self.lengths[chosen] - steps).clamp(min=0)
        first = (torch.rand(SEQUENCES, generator=generator, dtype=torch.float64) * (latest + 1)).long()
        return self.fit[chosen], first, steps

    def error(self, net: nn.Module, episode: Tensor, first: Tensor, steps: int) -> Tensor:
        """Compute the mean squared error over the existing frames of sequences."""
        time = first[:, None] + torch.arange(steps)
        predicted = self._predict(net, episode, time)
        mask = self.valid[episode[:, None], time].to(predicted)
        target = self.target[episode[:, None], time].to(predicted)
        return ((predicted - target).square().mean(-1) * mask).sum() / mask.sum().clamp(min=1)

    @torch.no_grad()
    def predict_all(self, net: nn.Module) -> Tensor:
        """Predict the factors [E, T, K] of all frames."""
        every, time = torch.arange(len(self.valid)), torch.arange(self.valid.shape[1])
        return torch.cat([self._predict(net, rows, time.expand(len(rows), -1)).cpu() for rows in every.split(ROWS)])

    def _predict(self, net: nn.Module, episode: Tensor, time: Tensor) -> Tensor:
        index = (episode[:, None].numpy(), time.numpy())
        raw = {key: torch.from_numpy(self.data[key][index]).to(self.device) for key in self.specs.obs.keys}
        return net(self.preprocess(raw), torch.from_numpy(self.data["prev_action"][index]).to(self.device))
