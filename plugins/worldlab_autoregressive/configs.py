"""Settings of the autoregressive parts. Importable without torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from worldlab import Config, field, sized


def code_units(units: int) -> int:
    """Return the width of a recurrent network over groups of codes: half the hidden units, from 16 to 128."""
    return min(128, max(16, units // 2))


class AutoregressiveEncoderConfig(Config):
    """Settings of the autoregressive posterior."""

    groups: int = sized(nano=4, tiny=8, small=8, medium=32, large=32, ge=1)
    """Number of categorical variables in z, drawn sequentially."""
    classes: int = sized(nano=4, tiny=8, small=16, medium=32, large=32, ge=2)
    """Classes of each categorical variable."""
    width: int = sized("width", ge=1)
    """Channels after the first convolution; they double each time the image is halved."""
    units: int = sized("units", ge=1)
    """Hidden units of the vector trunk."""
    layers: ClassVar[int] = 2
    """Hidden layers of the vector trunk."""
    unimix: ClassVar[float] = 0.01
    """Share of a uniform mixed into every conditional, which keeps every class possible."""

    @property
    def code_units(self) -> int:
        """Return the width of the recurrent network over the groups."""
        return code_units(self.units)


class AutoregressiveDynamicsConfig(Config):
    """Settings of the autoregressive dynamics."""

    memory_kind: Literal["transformer", "lstm"] = "transformer"
    """transformer: causal attention over a sliding window of steps. lstm: the recurrent memory of World Models."""
    memory: int = sized("memory", ge=2)
    """Width H of the memory: the transformer's tokens, or the LSTM's hidden state."""
    layers: int = sized(nano=1, tiny=2, small=2, medium=4, large=4, ge=1)
    """Blocks of the transformer."""
    heads: int = sized(nano=2, tiny=4, small=4, medium=4, large=8, ge=1)
    """Attention heads of the transformer; memory must be a multiple of twice this number."""
    window: int = sized(nano=8, tiny=16, small=32, medium=32, large=64, ge=1)
    """Steps a transformer block attends to, including the current step. A window beyond train.batch_length is never
    trained."""
    mixture: Literal["joint", "factorised"] = "joint"
    """Prediction of a real z. joint: one mixture over the whole vector. factorised: a mixture for each entry."""
    units: int = sized("units", ge=1)
    """Hidden units of the mixture head."""
    head_layers: int = field(1, ge=0, expert=True)
    """Hidden layers of the mixture head; World Models has none."""
    components: ClassVar[int] = 5
    """Number of Gaussians in a mixture, as in World Models."""
    min_std: ClassVar[float] = 0.05
    """Smallest std of a component."""
    unimix: ClassVar[float] = 0.01
    """Share of a uniform mixed into the conditionals of a categorical z."""

    @property
    def code_units(self) -> int:
        """Return the width of the recurrent network over the groups of a categorical z."""
        return code_units(self.units)

    @model_validator(mode="after")
    def _heads_fit(self) -> AutoregressiveDynamicsConfig:
        if self.memory_kind == "transformer" and self.memory % (2 * self.heads):
            raise ValueError(f"memory {self.memory} is no multiple of twice the {self.heads} heads")
        return self


class AutoregressiveDecoderConfig(Config):
    """Settings of the autoregressive decoder."""

    channels: int = sized(nano=4, tiny=16, small=24, medium=32, large=48, ge=1)
    """Channels of each stack of the PixelCNN, and of the upsampled feature map."""
    layers: int = sized(nano=1, tiny=4, small=5, medium=5, large=5, ge=1, le=7)
    """Gated layers. A pixel depends on 2 layers + 1 columns and layers + 1 rows above; wider structure must come from
    z."""
    components: int = sized(nano=10, tiny=5, small=10, medium=10, large=10, ge=1)
    """Number of logistics in the mixture of a pixel."""
    width: int = sized(nano=4, tiny=8, small=8, medium=16, large=32, ge=1)
    """Channels before the last transposed convolution of the network that upsamples features."""
    units: int = sized("units", ge=1)
    """Hidden units of the networks that model vectors."""
    frames: int = field(32, ge=0)
    """Random frames of a batch decoded in one update; 0 means all. Images are expensive (README); without them all are
    used."""
    auxiliary: float = field(1.0, ge=0)
    """Weight of a second likelihood of images from the features alone. Without it z is learned late or never."""
    vector_components: ClassVar[int] = 5
    """Number of Gaussians in the mixture of a vector's entry."""
    min_std: ClassVar[float] = 0.02
    """Smallest std of the Gaussians of a vector's entry, in scaled units."""
    scale: ClassVar[float] = 1.0
    """Weight of the negative log-likelihood; 1 uses all nats of an observation, as in the bound."""
    stack: ClassVar[Literal["gated", "masked"]] = "gated"
    """gated: two stacks, without a blind spot. masked: one stack of masked convolutions."""

    @property
    def vector_layers(self) -> int:
        """Return the masked hidden layers of the network that models vectors."""
        return min(2, self.layers)


