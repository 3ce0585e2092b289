"""What the tests of all families share: random streams and batches, a plain training loop, what a family registers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

import torch
from model_kit import weighted_terms

from worldlab.interfaces import Batch
from worldlab.specs import Specs
from worldlab.world_model import WorldModel

FAMILIES = ("vae", "flow", "autoregressive", "gan", "cpc")
"""The names of the fifteen cells: each fills the three roles of a world model. Other names fill one role, or two."""


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_batch(specs: Specs, rows: int = 4, length: int = 8, seed: int = 0) -> Batch:
    """Random sequences, one reset in the middle of row 1."""
    g = gen(seed)
    is_first = torch.zeros(rows, length, dtype=torch.bool)
    is_first[1 % rows, length // 2] = True
    action = torch.rand(rows, length, specs.action.dim, generator=g) * 2 - 1
    return Batch(
        obs={key: torch.rand(rows, length, *spec.shape, generator=g) - 0.5 for key, spec in specs.obs.entries},
        prev_action=action * ~is_first[..., None],
        reward=torch.randn(rows, length, generator=g) * ~is_first,
        cont=torch.ones(rows, length),
        is_first=is_first,
        mask=torch.ones(rows, length),
    )


def train(model: WorldModel, batches: Iterable[Batch], rate: float = 1e-3) -> list[float]:
    """One plain Adam step of the main player a batch. Returns the losses."""
    main = model.players()["main"].parameters
    optimizer = torch.optim.Adam(main, rate)
    trace = []
    for step, batch in enumerate(batches):
        ctx, _ = model.observe(batch, gen(step))
        loss = torch.stack([term.mean() for term in weighted_terms(model, ctx).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for part in model.parts.values():
            part.after_step("main")
        trace.append(loss.item())
    return trace


def registered_without_torch(module: str) -> str:
    """The (role, name, target, configuration) tuples that a family registers, printed by a process that must not import torch."""
    code = (
        f"import sys, {module}\n"
        "class R:\n"
        "    seen = []\n"
        "    def __getattr__(self, role):\n"
        "        return lambda name, target, **rest: R.seen.append((role, name, target, rest['config'].__name__))\n"
        f"{module}.worldlab_register(R())\n"
        "assert 'torch' not in sys.modules\n"
        "print(R.seen)"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
