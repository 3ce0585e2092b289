"""Tests of functions: are rows independent, does an output depend on an input, is a density correct?

Dependence is tested by values and by gradients: rounding can hide it in the values, a detach hides it in the gradients.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldlab import tree
from worldlab.model.noise import stream
from worldlab.testing.checks import CheckFailure

TOLERANCE = 1e-4
"""Largest difference, relative to 1 + |value|, attributed to the order of float32 sums."""


def random_states() -> dict[str, object]:
    """Return the states of the global random generators by library; they are equal if nothing was drawn between."""
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": repr(np.random.get_state()),
        "random": random.getstate(),
    }


def float_leaves(value: Any) -> list[Tensor]:
    """Return the floating-point leaves of a tree."""
    return [leaf for leaf in tree.leaves(value) if leaf.is_floating_point()]


def relative_error(a: Tensor, b: Tensor) -> Tensor:
    """Return |a - b| / (1 + |a|) per element; where a or b is not finite, 0 if they are equal, else infinity."""
    a, b = a.detach().double(), b.detach().double()
    difference = (a - b).abs() / (1 + a.abs())
    alike = (a == b) | (a.isnan() & b.isnan())
    apart = torch.where(alike, 0.0, torch.inf).to(difference)
    return torch.where(torch.isfinite(a) & torch.isfinite(b), difference, apart)


def same(a: Any, b: Any, tolerance: float = TOLERANCE) -> bool:
    """Return whether two trees hold the same numbers, up to a relative tolerance (0: bit for bit)."""
    left, right = tree.leaves(a), tree.leaves(b)
    if len(left) != len(right) or any(x.shape != y.shape for x, y in zip(left, right)):
        return False
    return all(bool((relative_error(x, y) <= tolerance).all()) for x, y in zip(left, right))


def with_grad(value: Any) -> Any:
    """Return a copy of the tree whose float leaves require gradients."""
    return tree.tree_map(lambda x: x.detach().clone().requires_grad_() if x.is_floating_point() else x, value)


def perturb(x: Tensor, seed: int = 7) -> Tensor:
    """Return the tensor with standard normal noise added; other dtypes than float are returned unchanged."""
    return x.detach() + torch.randn(x.shape, generator=stream(seed)).to(x.dtype) if x.is_floating_point() else x


def gradient(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Return the gradients of a random projection of `out`; 0 for an unconnected input.

    A plain sum could cancel, as the sum of a softmax does.
    """
    if not out.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    weight = torch.randn(out.shape, generator=stream(11)).to(out.dtype)
    found = torch.autograd.grad((out * weight).sum(), inputs, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found)]


def gradient_reaches(run: Callable[[Tensor], Any], x: Tensor) -> bool:
    """Return whether any float output of run has a non-zero gradient with respect to x."""
    leaf = x.detach().clone().requires_grad_()
    return any(bool(gradient(out, [leaf])[0].abs().sum() > 0) for out in float_leaves(run(leaf)))


def depends(run: Callable[[Tensor], Any], x: Tensor) -> bool:
    """Return whether the output of run(x) depends on x, by gradient or by value."""
    return gradient_reaches(run, x) or not same(run(x), run(perturb(x)), 0.0)


def require_independent_rows(run: Callable[[Any], Any], inputs: Any, what: str) -> None:
    """Raise CheckFailure if row j of the inputs influences row i of the outputs.

    run: a function of a tree that returns a tree; every leaf of both has one entry per row in dim 0.
    """
    rows = len(tree.leaves(inputs)[0])
    base = run(tree.tree_map(torch.clone, inputs))
    if not same(base, run(tree.tree_map(torch.clone, inputs)), 0.0):
        raise CheckFailure(
            f"{what} gives different results for the same input, so that rows cannot be compared",
            "keep no state in self, and draw noise only from the generator",
        )
    for j in (0, rows - 1):
        changed = tree.tree_map(lambda x, j=j: _with_row(x, j), inputs)
        for a, b in zip(tree.leaves(base), tree.leaves(run(changed)), strict=True):
            moved = relative_error(a, b).reshape(rows, -1).amax(1) > TOLERANCE
            moved[j] = False
            if moved.any():
                raise _leak(j, int(moved.nonzero()[0]), what)
    traced = with_grad(inputs)
    for out in float_leaves(run(traced)):
        for grad in gradient(out[0], float_leaves(traced)):
            others = grad.reshape(rows, -1).abs().amax(1)[1:]
            if (others > 0).any():
                raise _leak(int(others.argmax()) + 1, 0, what)


def _leak(j: int, i: int, what: str) -> CheckFailure:
    return CheckFailure(
        f"element {j} influences element {i} in {what}: rows of the batch are mixed",
        "attend and normalise within a row, never over dim 0 (batch_first=True; LayerNorm, not BatchNorm)",
    )


