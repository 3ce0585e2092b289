"""Makes an invented comparison with known results, to check reports against.

It has five models and three baselines on two environments with five seeds each, and run folders with images.

    python tests/kits/report_kit.py FOLDER      writes its report
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from report_payloads import PAYLOADS

from worldlab.runs.pictures import save_png, save_webp, strip
from worldlab.study.results import Comparison, Measurement, Method, Quantity, Reference, Trial

ENVS = ("CarRacing-v3", "Pendulum-v1")
SEEDS = (0, 1, 2, 3, 4)
BEST, TWINS, FAILED = "flow", ("vae", "twin"), ("gan", "CarRacing-v3", 3)
"""BEST is far better than all others; TWINS have equal numbers under two names; FAILED did not finish."""
MODELS = {
    "vae": "vae",
    "twin": "vae under another name",
    "flow": "flow",
    "autoregressive": "autoregressive",
    "gan": "gan",
}
BASELINES = {"random": "random actions", "untrained": "untrained dynamics", "free": "model-free (SB3 PPO)"}
METHODS = (
    *(
        Method(key, label, "model", "vae" if key == "twin" else key, "vae", "vae", "dreamer")
        for key, label in MODELS.items()
    ),
    *(Method(key, label, "baseline", agent=key) for key, label in BASELINES.items()),
)
SKILL = {"vae": 0.45, "flow": 0.85, "autoregressive": 0.42, "gan": 0.25, "random": 0.0, "untrained": 0.08, "free": 0.3}
"""Mean normalised score of a method's seeds."""
REFERENCES = {
    "CarRacing-v3": Reference(-30.0, 900.0, "random actions; 900, where the environment counts as solved"),
    "Pendulum-v1": Reference(-1200.0, -150.0, "random actions; a swing-up with optimal control"),
}
QUANTITIES = (
    Quantity(
        "probe/linear_r2", "Linear probe of the true state", "R2", "higher", "Ridge regression, held-out episodes."
    ),
    Quantity("energy/h5", "Energy score, 5 steps ahead", "", "lower", "16 samples a start, in the fixed probe space."),
    Quantity("bits_per_dim", "Bits per dimension", "bits", "lower", "Importance-weighted bound with 16 samples."),
    Quantity("latent/effective_rank", "Effective rank", "directions", None, "Entropy of the covariance's spectrum."),
    Quantity("speed/frames", "Imagination speed", "frames/s", "higher", "Wall clock over 100 dreams after a warm-up."),
)


def comparison(seeds: tuple[int, ...] = SEEDS, methods: tuple[Method, ...] = METHODS) -> Comparison:
    """Make the comparison; it is deterministic."""
    trials = tuple(_trial(method, env, seed) for method in methods for env in ENVS for seed in seeds)
    return Comparison(
        title="Five encoders on two tasks",
        methods=methods,
        envs=ENVS,
        seeds=seeds,
        trials=trials,
        quantities=QUANTITIES,
        references=REFERENCES,
        budgets={env: {"env_steps": 20_000, "updates": 4_000} for env in ENVS},
        about={
            "command": "worldlab compare --env CarRacing Pendulum --encoder vae flow autoregressive gan --seeds 5",
            "preset": ["debug"],
            "versions": {"worldlab": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "numpy": "2.2.0"},
            "hardware": "AMD EPYC, 2 cores, no GPU",
            "data": {"sha256": "2f7d9c64a1f0c0c1b6f7a0b3f0d2a6b5c9e8d7f6a5b4c3d2e1f0a9b8c7d6e5f4"},
            "started": "2025-11-26 04:00 UTC",
            "finished": "2025-11-26 04:51 UTC",
        },
    )


def _trial(method: Method, env: str, seed: int) -> Trial:
    key = "vae" if method.key == "twin" else method.key
    folder = f"cells/{method.key}-{env}-s{seed}-0123abcd"
    if (method.key, env, seed) == FAILED:
        return Trial(
            method.key, env, seed, "failed", folder, "DivergedError: the loss of the critic left the finite numbers"
        )
    rng = np.random.default_rng([list(SKILL).index(key), ENVS.index(env), seed])
    reference = REFERENCES[env]
    width = reference.one - reference.zero
    skill = SKILL[key] + (0.05 if key != "random" else 0.015) * rng.standard_normal()
    trained = method.kind == "model" or key == "free"
    steps = np.linspace(2_000, 20_000, 10).astype(int) if trained else np.array([20_000 if key == "untrained" else 0])
    rise = 1 - np.exp(-steps / 6_000) if trained else np.ones(1)
    curve = reference.zero + width * (skill * rise + 0.03 * rng.standard_normal(len(steps)) * (rise < rise[-1]))
    noise = 0.06 * width * rng.standard_normal(10)
    returns = curve[-1] + noise - noise.mean()
    return Trial(
        method.key,
        env,
        seed,
        "finished",
        folder,
        env_steps=int(steps[-1]),
        updates=4_000 if method.kind == "model" else 0,
        wall_seconds=float(rng.uniform(0.8, 1.2) * (210 if trained else 3)),
        parameters=(600_000 + 130_000 * len(key)) if method.kind == "model" else 0,
        returns=tuple(float(value) for value in returns),
        curve=(
            *((int(step), float(value)) for step, value in zip(steps[:-1], curve)),
            (int(steps[-1]), float(returns.mean())),
        ),
        measures=_measures(method, skill, rng),
    )


