"""Builds a world model, an agent and a batch for the workers of worldlab.

It needs no more than `resolve`, `compose` and `Trainer`, so that it also measures commits whose modules have other
paths (`OLD`): benchmarks/compare_commits.py runs it with the code of another commit on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from serve import trained
from worldlab_agents.configs import DreamerConfig

from worldlab.registry import load_registry

try:
    from worldlab.config.resolve import RunConfig, resolve
    from worldlab.experience.collect import to_batch
    from worldlab.registry import PluginFiles
    from worldlab.training.compose import Composed, compose
    from worldlab.training.session import set_up_machine
    from worldlab.training.streams import Streams
    from worldlab.training.trainer import Generators, Trainer

    OLD = False
except ImportError:  # before the modules were sorted into folders
    from worldlab.collect import to_batch
    from worldlab.compose import Composed, compose
    from worldlab.runconfig import RunConfig, resolve
    from worldlab.session import set_up_machine
    from worldlab.streams import Streams
    from worldlab.trainer import Generators, Trainer

    OLD = True

TRUNKS = Path(__file__).with_name("peer_trunks.py")
"""A plugin file: the convolutional networks of the peers."""
Settings = dict[str, Any]


def box(*shape: int, low: float = -1, high: float = 1) -> gymnasium.spaces.Box:
    dtype = np.uint8 if high == 255 else np.float32
    return gymnasium.spaces.Box(low, high, shape, dtype)


@dataclass(frozen=True)
class Kind:
    """A workload: the shape of the observations and actions, and the settings on top of the laptop preset."""

    obs: gymnasium.spaces.Box
    action: gymnasium.Space
    settings: Settings


def sized(units: int, memory: int, batch: int, length: int, **parts: Settings) -> Settings:
    """Return the settings of a model of DreamerV3's smallest size, with a latent of 32 x 4 and its single critic."""
    latent = {"latent": "categorical", "groups": 32, "classes": 4}
    return {
        "train": {"batch_size": batch, "batch_length": length, "starts": batch * length},
        "model": {"units": units},
        "encoder": {"name": "vae", **latent, "units": units, **parts.get("encoder", {})},
        "dynamics": {"name": "vae", "memory": memory, "units": units},
        "decoder": {"name": "vae", "units": units, **parts.get("decoder", {})},
        "agent": {"name": "dreamer", "units": units, "horizon": 15, "gradient": "reinforce", "critic": "single"},
    }


WIDTH: Settings = {"width": 8}
POOLED: Settings = {"name": "vae-pooled"}
STRIDED: Settings = {"name": "vae-strided"}
VECTOR, IMAGE = box(24, low=-np.inf, high=np.inf), box(64, 64, 3, low=0, high=255)
KINDS = {
    # 640k parameters, as torchrl and sheeprl have for vectors
    "vector": Kind(VECTOR, box(6), sized(96, 248, 16, 64, encoder={"layers": 3})),
    # worldlab's own convolutions
    "pixels": Kind(IMAGE, box(6), sized(64, 128, 8, 32, encoder=WIDTH, decoder=WIDTH)),
    # 641k parameters, as torchrl has for images, with its convolutions
    "pixels-strided": Kind(IMAGE, box(6), sized(96, 256, 8, 32, encoder=STRIDED, decoder=STRIDED)),
    # 687k parameters, as sheeprl has for images, with its convolutions
    "pixels-pooled": Kind(IMAGE, box(6), sized(96, 256, 8, 32, encoder=POOLED, decoder=POOLED)),
    "laptop-cartpole": Kind(box(4), gymnasium.spaces.Discrete(2), {"env": {"id": "CartPole"}}),
    "laptop-pendulum": Kind(box(3), box(1, low=-2, high=2), {"env": {"id": "Pendulum"}}),
    "laptop-carracing": Kind(box(48, 48, 3, low=0, high=255), box(3), {"env": {"id": "CarRacing"}}),
}


@dataclass(frozen=True)
class Subject:
    """What a worker measures."""

    config: RunConfig
    composed: Composed
    trainer: Trainer
    sampled: dict[str, np.ndarray]

    def update(self, **stage: Any) -> None:
        """Make one update, as a run does from a replay sample on."""
        model = self.composed.model
        self.trainer.update(to_batch(self.sampled, model.preprocess, model.device), **stage)

    def facts(self) -> dict[str, Any]:
        """Return the numbers of parameters and the number of threads."""
        model, agent = trained(self.composed.model), trained(self.composed.agent)
        parameters = {"model": model, "agent": agent, "total": model + agent}
        return {"parameters": parameters, "threads": torch.get_num_threads()}