def _with_row(x: Tensor, row: int) -> Tensor:
    return torch.cat([x[:row], perturb(x[row : row + 1]), x[row + 1 :]]) if len(x) else x


def require_rows(value: Any, rows: int, what: str) -> None:
    """Raise CheckFailure unless the tree has a leaf and every leaf is a tensor with `rows` rows."""
    leaves = tree.leaves(value)
    if not leaves:
        raise CheckFailure(
            f"{what} holds no tensors the core can see", "use a dict or a frozen dataclass of tensors [N, ...]"
        )
    for leaf in leaves:
        if leaf.dim() == 0 or len(leaf) != rows:
            raise CheckFailure(
                f"{what} has a leaf of shape {list(leaf.shape)} for {rows} rows",
                "give every leaf one entry per row, also positions and counters",
            )


def require_shape(x: Any, shape: tuple[int, ...], what: str) -> None:
    """Raise CheckFailure unless x is a finite float tensor of this shape."""
    if not isinstance(x, Tensor):
        raise CheckFailure(f"{what} is a {type(x).__name__}, not a tensor", f"return a tensor {list(shape)}")
    if tuple(x.shape) != shape:
        raise CheckFailure(
            f"{what} has shape {list(x.shape)}, not {list(shape)}",
            "python -m pydoc worldlab.interfaces   prints the shapes of every method",
        )
    if x.dtype != torch.float32:
        raise CheckFailure(f"{what} is {x.dtype}, not torch.float32", "return float32, as the following layers expect")
    if not torch.isfinite(x).all():
        raise CheckFailure(
            f"{what} holds NaN or infinity at initialisation", "keep scales and arguments of log away from 0"
        )


def require_density(samples: Tensor, log_density: Callable[[Tensor], Tensor], what: str) -> None:
    """Raise CheckFailure unless a 1-D density integrates to 1 and its distribution function fits the samples.

    samples [S]; log_density: [N] -> [N] in nats.
    """
    samples = samples.sort().values
    spread = float(samples[-1] - samples[0]) + 1e-3
    grid = torch.linspace(float(samples[0]) - spread, float(samples[-1]) + spread, 4001)
    mass = torch.cumulative_trapezoid(log_density(grid).double().exp(), grid.double())
    if abs(float(mass[-1]) - 1) > 0.02:
        raise CheckFailure(
            f"{what}'s density integrates to {float(mass[-1]):.3f}, not 1",
            "add the missing log std or log-determinant",
        )
    # Kolmogorov-Smirnov: for 4000 samples the distance exceeds 0.04 with probability below 1e-5.
    at = torch.searchsorted(grid, samples.contiguous()).clamp(1, len(mass)) - 1
    distance = (mass[at] - torch.linspace(0, 1, len(samples)).double()).abs().max()
    if distance > 0.04:
        raise CheckFailure(
            f"samples do not follow {what}'s log-density (Kolmogorov-Smirnov distance {float(distance):.2f})",
            "sample from the distribution that log_prob or score describes",
        )


def metropolis_drift(samples: Tensor, log_density: Callable[[Tensor], Tensor], whole_levels: bool) -> float:
    """Return by how many standard errors a Metropolis step under log_density shifts three statistics of the samples.

    The step leaves the distribution of samples of the density unchanged, also if log_density lacks a constant
    (Metropolis et al. 1953); the result is then the largest of three standard normals. The step moves one random entry
    of each sample. The statistics are that entry, its square and the log-density. samples [S, *shape]; whole_levels:
    entries are k / 255 - 0.5 with k from 0 to 255.
    """
    gen, count = stream(12), len(samples)
    before = samples.flatten(1).double()
    rows, entry = torch.arange(count), torch.randint(before.shape[1], (count,), generator=gen)
    scale = before.std(0).clamp(min=1e-6)[entry]
    push = scale * torch.randn(count, generator=gen).double()
    if whole_levels:
        push = push.sign() * (255 * push.abs()).round().clamp(min=1) / 255
    after = before.clone()
    after[rows, entry] += push
    inside = (after.abs().amax(1) < 0.5 + 1e-6) if whole_levels else torch.ones(count, dtype=torch.bool)
    gain = (log_density(after.view_as(samples).float()) - log_density(samples.float())).double()
    taken = inside & (torch.rand(count, generator=gen).log() < gain)
    old = (before[rows, entry] - before.mean(0)[entry]) / scale
    new = torch.where(taken, old + push / scale, old)
    shifts = (new - old, new.square() - old.square(), torch.where(taken, gain, 0.0))
    return max(abs(float(x.mean() / (x.std() / count**0.5).clamp(min=1e-9))) for x in shifts)


