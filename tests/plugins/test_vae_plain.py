"""World Models' V, as an encoder and a decoder of the variational family."""

import pytest
import torch
from vae_toys import make_specs
from worldlab_vae.configs import VAEDecoderConfig, VAEEncoderConfig
from worldlab_vae.decoder import VAEDecoder
from worldlab_vae.encoder import VAEEncoder
from worldlab_vae.plain import PlainConvTrunk, PlainDeconvTrunk

from worldlab.config.resolve import resolve
from worldlab.errors import ConfigError
from worldlab.registry import load_registry
from worldlab.specs import ArraySpec, LatentSpec, Specs

CAR = ("image", ArraySpec("image", (3, 64, 64)))


def test_encoder_and_decoder_have_the_parameters_of_world_models():
    """Ha & Schmidhuber 2018, appendix A.1: 4,348,547 for pictures of 64 x 64 and a z of 32; the memory comes later."""
    latent = LatentSpec(32)
    specs = Specs(make_specs((CAR,)).obs, make_specs().action, latent, 256, use_memory=False, decoder_memory=False)
    encoder = VAEEncoder(VAEEncoderConfig(network="plain", width=32), specs)
    decoder = VAEDecoder(VAEDecoderConfig(network="plain", width=32), specs)
    assert sum(p.numel() for part in (encoder, decoder) for p in part.parameters()) == 4_348_547


def test_the_encoder_is_the_papers_stack_of_convolutions():
    torch.manual_seed(0)
    trunk = PlainConvTrunk((3, 64, 64), 4)
    x = torch.randn(2, 3, 64, 64)
    expected = x
    for layer in (m for m in trunk.net if isinstance(m, torch.nn.Conv2d)):
        expected = torch.relu(torch.nn.functional.conv2d(expected, layer.weight, layer.bias, stride=2))
    assert expected.shape == (2, 32, 2, 2)
    torch.testing.assert_close(trunk(x), expected.flatten(1))


@pytest.mark.parametrize("side", [16, 48, 64])
def test_pictures_up_to_64_are_drawn_in_range(side):
    trunk = PlainDeconvTrunk(5, (3, side, side), 2)
    drawn = trunk(10 * torch.randn(4, 5))
    assert drawn.shape == (4, 3, side, side) and drawn.abs().max() <= 0.5


def test_a_small_picture_is_the_middle_of_the_large_one():
    torch.manual_seed(0)
    large, small = PlainDeconvTrunk(5, (3, 64, 64), 2), PlainDeconvTrunk(5, (3, 48, 48), 2)
    small.load_state_dict(large.state_dict())
    x = torch.randn(3, 5)
    torch.testing.assert_close(small(x), large(x)[:, :, 8:56, 8:56])


def test_larger_pictures_are_refused_with_the_way_out():
    with pytest.raises(ConfigError, match="up to 64 x 64") as error:
        PlainDeconvTrunk(5, (3, 96, 96), 2)
    assert "--env.size 64" in str(error.value.fix)


def test_an_older_run_folder_may_say_what_the_network_implies_now(tmp_path):
    older = tmp_path / "config.toml"
    older.write_text('[encoder]\nname = "vae"\nnetwork = "plain"\nhead_layers = 0\n', encoding="utf-8")
    assert resolve(load_registry(), files=[older]).encoder.options.head_layers == 0
    for network, layers in (("normed", 0), ("normed", 3), ("plain", 1)):  # nothing implies these
        older.write_text(f'[encoder]\nname = "vae"\nnetwork = "{network}"\nhead_layers = {layers}\n', encoding="utf-8")
        with pytest.raises(ConfigError, match=r"encoder\.head_layers is not a setting"):
            resolve(load_registry(), files=[older])
