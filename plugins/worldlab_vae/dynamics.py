"""The recurrent state-space model: a sequential VAE with a learned prior."""

from __future__ import annotations

from typing import final

from torch import Tensor

from worldlab.interfaces import Dynamics, State
from worldlab.nn import RecurrentMemory
from worldlab.specs import ActionSpec, LatentSpec, Specs
from worldlab_vae.configs import VAEDynamicsConfig
from worldlab_vae.heads import LatentHead


@final
class VAEDynamics(Dynamics):
    """The transition h' = GRU(h, mlp(z, a)) with a prior p(z | h) of the posterior's kind.

    Hafner et al. 2018, arXiv:1811.04551, eq. 4. It is trained by a balanced KL with free nats
    (worldlab.model.matching).
    """

    Config = VAEDynamicsConfig
    prior_kind = "analytic"

    def __init__(self, config: VAEDynamicsConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.recurrence = RecurrentMemory(specs.latent.dim + specs.action.dim, config.units, config.memory)
        self.head = LatentHead(config.memory, config.units, specs.latent, config.unimix, config.min_std)

    @classmethod
    def memory_size(cls, config: VAEDynamicsConfig, latent: LatentSpec, action: ActionSpec) -> int:
        return config.memory

    def initial(self, n: int) -> State:
        return self.recurrence.initial(n)

    def advance(self, state: State, z: Tensor, action: Tensor) -> State:
        return self.recurrence.step(state, z, action)

    def memory(self, state: State) -> Tensor:
        return state["h"]

    def predict(self, memory: Tensor):
        return self.head(memory)