def log_density_bias(samples: Tensor, log_prob: Tensor, size: float) -> float:
    """Return by how many standard errors a log-density misses its samples x ~ p; positive if it is too low.

    For a known density r and every correct log p whose support contains that of r, E[r(x) / p(x)] is 1, and by Jensen
    E[log r(x) - log p(x)] is at most 0. The first finds a density that is too high; one that is far too low makes its
    standard error as large as its mean, and the second finds it. r is a Gaussian with the covariance of the samples, narrowed
    for the ratio; for categorical samples it is uniform over `size` codes (size 0: continuous). r is fitted to the other
    half of the samples than those it is compared on. samples [S, D], log_prob [S].
    """
    log_p, half = log_prob.double(), len(samples) // 2
    if size:
        ratio = excess = -log_p - math.log(size)
    else:
        # Narrower than the samples, so that the ratio has light tails and the test has power.
        parts = samples.double().split([half, len(samples) - half])
        ratio, excess = (
            torch.cat([_fit_gaussian(b, width).log_prob(a) for a, b in (parts, parts[::-1])]) - log_p
            for width in (0.7, 1.0)
        )
    bias, too_low = _standard_errors(ratio.clamp(max=100).exp() - 1), _standard_errors(excess)
    return too_low if too_low > abs(bias) else bias


def _standard_errors(x: Tensor) -> float:
    return float(x.mean() / (x.std() / len(x) ** 0.5 + 0.01))


def _fit_gaussian(x: Tensor, width: float) -> torch.distributions.MultivariateNormal:
    """Return the Gaussian with the moments of rows x [S, D], its stds multiplied by `width`."""
    mean, std = x.mean(0), x.std(0) + 1e-6
    scaled = (x - mean) / std
    correlation = scaled.T @ scaled / len(x) + 1e-6 * torch.eye(x.shape[1], dtype=x.dtype)
    root = torch.linalg.cholesky(correlation)
    return torch.distributions.MultivariateNormal(mean, scale_tril=width * std[:, None] * root, validate_args=False)


def require_joint(samples: Tensor, log_density: Callable[[Tensor], Tensor], block: int = 1) -> None:
    """Raise CheckFailure if dimensions that are sampled jointly are scored as a product of marginals.

    The test compares the mean log-density of the samples with that of the same samples after shuffling the rows of each
    block of columns, which removes only the dependence between blocks. A correct log-density is higher on the original
    samples by KL(p || q) + KL(q || p), where q is the product of the marginals; this is at least about the square of
    the largest correlation. A log-density that is a sum over blocks differs by exactly 0. Samples without dependence
    pass untested. samples [S, D]; log_density: [S, D] -> [S] in nats; block: number of columns of one dimension or
    code.
    """
    count, columns = samples.shape
    scaled = samples.double() - samples.double().mean(0)
    scaled = scaled / scaled.std(0).clamp(min=1e-6)
    correlation = scaled.T @ scaled / count
    group = torch.arange(columns) // block
    strongest = float(correlation[group[:, None] != group].abs().max()) if columns > block else 0.0
    if strongest * count**0.5 < 12:
        return
    shuffled = torch.cat([part.roll(97 * place, 0) for place, part in enumerate(samples.split(block, 1))], 1)
    gain = float((log_density(samples).double() - log_density(shuffled).double()).mean())
    if gain < 0.1 * strongest**2:
        raise CheckFailure(
            f"entries of a sample are correlated ({strongest:.2f}) but log_prob scores them as independent",
            "score the joint: a mixture of joint components is a logsumexp of sums, not a sum of logsumexps",
        )


def require_entropy(entropy: Tensor, log_prob: Tensor) -> None:
    """Raise CheckFailure unless the entropy is the mean of -log_prob over samples; both are [S], in nats."""
    difference, error = float((entropy + log_prob).mean()), float(log_prob.std()) / len(log_prob) ** 0.5
    if abs(difference) > 5 * error + 1e-3:
        raise CheckFailure(
            f"entropy() is {difference:+.2f} nats away from the mean of -log p over samples",
            "the log-density matches the samples, so mend entropy(): the mean of -log p, in closed form or estimated",
        )


def r2(target: Tensor, prediction: Tensor) -> float:
    """Return the share of the target's variance that the prediction explains: 1 is perfect, 0 equals the mean."""
    error = (target - prediction).square().mean()
    return float(1 - error / target.var(correction=0).clamp(min=1e-8))


def linear_probe(z: Tensor, target: Tensor) -> float:
    """Return the R2 of a ridge regression of target [N] on z [N, D]: fitted on half of the rows, tested on the rest."""
    inputs = torch.cat([z, torch.ones(len(z), 1)], 1).double()
    half = len(z) // 2
    fitted, truth = inputs[:half], target[:half].double()
    weight = torch.linalg.solve(fitted.T @ fitted + 1e-3 * torch.eye(inputs.shape[1]).double(), fitted.T @ truth)
    return r2(target[half:].double(), inputs[half:] @ weight)
