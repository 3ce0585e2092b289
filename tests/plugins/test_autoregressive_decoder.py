import pytest
import torch
from autoregressive_toys import IMAGE, VECTOR, decoder, gen
from worldlab_autoregressive.pixelcnn import PixelDistribution

from worldlab.interfaces import Batch, Context, Latent

FEATURES = 16 + 6


def obs(n: int) -> dict[str, torch.Tensor]:
    picture = torch.randint(0, 256, (n, 3, 8, 8), generator=gen(1)) / 255 - 0.5
    return {"image": picture, "state": torch.randn(n, 4, generator=gen(2))}


def context(features: torch.Tensor, seen: dict[str, torch.Tensor]) -> Context:
    """M unrelated frames, as a decoder sees them."""
    m = len(features)
    zero = torch.zeros(m, 1)
    batch = Batch(
        {k: x[:, None] for k, x in seen.items()}, zero[..., None], zero, zero, zero.bool(), torch.ones(m, 1)
    )
    f = features[:, None]
    row, time = torch.arange(m)[:, None], torch.zeros(m, 1, dtype=torch.long)
    return Context(batch, f, f[..., :16], Latent(f[..., 16:]), f, None, row, time, gen())


def test_score_is_the_sum_of_the_losses_without_the_sketch():
    part, seen = decoder((IMAGE, VECTOR)), obs(5)
    features = torch.randn(5, FEATURES, generator=gen())
    terms = part.losses(context(features, seen))
    assert set(terms) == {"image", "image_sketch", "state"} and not part.losses(context(features, seen), "critic")
    torch.testing.assert_close(part.score(features, seen), -(terms["image"] + terms["state"])[:, 0])
    dist = part.decode(features)["image"]
    assert isinstance(dist, PixelDistribution)
    torch.testing.assert_close(terms["image_sketch"][:, 0], (dist.mode - seen["image"]).square().sum((1, 2, 3)) / 2)


def test_the_metrics_are_bits_and_the_worth_of_the_features():
    part, seen = decoder((IMAGE, VECTOR)), obs(5)
    features = torch.randn(5, FEATURES, generator=gen())
    ctx = context(features, seen).detach()
    with torch.no_grad():
        metrics, dists, other = part.metrics(ctx), part.decode(features), part.decode(features.roll(1, 0))
        log_prob = dists["image"].log_prob(seen["image"])
        assert metrics["image_bits_per_dim"].item() == pytest.approx(-log_prob.mean().item() / 0.693147 / 192)
        for key in ("image", "state"):
            gap = dists[key].log_prob(seen[key]) - other[key].log_prob(seen[key])
            assert metrics[f"{key}_information"].item() == pytest.approx(gap.mean().item(), abs=1e-4)


def test_pictures_of_one_key_do_not_depend_on_another():
    part, seen = decoder((IMAGE, VECTOR)), obs(3)
    features = torch.randn(3, FEATURES, generator=gen())
    vector = part.decode(features)["state"].log_prob(seen["state"])
    torch.testing.assert_close(part.score(features, seen) - vector, part.decode(features)["image"].log_prob(seen["image"]))


@pytest.mark.slow
def test_a_fit_reads_the_features_and_beats_independent_pixels():
    """Pictures of one of two grey levels (told by the features) plus noise that every other column repeats.

    Truth: a column costs log 8 nats a pixel where new and 0 where repeated; independent pixels pay log 8 for both.
    """
    torch.manual_seed(0)
    obs_spec = (("image", type(IMAGE[1])("image", (1, 8, 8))),)
    part = decoder(obs_spec, layers=3, channels=16, mixtures=4)
    optimizer, g = torch.optim.Adam(part.parameters(), 1e-2), gen()

    def draw(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        side = torch.randint(0, 2, (n,), generator=g)
        new = torch.randint(0, 8, (n, 1, 8, 4), generator=g)
        level = (60 + 100 * side[:, None, None, None] + new.repeat_interleave(2, -1)).float()
        features = torch.zeros(n, FEATURES)
        features[:, 0] = 2.0 * side - 1
        return level / 255 - 0.5, features

    for _ in range(250):
        x, features = draw(24)
        optimizer.zero_grad()
        (-part.decode(features)["image"].log_prob(x).mean() / 64).backward()
        torch.nn.utils.clip_grad_norm_(part.parameters(), 10)
        optimizer.step()
    x, features = draw(128)
    with torch.no_grad():
        right, wrong = (part.score(f, {"image": x}).mean().item() / 64 for f in (features, -features))
    print(f"nats a pixel: {-right:.3f} (truth 1.04, independent 2.08), with the wrong features {-wrong:.3f}")
    assert -right < 1.8
    assert (right - wrong) * 64 > 1
