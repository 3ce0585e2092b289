"""The dynamics h' = f(h, z, a) and p(z | h) predicts the next latent. h: memory, z: latent, a: action."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from worldlab.distributions import Normal, OneHot
from worldlab.interfaces import ActionSpec, Dynamics, LatentSpec, Specs, State, Unrolled
from worldlab.nn import mlp

from worldlab_parts.configs import MinGRUConfig


@final
class MinGRUDynamics(Dynamics):
    """h' = (1 - g) h + g c with a gate g and a candidate c of (z, a) alone. Feng et al. 2024, arXiv:2410.01201, section 3.1.

    h is then a weighted sum of all candidates, which `advance_sequence` computes in one product. The paper scans in
    logarithms, for sequences far longer than ours.
    """

    Config = MinGRUConfig
    prior_kind = "analytic"
    reparameterised = True

    def __init__(self, config: MinGRUConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.latent = specs.latent
        self.inputs = nn.Linear(specs.latent.dim + specs.action.dim, 2 * config.memory)
        outputs = specs.latent.dim * (1 if specs.latent.kind == "categorical" else 2)
        self.head = mlp(config.memory, config.units, 1, outputs)

    @classmethod
    def memory_size(cls, config: MinGRUConfig, latent: LatentSpec, action: ActionSpec) -> int:
        """Return the width H of the memory."""
        return config.memory

    def initial(self, n: int) -> State:
        """Return h = 0, [n, H]."""
        return {"h": torch.zeros(n, self.config.memory, device=self.device)}

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        """Return the next state. z [N, D] and action [N, A] are from the last step."""
        keep, new = self.gates(z, action)
        return {"h": keep * state["h"] + new}

    def gates(self, z: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 - g and g c, both [*, H]."""
        out = self.inputs(torch.cat([z, action], -1))
        gate, candidate = out.to(self.inputs.weight.dtype).chunk(2, -1)  # under autocast the recurrence is not rounded
        return torch.sigmoid(-gate), torch.sigmoid(gate) * torch.tanh(candidate)

    def advance_sequence(self, state: State, z: Tensor, action: Tensor, is_first: Tensor) -> Unrolled:
        """Return h_t = sum over s <= t of (product of 1 - g over (s, t]) g_s c_s, without what a reset cuts off.

        The state is the candidate of step s = -1.
        """
        keep, new = self.gates(z, action)  # [B, T, H]
        new = torch.cat([state["h"][:, None], new], 1)  # [B, 1 + T, H]
        decay = F.pad(torch.log(keep.clamp(min=1e-30)), (0, 0, 1, 0)).cumsum(1)
        episode = F.pad(is_first, (1, 0)).cumsum(1)
        same = (episode[:, :, None] == episode[:, None]).tril()[..., None]  # [B, 1 + T, 1 + T, 1]
        weight = torch.where(same, decay[:, :, None] - decay[:, None], -torch.inf).exp()
        h = torch.einsum("btsh,bsh->bth", weight, new)[:, 1:]
        return Unrolled(h, {"h": h[:, -1]}, lambda row, time: {"h": h[row, time]})

    def memory(self, state: State) -> Tensor:
        """Return h, [N, H]."""
        return state["h"]

    def predict(self, memory: Tensor) -> Normal | OneHot:
        """Return p(z | h). memory [N, H]."""
        out = self.head(memory)
        if self.latent.kind == "categorical":
            return OneHot.with_unimix(out.unflatten(-1, (self.latent.groups, self.latent.classes)), 0.01)
        mean, raw = out.chunk(2, -1)  # [N, D] each
        return Normal(mean, F.softplus(raw) + self.config.min_std)