def _measures(method: Method, skill: float, rng: np.random.Generator) -> dict[str, Measurement]:
    if method.kind == "baseline":
        return {quantity.name: Measurement(None, why="a baseline has no latent") for quantity in QUANTITIES}
    bits = {"gan": "p(z) is known by its samples only"}.get(method.key, "")
    return {
        "probe/linear_r2": Measurement(float(0.5 + 0.4 * skill + 0.02 * rng.standard_normal()), 0.01),
        "energy/h5": Measurement(float(1.4 - skill + 0.05 * rng.standard_normal()), 0.02),
        "bits_per_dim": Measurement(None, why=bits)
        if bits
        else Measurement(float(2.9 + 0.05 * rng.standard_normal()), 0.01),
        "latent/effective_rank": Measurement(float(8 + 6 * skill + rng.standard_normal())),
        "speed/frames": Measurement(float(52_000 * rng.uniform(0.9, 1.1))),
    }


def moving_disc(key: str, frames: int = 12, size: int = 64) -> np.ndarray:
    """Draw a moving disc in the method's own colour: uint8 [T, H, W, 3]."""
    rng = np.random.default_rng([ord(letter) for letter in key])
    tint = rng.integers(90, 230, 3)
    rows, columns = np.mgrid[:size, :size]
    shots = []
    for at in range(frames):
        angle = 2 * np.pi * at / frames
        disc = (rows - size / 2 - size / 4 * np.sin(angle)) ** 2 + (columns - size / 2 - size / 4 * np.cos(angle)) ** 2
        shots.append(np.where((disc < (size / 7) ** 2)[..., None], tint, 28 + (rows + columns)[..., None] // 4))
    return np.stack(shots).astype(np.uint8)


def run_folders(found: Comparison, folder: Path) -> None:
    """Write the images that the trials' runs would have written: clips for the first environment, strips for all."""
    for trial in found.trials:
        method = next(one for one in found.methods if one.key == trial.method)
        if trial.status != "finished" or method.kind == "baseline" or trial.seed > 1:
            continue
        videos = folder / trial.folder / "videos"
        videos.mkdir(parents=True)
        frames = moving_disc(trial.method)
        wide = np.concatenate([frames, np.roll(frames, 1, 0), np.roll(frames, 2, 0)], 2)
        picture = strip(
            {"real": frames, "reconstruction": np.roll(frames, 1, 0), "dream": np.roll(frames, 2, 0)}, dream_from=4
        )
        if trial.env == found.envs[0]:
            for name in ("dream-000010000.webp", "dream-000020000.webp"):
                save_webp(wide, videos / name)
            save_webp(frames, videos / "evaluation.webp")
        save_png(picture, videos / "dream-000020000.png")


GROUPS = [" ".join(PAYLOADS[at::7]) for at in range(7)]
"""Payloads in groups, because rendering a page takes time; a payload that breaks out is detected in a group, too."""
BLANK = "\x1b[2J\u202e\ud800"


def hostile(payload: str) -> Comparison:
    """Make a comparison in which every text is the payload: one model, one baseline, one finished and one failed seed."""
    given = comparison(seeds=(0, 1), methods=METHODS[1:6:4])
    env = {old: f"{at}{payload}" for at, old in enumerate(ENVS)}
    methods = tuple(Method(m.key, payload, m.kind, payload, payload, payload, m.agent) for m in given.methods)
    quantities = tuple(replace(q, title=payload, unit=payload, estimator=payload) for q in QUANTITIES[:2])
    measures = {QUANTITIES[0].name: Measurement(None, why=payload), QUANTITIES[1].name: Measurement(1.0)}
    changes = {"cause": payload, "folder": payload, "measures": measures}
    status = ("finished", "failed")
    trials = tuple(replace(t, env=env[t.env], status=status[t.seed], **changes) for t in given.trials)
    references = {env[ENVS[0]]: Reference(0, 1, payload)}
    budgets = {env[ENVS[1]]: {payload: 1.0}}
    about = {payload: payload, "command": payload, "nested": {payload: [payload]}}
    return Comparison(payload, methods, tuple(env.values()), (0, 1), trials, quantities, references, budgets, about)


if __name__ == "__main__":
    from worldlab.study.report import write

    target = Path(sys.argv[1])
    made = comparison()
    if not (target / "cells").exists():
        run_folders(made, target)
    for kind, where in write(made, target).items():
        print(kind, where)
