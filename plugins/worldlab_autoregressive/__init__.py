"""The autoregressive family: every distribution is a product of conditionals, and every density is exact. See
README.md.
"""

from worldlab import hookimpl
from worldlab_autoregressive.configs import (
    AutoregressiveDecoderConfig,
    AutoregressiveDynamicsConfig,
    AutoregressiveEncoderConfig,
    MADEDynamicsConfig,
    MaskGITDynamicsConfig,
    ParallelPixelCNNDecoderConfig,
    PixelCNNDecoderConfig,
    WaveNetDynamicsConfig,
)


@hookimpl
def worldlab_register(register) -> None:
    register.encoder(
        "autoregressive",
        "worldlab_autoregressive.encoder:AutoregressiveEncoder",
        config=AutoregressiveEncoderConfig,
        summary="Autoregressive posterior over categorical codes, with exact log q of its samples.",
        paper="arXiv:1606.05328, arXiv:2301.04104",
        api=1,
    )
    register.dynamics(
        "autoregressive",
        "worldlab_autoregressive.dynamics:AutoregressiveDynamics",
        config=AutoregressiveDynamicsConfig,
        summary="Causal transformer over time, or World Models' LSTM; predicts a mixture density or codes.",
        paper="Vaswani et al. 2017 (GPT-2's transformer), arXiv:1706.03762; "
        "Ha & Schmidhuber 2018 (World Models, MDN-RNN), arXiv:1803.10122; Graves 2013 (recurrent language models), arXiv:1308.0850",
        api=1,
    )
    register.decoder(
        "autoregressive",
        "worldlab_autoregressive.decoder:AutoregressiveDecoder",
        config=AutoregressiveDecoderConfig,
        summary="Conditional gated PixelCNN with a discretised logistic mixture; exact likelihoods, cached sampling.",
        paper="van den Oord et al. 2016 (Gated PixelCNN, PixelVAE, VLAE), arXiv:1606.05328; "
        "Salimans et al. 2017 (PixelCNN++), arXiv:1701.05517",
        api=1,
    )
    register.dynamics(
        "made",
        "worldlab_autoregressive.made:MADEDynamics",
        config=MADEDynamicsConfig,
        summary="The entries of the next latent one after another, by masked layers (MADE); an exact density.",
        paper="Zhang et al. 2021, arXiv:2104.13877; Germain et al. 2015 (MADE), arXiv:1502.03509",
        api=1,
    )
    register.decoder(
        "parallel-pixelcnn",
        "worldlab_autoregressive.parallel_pixelcnn:ParallelPixelCNNDecoder",
        config=ParallelPixelCNNDecoderConfig,
        summary="Groups of pixels in parallel: O(log N) passes for an image of N pixels; exact likelihoods.",
        paper="Reed et al. 2017 (Parallel Multiscale PixelCNN), arXiv:1703.03664",
        api=1,
    )
    register.dynamics(
        "wavenet",
        "worldlab_autoregressive.wavenet:WaveNetDynamics",
        config=WaveNetDynamicsConfig,
        summary="Dilated causal convolutions over time with a cache; predicts a mixture density or codes.",
        paper="van den Oord et al. 2016 (WaveNet), arXiv:1609.03499; Ramachandran et al. 2017, arXiv:1704.06001",
        api=1,
    )
    register.dynamics(
        "maskgit",
        "worldlab_autoregressive.maskgit:MaskGITDynamics",
        config=MaskGITDynamicsConfig,
        summary="Masked codes of the next step, drawn in a few parallel passes, the most confident first.",
        paper="Chang et al. 2022 (BERT: masked codes, MaskGIT), arXiv:2202.04200; Burchi & Timofte 2025 (EMERALD), arXiv:2507.04075",
        api=1,
    )
    register.decoder(
        "pixelcnn",
        "worldlab_autoregressive.decoder:AutoregressiveDecoder",
        config=PixelCNNDecoderConfig,
        summary="The first PixelCNN: one stack of masked convolutions, with its blind spot; exact likelihoods.",
        paper="van den Oord et al. 2016 (PixelCNN), arXiv:1601.06759",
        api=1,
    )
