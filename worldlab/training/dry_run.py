"""Checks every part on a small batch before a run collects data.

A wrong shape then gives an immediate error that names the plugin, instead of a traceback from the core after the
prefill. The dry run checks shapes, dtypes, devices, finite numbers and savable states of the parts and of the agent
(worldlab.training.agent_dry_run). `worldlab check-plugin` runs it first and then checks behaviour.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from worldlab import tree
from worldlab.agent import Agent
from worldlab.errors import WorldlabError, one_line
from worldlab.interfaces import Batch, Context, Obs, ParallelDynamics, Player, declaration_error
from worldlab.model import matching
from worldlab.model.noise import noise_batch, stream
from worldlab.registry import Registration
from worldlab.specs import ActionSpec, LatentSpec, ObsSpec
from worldlab.training.agent_dry_run import check_agent
from worldlab.training.part_probe import PartProbe
from worldlab.world_model import WorldModel

ROWS, LENGTH = 3, 4
"""Size of the batch: different and above 1, so that lost and swapped dimensions are detected."""
FRAMES = 2
"""Frames of the batch for a decoder that sets `Decoder.frames`."""


def dry_run(model: WorldModel, agent: Agent, who: Mapping[str, Registration]) -> None:
    """Check every part and the agent on copies, and whether model and agent can be saved.

    who: registrations by role. The check has its own generator and changes nothing. Raises: PluginError with the
    distribution, version, component and method, and the expected and actual result; any WorldlabError of a part itself.
    """
    for role, registration in who.items():
        check_state(PartProbe(registration, agent if role == "agent" else model.parts[role]))
    for role, part in model.parts.items():
        if wrong := declaration_error(part):
            raise PartProbe(who[role], part).error("declares", wrong)
    trial = copy.deepcopy(model)
    if trial.decoder.frames:
        trial.settings = trial.settings.model_copy(update={"frames_per_update": FRAMES})
    probes = {role: PartProbe(who[role], part) for role, part in trial.parts.items()}
    generator = torch.Generator(model.device).manual_seed(0)
    batch = tree.tree_map(lambda leaf: leaf.to(model.device), dummy_batch(model.specs.obs, model.specs.action))
    with torch.random.fork_rng(devices=[]):
        _check_steps(trial, probes, batch, generator)
        trial.check_temperature(float(getattr(agent, "dream_temperature", 1.0)))
        if getattr(agent, "reads_disagreement", False):
            trial.check_members()
        _check_losses(trial, probes, batch, generator)
        if "agent" in who:
            check_agent(who["agent"], agent, trial, batch, generator)


def _check_steps(model: WorldModel, probes: Mapping[str, PartProbe], batch: Batch, generator: torch.Generator) -> None:
    """Check one step of every part in the order of the data flow, so that every input was checked before."""
    encoder, dynamics, decoder = probes["encoder"], probes["dynamics"], probes["decoder"]
    specs, n = model.specs, ROWS
    obs = tree.select(batch.obs, (slice(None), 0))
    action = batch.prev_action[:, 1]
    z = torch.zeros(n, specs.latent.dim, device=model.device)
    with torch.no_grad():
        embed = encoder.check_tensor("embed", encoder.call("embed", obs), (n, None), "[N, E]")
        state = dynamics.check_rows("initial", dynamics.call("initial", n), n)
        state = dynamics.check_rows("advance", dynamics.call("advance", state, z, action), n, like=state)
        memory = dynamics.check_tensor("memory", dynamics.call("memory", state), (n, specs.memory_dim), "[N, H]")
        read = memory if specs.use_memory else None
        for source in (None, generator):
            z = _check_latent(encoder, encoder.call("infer", embed, read, source), specs.latent)
        prior = dynamics.call("predict", memory)
        for name, draw in (("mode", lambda: prior.mode), ("sample", lambda: prior.sample(generator))):
            drawn = dynamics.check_tensor(
                "predict", dynamics.guard("predict", draw), (n, specs.latent.dim), "[N, D]", name
            )
        if model.dynamics.prior_kind in ("analytic", "log_prob"):
            _check_density(dynamics, "predict", prior, drawn, "the prior's")
        features = torch.cat([memory, z], -1)
        _check_decoded(decoder, decoder.call("decode", features[:1]), specs.obs, model.decoder.renders)
        decoder.check_tensor("score", decoder.call("score", features, obs), (n,), "[N]")
        if model.has_log_mass:
            mass = decoder.call("log_mass", features, _on_grey_levels(obs), generator)
            decoder.check_tensor("log_mass", mass, (n,), "[N]")
        if isinstance(model.dynamics, ParallelDynamics):
            _check_sequence(model, dynamics, batch)


def _on_grey_levels(obs: Obs) -> Obs:
    """Return images rounded to the 256 grey levels, as environments give them."""
    return {key: ((x + 0.5) * 255).round().clamp(0, 255) / 255 - 0.5 for key, x in obs.items()}


def _check_density(probe: PartProbe, method: str, dist: Any, z: Tensor, whose: str) -> None:
    """Check the shapes of a distribution's log_prob and entropy, where it has them, at z [N, D]."""
    for name, call in (("log_prob", lambda: dist.log_prob(z)), ("entropy", lambda: dist.entropy())):
        if hasattr(dist, name):
            probe.check_tensor(method, probe.guard(method, call), (len(z),), "[N]", f"{whose} {name}")


