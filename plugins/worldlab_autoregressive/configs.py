"""Settings of the autoregressive parts. Importable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from worldlab import Config, field


class AutoregressiveEncoderConfig(Config):
    """Settings of the autoregressive posterior."""

    groups: int = field(32, ge=1)
    """Categorical variables in z, drawn one after another."""
    classes: int = field(32, ge=2)
    """Classes of each."""
    unimix: float = field(0.01, ge=0, lt=1)
    """Share of a uniform mixed into every conditional, so that no class dies."""
    width: int = field(32, ge=1)
    """Channels after the first convolution; they double at each halving of the picture."""
    units: int = field(256, ge=1)
    """Hidden units of the vector trunk."""
    layers: int = field(2, ge=1)
    """Hidden layers of the vector trunk."""
    code_units: int = field(128, ge=1)
    """Width of the recurrent network over the groups."""

    @classmethod
    def small(cls) -> AutoregressiveEncoderConfig:
        """Sizes for tests: 256 codes, few enough to count and enough to name a place."""
        return cls(groups=4, classes=4, width=4, units=16, layers=1, code_units=16)


class AutoregressiveDynamicsConfig(Config):
    """Settings of the autoregressive dynamics."""

    memory_kind: Literal["transformer", "lstm"] = "transformer"
    """transformer: causal attention over a sliding window of steps. lstm: the recurrent memory of World Models."""
    memory: int = field(256, ge=2)
    """Width H of the memory: the transformer's tokens, or the LSTM's hidden state."""
    layers: int = field(4, ge=1)
    """Blocks of the transformer."""
    heads: int = field(4, ge=1)
    """Attention heads of the transformer; memory must be a multiple of twice as many."""
    window: int = field(32, ge=1)
    """Steps a transformer block attends to, the present one included; more than train.batch_length is never trained."""
    mixture: Literal["joint", "factorised"] = "joint"
    """How a real z is predicted. joint: one mixture over the whole vector. factorised: a mixture for each entry."""
    components: int = field(5, ge=1)
    """Gaussians in a mixture."""
    min_std: float = field(0.05, gt=0)
    """Smallest std of a component."""
    units: int = field(256, ge=1)
    """Hidden units of the mixture's head."""
    head_layers: int = field(1, ge=0)
    """Hidden layers of the mixture's head; World Models has none."""
    code_units: int = field(128, ge=1)
    """Width of the recurrent network over the groups of a categorical z."""
    unimix: float = field(0.01, ge=0, lt=1)
    """Share of a uniform mixed into the conditionals of a categorical z."""

    @model_validator(mode="after")
    def _heads_fit(self) -> AutoregressiveDynamicsConfig:
        if self.memory_kind == "transformer" and self.memory % (2 * self.heads):
            raise ValueError(f"memory {self.memory} is no multiple of twice the {self.heads} heads")
        return self


class AutoregressiveDecoderConfig(Config):
    """Settings of the autoregressive decoder."""

    channels: int = field(32, ge=1)
    """Channels of each stack of the PixelCNN, and of the map that features are upsampled to."""
    layers: int = field(5, ge=1, le=7)
    """Gated layers. A pixel sees 2 layers + 1 columns and layers + 1 rows above: what is farther must come from z."""
    components: int = field(10, ge=1)
    """Logistics in the mixture of a pixel."""
    width: int = field(32, ge=1)
    """Channels before the last transposed convolution of the network that upsamples features."""
    units: int = field(256, ge=1)
    """Hidden units of the networks that explain vectors."""
    vector_layers: int = field(2, ge=1)
    """Masked hidden layers of the network that explains vectors."""
    frames: int = field(32, ge=0)
    """Random frames of a batch explained in one update; 0 means all, as it does without pictures (which are dear: README)."""
    vector_components: int = field(5, ge=1)
    """Gaussians in the mixture of a vector's entry."""
    min_std: float = field(0.02, gt=0)
    """Smallest std of these, in scaled units."""
    scale: float = field(1.0, gt=0)
    """Weight of the negative log-likelihood: a picture has thousands of nats, a latent has tens."""
    auxiliary: float = field(1.0, ge=0)
    """Weight of a second likelihood of pictures, from features alone, without which z learns late or never."""
