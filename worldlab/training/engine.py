"""Chooses what a run uses of the machine, and says why: products in bfloat16, one graph for an update, the replay's place.

`worldlab doctor` shows the choices of the default settings, and run.json has those of a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from worldlab.env.spaces import Schema
from worldlab.experience.replay import Replay
from worldlab.experience.resident import resident_bytes
from worldlab.experience.segments import record_dtype
from worldlab.settings import CoreSettings
from worldlab.training.graph import CudaRecorder, Recorder, StaticUpdate, why_not_recorded
from worldlab.training.trainer import Trainer

if TYPE_CHECKING:
    from worldlab.experience.replay import Storage

SHARE = 0.25
"""Share of a GPU's memory that a replay may take; the rest is for weights, an update and its graph."""
NO_GPU = "the device is the CPU"


@dataclass(frozen=True)
class EngineChoice:
    """What was chosen, and the reason."""

    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.what} ({self.why})"


@dataclass
class Engine:
    """The choices of a run. run.json stores `record`."""

    device: EngineChoice
    products: EngineChoice
    replay: EngineChoice
    update: EngineChoice
    static: StaticUpdate | None = field(default=None, repr=False)

    def record(self) -> dict[str, str]:
        """Return the choices as plain data; a graph that was given up on the way has its reason."""
        update = self.update
        if self.static is not None and self.static.reason:
            update = EngineChoice("eager", self.static.reason)
        return {name: str(value) for name, value in vars(self).items() if isinstance(value, EngineChoice)} | {
            "update": str(update)
        }


def choose_engine(core: CoreSettings, device: torch.device, trainer: Trainer, replay: Replay) -> Engine:
    """Prepare a trainer for its device. Returns what was chosen. replay: as `choose_storage` let it be opened."""
    products, update, static = prepare_trainer(core.train.engine, device, trainer)
    return Engine(describe_device(core, device), products, describe_storage(replay, device), update, static)


def prepare_trainer(
    wanted: str, device: torch.device, trainer: Trainer
) -> tuple[EngineChoice, EngineChoice, StaticUpdate | None]:
    """Set the type of a trainer's products, and whether its update is one graph. Returns both choices, and the graph."""
    products, update = choose_products(wanted, device), choose_update(wanted, device)
    trainer.products = torch.bfloat16 if products.what == "bfloat16" else None
    if update.what == "graph" and (reason := why_not_recorded(trainer.model, trainer.agent)):
        update = EngineChoice("eager", reason)
    static = StaticUpdate(trainer, _recorder(trainer, device)) if update.what == "graph" else None
    trainer.static = static
    return products, update, static


def describe_device(core: CoreSettings, device: torch.device) -> EngineChoice:
    """Return the device that `set_up_machine` chose."""
    if device.type == "cuda":
        return EngineChoice(torch.cuda.get_device_name(device), "torch finds this GPU")
    if core.device == "cpu":
        return EngineChoice("cpu", "device is cpu")
    if not torch.backends.cuda.is_built():
        return EngineChoice("cpu", "torch is the CPU build")
    return EngineChoice("cpu", "strict promises the same bits on the CPU only" if core.strict else "torch finds no GPU")


def choose_products(wanted: str, device: torch.device) -> EngineChoice:
    """Return the type of matrix products and convolutions. Losses, distributions and weights are float32 with either."""
    if device.type == "cpu" and wanted == "auto":
        return EngineChoice("float32", NO_GPU)
    if wanted == "float32":
        return EngineChoice("float32", "train.engine is float32")
    what = "GPU" if device.type == "cuda" else "processor"
    if not _has_bfloat16(device):
        return EngineChoice("float32", f"this {what} has no units for bfloat16")
    return EngineChoice("bfloat16", f"this {what} has units for it")


def _has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies in bfloat16 by itself; an emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public function for it
    return any(getattr(torch.cpu, name, bool)() for name in checks)


def choose_update(wanted: str, device: torch.device) -> EngineChoice:
    """Return whether an update is to be one graph, which a mix may still prevent."""
    if device.type == "cpu" and wanted == "auto":
        return EngineChoice("eager", NO_GPU)
    if wanted not in ("auto", "graph"):
        return EngineChoice("eager", f"train.engine is {wanted}")
    if device.type == "cuda":
        return EngineChoice("graph", "one CUDA graph, recorded after a few eager updates")
    return EngineChoice("graph", "one compiled graph, after some hundred eager updates")


def _recorder(trainer: Trainer, device: torch.device) -> Recorder:
    """Return what makes an update one graph on a device."""
    if device.type == "cuda":
        return CudaRecorder(device, (trainer.generators.model, trainer.generators.agent))
    from worldlab.training.compiled import CompiledRecorder  # it imports what traces, which few runs need

    return CompiledRecorder(lambda: trainer.large_products(trainer.settings.starts))


def choose_storage(core: CoreSettings, schema: Schema, capacity: int, device: torch.device) -> Storage:
    """Return where a replay of `capacity` steps is kept: `Replay`'s storage."""
    if core.replay.storage != "auto":
        return core.replay.storage
    if device.type != "cuda":
        return "ram"
    free, total = torch.cuda.mem_get_info(device)
    return device if resident_bytes(record_dtype(schema), capacity) <= min(free, SHARE * total) else "ram"


def describe_storage(replay: Replay, device: torch.device) -> EngineChoice:
    """Return where a replay is kept."""
    size = f"{resident_bytes(record_dtype(replay.schema), replay.capacity) / 1e9:.1f} GB"
    if not isinstance(replay.storage, str):
        return EngineChoice("the GPU's memory", f"its {size} are at most {SHARE:.0%} of it")
    if device.type != "cuda":
        return EngineChoice(replay.storage, NO_GPU)
    return EngineChoice(
        replay.storage, f"its {size} are more than {SHARE:.0%} of the GPU's memory, or replay.storage says so"
    )


def describe_machine() -> dict[str, str]:
    """Return what a run with the default settings would use here, for `worldlab doctor`."""
    core = CoreSettings()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wanted = core.train.engine
    if device.type == "cuda":
        limit = SHARE * torch.cuda.mem_get_info(device)[1] / 1e9
        replay = EngineChoice("the GPU's memory", f"up to {limit:.1f} GB, {SHARE:.0%} of it; larger ones in ram")
    else:
        replay = EngineChoice("ram", NO_GPU)
    chosen = {
        "device": describe_device(core, device),
        "products": choose_products(wanted, device),
        "update": choose_update(wanted, device),
        "replay": replay,
    }
    return {name: str(choice) for name, choice in chosen.items()}