def _check_latent(encoder: PartProbe, latent: Any, spec: LatentSpec) -> Tensor:
    if not hasattr(latent, "z"):
        raise encoder.error("infer", f"gives a {type(latent).__name__}, expected a Latent")
    posterior = getattr(encoder.part, "posterior_kind", None)
    if posterior == "analytic" and latent.dist is None:
        raise encoder.error("infer", "gives a Latent without dist, expected one: posterior_kind is 'analytic'")
    if posterior == "own_logq":
        encoder.check_tensor("infer", latent.log_q, (ROWS,), "[N]", "Latent.log_q")
    z = encoder.check_tensor("infer", latent.z, (ROWS, spec.dim), "[N, D]", "Latent.z")
    if latent.dist is not None:
        encoder.check_rows("infer", latent.dist, ROWS, name="Latent.dist")
        _check_density(encoder, "infer", latent.dist, z, "Latent.dist's")
    return z


def _check_decoded(decoder: PartProbe, parts: Any, obs: ObsSpec, renders: bool) -> None:
    """Check the keys, and the values of vectors only: drawing an image pixel by pixel would take too long."""
    if not isinstance(parts, dict):
        raise decoder.error("decode", f"gives a {type(parts).__name__}, expected a dict by observation key")
    if renders and set(parts) != set(obs.keys):
        raise decoder.error("decode", f"gives the keys {sorted(parts)}, expected {sorted(obs.keys)}")
    for key in obs.vectors if renders else ():
        mode = decoder.guard("decode", lambda key=key: parts[key].mode)
        decoder.check_tensor("decode", mode, (1, *obs[key].shape), "[N, *shape]", f"{key}'s mode")


def _check_sequence(model: WorldModel, dynamics: PartProbe, batch: Batch) -> None:
    z = torch.zeros(ROWS, LENGTH, model.specs.latent.dim, device=model.device)
    start = dynamics.call("initial", ROWS)
    run = dynamics.call("advance_sequence", start, z, batch.prev_action, batch.is_first)
    for attribute in ("memory", "final", "at"):
        if not hasattr(run, attribute):
            raise dynamics.error("advance_sequence", f"gives a {type(run).__name__}, expected an Unrolled")
    shape = (ROWS, LENGTH, model.specs.memory_dim)
    dynamics.check_tensor("advance_sequence", run.memory, shape, "[B, T, H]", "memory")
    dynamics.check_rows("advance_sequence", run.final, ROWS, like=start)


