"""The encoders `vq` and `fsq`: codes, their gradients, and the life of a codebook."""

from __future__ import annotations

import pytest
import torch
from codes_kit import CODED, build_coded, clusters, gen
from worldlab_vae.codebook import DECAY, Codebook
from worldlab_vae.fsq import bound, grid, to_index
from worldlab_vae.quantise import perplexity, straight_through


@pytest.mark.parametrize("name", CODED)
def test_the_gradient_through_the_code_vectors_is_the_identity(name):
    """d(z E)/dy = I, and a layer whose weights are linear in the code vectors gets its slope."""
    encoder = build_coded(name)
    vectors = encoder.codebook.vectors if name == "vq" else encoder.vectors.expand(3, -1, -1)
    y = torch.randn(5, 3, 2, generator=gen(), dtype=torch.float64).requires_grad_()
    codes = torch.randint(vectors.shape[1], (5, 3), generator=gen(1))
    hot = straight_through(y, codes, vectors)
    weight = torch.randn(5, 3, 2, generator=gen(2), dtype=torch.float64)
    read = torch.einsum("ngk,gkd->ngd", hot.unflatten(1, (3, -1)), vectors)
    (grad,) = torch.autograd.grad((read * weight).sum(), y, retain_graph=True)
    torch.testing.assert_close(grad, weight, rtol=1e-4, atol=1e-5)
    slope = torch.randn(2, 4, generator=gen(3), dtype=torch.float64)
    table = vectors @ slope + 7  # [3, K, 4]: linear in the code vectors, with an offset
    out = torch.einsum("ngk,gko->no", hot.unflatten(1, (3, -1)), table)
    (grad,) = torch.autograd.grad(out.sum(), y)
    torch.testing.assert_close(grad, slope.sum(1).expand(5, 3, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CODED)
def test_z_is_exactly_one_hot_at_the_tokens(name):
    encoder = build_coded(name)
    latent = encoder.infer(encoder.embed({"vector": torch.randn(64, 4, generator=gen()).double()}), None, None)
    z = latent.z.unflatten(1, (3, -1))
    assert torch.equal(z, torch.nn.functional.one_hot(latent.tokens, z.shape[-1]).double())


def test_a_token_is_the_nearest_vector_of_its_codebook():
    book = Codebook(3, 8, 2)
    y = torch.randn(20, 3, 2, generator=gen())
    found = book.nearest(y)
    for n in range(20):
        for g in range(3):
            assert found[n, g] == (book.vectors[g] - y[n, g]).norm(dim=-1).argmin()
    assert torch.equal(book.look_up(found)[4, 2], book.vectors[2, found[4, 2]])


@pytest.mark.parametrize(("levels", "dims"), [(2, 3), (3, 2), (8, 1), (5, 3)])
def test_codes_of_scalar_quantisation_round_trip(levels, dims):
    """Every code has the digits of its vector, and every level is reached over an interval of tanh of equal width."""
    digits = grid(levels, dims)
    assert torch.equal(to_index(digits, levels), torch.arange(levels**dims))
    share = torch.linspace(-1, 1, 10 * levels * 100 + 1)[1:-1].double()
    reached = bound(torch.atanh(share), levels).round()
    counts = torch.bincount(reached.long(), minlength=levels).double()
    assert len(counts) == levels and (counts / counts.mean() - 1).abs().max() < 0.01


def test_a_code_moves_to_the_mean_of_its_vectors():
    """VQ-VAE, appendix A.1: the moving average of the counts and of the sums, computed by hand."""
    book = Codebook(1, 2, 1)
    book.vectors.copy_(torch.tensor([[[-1.0], [1.0]]]))
    book.mass.copy_(torch.tensor([[2.0, 2.0]]))
    book.sums.copy_(torch.tensor([[[-2.0], [2.0]]]))
    book.started.fill_(True)
    y = torch.tensor([-2.0, -3.0, 0.5, 1.5])[:, None, None]
    book.update(y, y[:2])
    mass = DECAY * 2 + (1 - DECAY) * 2
    expected = [(DECAY * -2 + (1 - DECAY) * -5) / mass, (DECAY * 2 + (1 - DECAY) * 2) / mass]
    torch.testing.assert_close(book.vectors.flatten(), torch.tensor(expected))


def test_the_codes_of_fixed_clusters_become_their_means():
    """k-means finds 4 far clusters, and further updates keep each code at the mean of the vectors of its cluster."""
    y = clusters(400, 4, 3)
    book = Codebook(1, 4, 3)
    spare = torch.stack([y[(y - centre).norm(dim=-1).argmin()] for centre in _means(y)])
    for _ in range(3):
        book.update(y[:, None], spare[:, None])
    torch.testing.assert_close(book.vectors[0], _means(y), rtol=1e-4, atol=1e-4)


def _means(y):
    """The means of the points of each of 4 clusters, found by their distances."""
    means, left = [], y
    while len(left):
        near = (left - left[0]).norm(dim=-1) < 3
        means.append(left[near].mean(0))
        left = left[~near]
    return torch.stack(means)


def test_k_means_and_revival_keep_a_codebook_alive():
    """64 clusters, 256 codes: a random start without revival uses fewer codes than there are clusters."""

    def used(alive: bool) -> tuple[float, int]:
        torch.manual_seed(0)
        book = Codebook(1, 256, 8)
        book.started.fill_(not alive)
        for step in range(60):
            y = clusters(512, 64, 8, seed=step)[:, None]
            before = book.vectors.clone()
            spare = y[torch.randint(512, (256,), generator=gen(step))]
            if alive:
                book.update(y, spare)
            else:  # plain moving averages: dead codes stay where they are
                book.update(y, before.transpose(0, 1))
        tokens = book.nearest(clusters(4096, 64, 8, seed=1000)[:, None])
        return float(perplexity(tokens, 256)), len(tokens.unique())

    (plain, few), (kept, many) = used(alive=False), used(alive=True)
    assert few < 60 and plain < 60  # measured: 45 and 41
    assert many > 200 and kept > 120  # measured: 235 and 171


def test_perplexity_counts_the_codes_in_use():
    tokens = torch.stack([torch.zeros(8).long(), torch.arange(8) % 4], 1)
    torch.testing.assert_close(perplexity(tokens, 5), torch.tensor([1.0, 4.0]).double())