def options(description: str | None) -> argparse.ArgumentParser:
    """Return the options that all workers of worldlab have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(KINDS))
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="any setting of a run")
    parser.add_argument("--threads", type=int, help="threads of torch; by default as the configuration says")
    parser.add_argument("--beside", action="store_true", help="let the agent learn in a process of its own")
    parser.add_argument("--side", type=int, help="side of the image, if the workload observes one")
    parser.add_argument("--matmul", help="torch.set_float32_matmul_precision; by default as worldlab leaves it")
    return parser


def build(args: argparse.Namespace) -> Subject:
    """Set the machine up as a run does, and build the workload."""
    kind = KINDS[args.kind]
    if args.side:
        kind = replace(kind, obs=box(args.side, args.side, 3, low=0, high=255))
    flags = with_settings(kind.settings, args.set)
    if args.threads is not None:
        flags.setdefault("train", {})["threads"] = args.threads
    registry = load_registry([TRUNKS] if args.kind in ("pixels-strided", "pixels-pooled") else [])
    config = resolve(registry, presets=["laptop"], flags=as_this_code_names(flags))
    device = set_up_machine(config.core)
    if args.matmul:
        torch.set_float32_matmul_precision(args.matmul)
    key = "image" if len(kind.obs.shape) == 3 else "vector"
    space = gymnasium.spaces.Dict({key: kind.obs})
    composed = compose(config, registry, space, kind.action, Streams(0), device)
    streams = Streams(0)
    generators = Generators(streams.torch("model", device), streams.torch("agent", device))
    trainer = Trainer(composed.model, composed.agent, config.core.train, generators)
    if args.beside:
        from worldlab.training.agent_process import learn_beside

        learn_beside(trainer, config.core, device, PluginFiles(registry.plugin_files))
        assert trainer.beside is not None, "two processes need two cores for each of --threads"
    train = config.core.train
    if getattr(train, "engine", "auto") != "auto":  # older commits have no such setting
        set_engine(trainer, train.engine, device)
    return Subject(config, composed, trainer, sample(key, kind, composed, train.batch_size, train.batch_length))


def set_engine(trainer: Trainer, wanted: str, device: torch.device) -> None:
    """Prepare a trainer as a run with this `train.engine` does, but compile its update as soon as possible."""
    from worldlab.training.engine import prepare_trainer
    from worldlab.training.graph import EAGER

    *_, static = prepare_trainer(wanted, device, trainer)
    if static is not None and static.recorder is not None:
        static.recorder.after = EAGER


def sample(key: str, kind: Kind, composed: Composed, b: int, t: int) -> dict[str, np.ndarray]:
    """Return random experience in the form of a replay sample, [B, T, ...]."""
    rng, action = np.random.default_rng(0), composed.specs.action
    if key == "image":
        obs = rng.integers(0, 256, (b, t, *kind.obs.shape), dtype=np.uint8)
    else:
        obs = rng.standard_normal((b, t, *kind.obs.shape)).astype(np.float32)
    taken = rng.uniform(-1, 1, (b, t, action.dim)).astype(np.float32)
    if action.kind == "discrete":
        taken = np.eye(action.dim, dtype=np.float32)[taken.argmax(-1)]
    first = np.zeros((b, t), bool)
    first[:, 0] = True
    reward = rng.standard_normal((b, t)).astype(np.float32)
    return {key: obs, "prev_action": taken, "reward": reward, "cont": np.ones((b, t), np.float32), "is_first": first}


def with_settings(settings: Settings, changes: list[str]) -> Settings:
    """Return the settings with changes of the form "section.key=value" or "key=value"; values are read as JSON."""
    flags = copy.deepcopy(settings)
    for change in changes:
        path, _, text = change.partition("=")
        *sections, key = path.split(".")
        node = flags
        for section in sections:
            node = node.setdefault(section, {})
        try:
            node[key] = json.loads(text)
        except ValueError:
            node[key] = text
    return flags


def as_this_code_names(flags: Settings) -> Settings:
    """Return the same architecture in the settings of the code that is measured, which may be that of an older commit."""
    flags = copy.deepcopy(flags)
    if "critic" not in DreamerConfig.model_fields:  # before it, every agent had one critic
        flags.get("agent", {}).pop("critic", None)
    if OLD and "units" in flags.get("model", {}):
        flags["model"] = {"head_units": flags["model"]["units"], "head_layers": 1}
        flags["decoder"]["layers"] = flags["agent"]["layers"] = 2
    return flags