def _check_losses(model: WorldModel, probes: Mapping[str, PartProbe], batch: Batch, generator: torch.Generator) -> None:
    ctx, _ = _call_jointly(probes, "advance", lambda: model.observe(batch, generator))
    if model.settings.samples > 1:
        _call_jointly(probes, "predict", lambda: model.observe_to_learn(batch, generator))
    decoded = model.decoder_context(ctx)
    for role, probe in probes.items():
        own = decoded if role == "decoder" else ctx
        names: set[str] = set()
        for player in _check_players(probe):
            given = own if player == "main" else own.detach()
            terms = probe.call("losses", given, player)
            _check_terms(probe, "losses", terms, own)
            names |= set(terms)
        if role == "decoder" and not names and any(p.requires_grad for p in probe.part.parameters()):
            raise probe.error("losses", "gives no terms, expected at least one: nothing would train this decoder")
        _check_weights(probe, names)
    terms = _call_jointly(
        probes, "predict", lambda: matching.terms(model.rule, ctx, model.dynamics, model.settings.free_nats)
    )
    _check_terms(probes["dynamics"], "predict", terms, ctx)


def _call_jointly(probes: Mapping[str, PartProbe], method: str, call: Callable[[], Any]) -> Any:
    """Run a call that involves several parts.

    An exception becomes a PluginError about the part whose code was running, else about `method` of the dynamics.
    """
    try:
        return call()
    except WorldlabError:
        raise
    except (Exception, SystemExit) as exc:
        culprit, step = probes["dynamics"], exc.__traceback__
        while step is not None:
            owner = step.tb_frame.f_locals.get("self")
            for probe in probes.values():
                if owner is probe.part:
                    culprit, method = probe, step.tb_frame.f_code.co_name
            step = step.tb_next
        raise culprit.exception_error(method, exc) from exc


def _check_players(probe: PartProbe) -> list[str]:
    """Return the names of a part's players, after checking that each parameter belongs to exactly one."""
    players = probe.call("players")
    if not isinstance(players, dict) or "main" not in players:
        raise probe.error("players", 'gives no "main", expected {"main": Player([parameters]), ...}')
    for name, player in players.items():
        if not isinstance(player, Player):
            raise probe.error("players", f"gives a {type(player).__name__} as '{name}', expected a Player")
    held = [id(p) for player in players.values() for p in player.parameters]
    for name, p in probe.part.named_parameters():
        if p.requires_grad and held.count(id(p)) != 1:
            raise probe.error("players", f"lists '{name}' {held.count(id(p))} times, expected once")
    return list(players)


def _check_weights(probe: PartProbe, names: set[str]) -> None:
    """Check that the declared weights are numbers and cover every loss term."""
    weights = getattr(probe.part, "loss_weights", None)
    if weights is None:
        return
    if not isinstance(weights, Mapping) or not all(isinstance(weight, int | float) for weight in weights.values()):
        raise probe.error("loss_weights", f"is {one_line(weights, 60)}, expected {{name: number}} or None")
    if unweighted := names - set(weights):
        known = ", ".join(weights) or "none"
        raise probe.error("losses", f"gives '{min(unweighted)}', which loss_weights does not have ({known})")


def _check_terms(probe: PartProbe, method: str, terms: Any, ctx: Context) -> None:
    if not isinstance(terms, dict):
        raise probe.error(method, f"gives a {type(terms).__name__}, expected {{name: [B, T]}}")
    for name, term in terms.items():
        probe.check_tensor(method, term, tuple(ctx.row.shape), "[B, T]", f"'{name}'")


def check_state(probe: PartProbe) -> None:
    """Check that a checkpoint can store a part's state. Raises: PluginError."""
    from safetensors.torch import save

    state = probe.call("state_dict")
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise probe.error("state_dict", f"holds a {type(value).__name__} at '{name}', expected tensors only")
        if value.layout is not torch.strided:
            raise probe.error("state_dict", f"holds '{name}' as {value.layout}, expected a dense tensor")
        probe.guard("state_dict", lambda value=value: save({"x": torch.empty(0, dtype=value.dtype)}))


def dummy_batch(obs: ObsSpec, action: ActionSpec) -> Batch:
    """Return a preprocessed noise batch [ROWS, LENGTH] with a reset and a termination in row 0."""
    return noise_batch(obs, action, ROWS, LENGTH, stream(0))