class PixelCNNDecoderConfig(AutoregressiveDecoderConfig):
    """Settings of the decoder with one masked stack: those of the gated one."""

    stack: ClassVar[Literal["gated", "masked"]] = "masked"


class MADEDynamicsConfig(Config):
    """Settings of the dynamics whose entries follow one after another."""

    memory: int = sized("memory", ge=1)
    """Width H of the recurrent memory."""
    units: int = sized("units", ge=1)
    """Hidden units before the memory and of the masked network, which has at least 8 for each entry or code."""
    layers: int = sized(nano=1, tiny=2, small=2, medium=2, large=2, ge=1)
    """Hidden layers of the masked network."""
    components: ClassVar[int] = 5
    """Number of Gaussians in the mixture of an entry."""
    min_std: ClassVar[float] = 0.05
    """Smallest std of a Gaussian."""
    unimix: ClassVar[float] = 0.01
    """Share of a uniform mixed into the conditionals of codes."""


class ParallelPixelCNNDecoderConfig(Config):
    """Settings of the decoder that draws groups of pixels in parallel."""

    channels: int = sized(nano=4, tiny=16, small=24, medium=32, large=48, ge=1)
    """Channels of the networks of the groups, and of the upsampled feature map."""
    layers: int = sized(nano=1, tiny=2, small=2, medium=3, large=3, ge=1, le=8)
    """Residual layers of the network of a group."""
    components: int = sized(nano=10, tiny=5, small=10, medium=10, large=10, ge=1)
    """Number of logistics in the mixture of a pixel."""
    width: int = sized(nano=4, tiny=8, small=8, medium=16, large=32, ge=1)
    """Channels before the last transposed convolution of the network that upsamples features."""
    units: int = sized("units", ge=1)
    """Hidden units of the networks that model vectors."""
    frames: int = field(32, ge=0)
    """Random frames of a batch decoded in one update; 0 means all. Without images all are used."""
    auxiliary: float = field(1.0, ge=0)
    """Weight of a second likelihood of images from the features alone, which makes z learn."""
    vector_components: ClassVar[int] = 5
    """Number of Gaussians in the mixture of a vector's entry."""
    min_std: ClassVar[float] = 0.02
    """Smallest std of the Gaussians of a vector's entry, in scaled units."""

    @property
    def vector_layers(self) -> int:
        """Return the masked hidden layers of the network that models vectors."""
        return min(2, self.layers)


class WaveNetDynamicsConfig(Config):
    """Settings of the dilated causal convolutions over time."""

    memory: int = sized("memory", ge=1)
    """Width H of the memory and of every layer."""
    layers: int = sized(nano=3, tiny=4, small=5, medium=5, large=6, ge=1, le=12)
    """Layers, with dilations 1, 2, 4, ...; the memory sees the last 2^layers steps."""
    units: int = sized("units", ge=1)
    """Hidden units of the mixture head."""
    code_units: int = sized(nano=16, tiny=32, small=48, medium=128, large=128, ge=1)
    """Width of the recurrent network over the groups of a categorical z."""
    mixture: ClassVar[str] = "joint"
    """One mixture over the whole of a real z."""
    head_layers: ClassVar[int] = 1
    """Hidden layers of the mixture head."""
    components: ClassVar[int] = 5
    """Number of Gaussians in a mixture."""
    min_std: ClassVar[float] = 0.05
    """Smallest std of a component."""
    unimix: ClassVar[float] = 0.01
    """Share of a uniform mixed into the conditionals of a categorical z."""


class MaskGITDynamicsConfig(Config):
    """Settings of the dynamics that decodes masked codes in parallel."""

    memory: int = sized("memory", ge=1)
    """Width H of the recurrent memory."""
    units: int = sized("units", ge=4)
    """Width of the network before the memory and of the transformer over the codes, rounded down to a multiple of 4."""
    layers: int = sized(nano=1, tiny=2, small=2, medium=2, large=3, ge=1)
    """Blocks of the transformer over the codes of one step."""
    passes: int = field(3, ge=1, le=64)
    """Passes in which all codes of a step are drawn; 1 draws them independently."""
    heads: ClassVar[int] = 2
    """Attention heads."""
    choice: ClassVar[float] = 4.5
    """Scale of the noise added to the confidences of the first pass; it falls to 0 with the last."""
    components: ClassVar[int] = 5
    """Number of Gaussians in the mixture of an entry of a real z."""
    min_std: ClassVar[float] = 0.05
    """Smallest std of a Gaussian."""
    unimix: ClassVar[float] = 0.01
    """Share of a uniform mixed into the conditionals of codes."""
