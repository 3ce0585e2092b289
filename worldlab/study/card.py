"""Describes a run on one page, a model card: parts, scores with their interval, command, data, pictures, versions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from worldlab.config.command import train_command
from worldlab.config.resolve import PARTS, RunConfig
from worldlab.env.none import NO_ENV
from worldlab.errors import one_line
from worldlab.registry import Registry
from worldlab.runs.bundle import Bundle, last_part
from worldlab.runs.stores import RunCard
from worldlab.study.statistics import interval, mean

TAGS = ("worldlab", "world-model", "reinforcement-learning", "model-based-reinforcement-learning")


def write_card(
    address: str,
    config: RunConfig,
    registry: Registry,
    run: Mapping[str, Any],
    result: Mapping[str, Any] | None,
    bundle: Bundle,
    licence: str = "",
) -> RunCard:
    """Return the card of a run that is published at an address.

    run, result: the contents of run.json and result.json; None for a run that has not finished. bundle: what is published.
    """
    names = [getattr(config, role).name for role in PARTS]
    env = _text(run.get("env") or config.core.env.id)
    title = f"{' / '.join(names[:3])} with {names[3]} on {'recorded data' if env == NO_ENV else env}"
    scores, facts = _scores(result or {}, env, config.core.seed)
    sections = [
        f"# {title}",
        f"A world model (encoder {names[0]}, dynamics {names[1]}, decoder {names[2]}) and an agent ({names[3]}), trained by worldlab.",
        *_pictures(bundle),
        "## Use\n\n" + _use(address, bundle),
        f"## Scores\n\n{scores}",
        "## Parts\n\n" + _parts(run),
        "## Training\n\n" + _training(config, registry, run, bundle),
        "## Versions\n\n" + _versions(run),
        "## Licence\n\n"
        + (f"{_code(licence)}, as stated by who published it." if licence else "No licence is stated."),
    ]
    facts |= {"title": title, "env": env, "parts": names, "tags": [*TAGS, *(() if env == NO_ENV else (env,))]}
    return RunCard("\n\n".join(sections) + "\n", facts, licence)


def _use(address: str, bundle: Bundle) -> str:
    plugin = f" --plugin {Path(bundle.plugins[0]).name}" if bundle.plugins else ""
    lines = [f"worldlab {command} {address}{plugin}" for command in ("eval", "dream")]
    text = "```bash\n" + "\n".join(lines) + "\n```\n\n"
    text += f"From Python: `worldlab.load({address!r})`. The weights are safetensors; nothing is unpickled."
    if plugin:
        text += "\n\nIt needs the code in " + ", ".join(f"`{name}`" for name in bundle.plugins)
        text += ", which nothing imports by itself: read it, then give it with `--plugin`."
    if not any(name.startswith("replay/") for name in bundle.files):
        text += "\n\nThe recorded experience is not included, so the run itself cannot go on; `--finetune` begins a new one."
    return text


def _scores(result: Mapping[str, Any], env: str, seed: int) -> tuple[str, dict[str, Any]]:
    """Return the section on scores, and the facts for an index."""
    returns = [float(value) for value in result.get("returns", [])]
    if not returns:
        return _scores_without_returns(result), {}
    found = interval(np.array(returns)[:, None], mean)
    known = np.isfinite(found.low)
    shown = f"{found.estimate:.4g}" + (f" [{found.low:.4g}, {found.high:.4g}]" if known else "")
    rows = {
        "environment": env,
        "seeds": f"one ({seed})",
        "mean return [95% over episodes]": shown,
        "episodes": len(returns),
        "steps": f"{result.get('env_steps', 0):,}",
        "updates": f"{result.get('updates', 0):,}",
        "minutes": f"{result.get('wall_seconds', 0) / 60:.0f}",
    }
    text = _table(tuple(rows), [tuple(rows.values())])
    text += "\n\nOne seed: the interval covers the luck of the episodes, not that of training. Another seed may score otherwise."
    text += "\nThe last weights were evaluated on whole episodes without exploration; no checkpoint was selected."
    alarms = [
        _text(alarm.get("name", alarm) if isinstance(alarm, Mapping) else alarm) for alarm in result.get("alarms", [])
    ]
    text += f"\nAlarms while it trained: {', '.join(alarms)}." if alarms else ""
    facts = {"return_mean": found.estimate, "return_std": result.get("return_std"), "episodes": len(returns)}
    return text, {name: value for name, value in facts.items() if value is not None}


def _scores_without_returns(result: Mapping[str, Any]) -> str:
    if not result:
        return "The run has not finished, so there is no final evaluation."
    held_out = result.get("held_out") or {}
    losses = [(name, f"{value:.4g}") for name, value in held_out.get("losses", {}).items()]
    text = f"One seed; no environment. Means over {held_out.get('episodes', '?')} held-out episodes, in nats per frame:\n\n"
    return text + _table(("loss", "mean"), losses) if losses else "No return was measured."


def _parts(run: Mapping[str, Any]) -> str:
    counts = run.get("parameters") or {}
    rows = []
    for place, part in (run.get("components") or {}).items():
        source = f"{part.get('distribution')} {part.get('version')}"
        rows.append((place, _code(part.get("name")), source, f"{counts[place]:,}" if place in counts else ""))
    return _table(("role", "name", "from", "parameters"), rows) + f"\n\n{counts.get('total', 0):,} parameters in total."


def _training(config: RunConfig, registry: Registry, run: Mapping[str, Any], bundle: Bundle) -> str:
    command = train_command(config, registry)
    shown = last_path(command, config) if command else "worldlab train --config config.toml"
    lines = [
        f"```bash\n{shown}\n```",
        f"`config.toml` has every setting (SHA-256 `{bundle.files['config.toml'].sha256}`).",
    ]
    data = run.get("data")
    if isinstance(data, Mapping):
        hashes = data.get("sha256")
        pairs = hashes.items() if isinstance(hashes, Mapping) else [("all", hashes)]
        listed = ", ".join(f"{_text(name)} {_code(value)}" for name, value in pairs)
        lines.append(
            f"Data: {_code(last_part(str(data.get('source'))))}, {data.get('decisions')} decisions, SHA-256 {listed}."
        )
    else:
        lines.append("Data: what it collected in the environment itself.")
    if isinstance(run.get("finetune"), Mapping):
        lines.append(f"It began with weights of the run {_code(run['finetune'].get('run'))}.")
    return "\n\n".join(lines)


def last_path(command: str, config: RunConfig) -> str:
    """Return a command in which the absolute paths of data set and finetuned run are cut to their last part."""
    for name in (config.core.data, config.core.finetune):
        command = command.replace(name, last_part(name)) if name else command
    return command


def _versions(run: Mapping[str, Any]) -> str:
    known = [(name, value) for name, value in (run.get("versions") or {}).items() if value]
    git = run.get("git")
    if isinstance(git, Mapping):
        known.append(("commit", f"{git.get('commit')}{', with changes' if git.get('dirty') else ''}"))
    return (
        _table(("package", "version"), known) + f"\n\n{_text(run.get('platform'))}, device {_text(run.get('device'))}."
    )


def _pictures(bundle: Bundle) -> Iterable[str]:
    """Return the first animation and the first strip of dreams, and an episode."""
    names = sorted(name for name in bundle.files if name.startswith("videos/"))
    moving = [name for name in names if name.endswith(".webp") and "dream" in name][:1]
    strip = [name for name in names if name.endswith(".png")][:1]
    if moving or strip:
        yield "\n".join(f"![dream]({name})" for name in (*moving, *strip))
        what = "Real frames, their reconstructions" if moving else "Real values"
        yield f"{what}, and a dream that after five frames depends on the actions alone."
    if "videos/evaluation.webp" in names:
        yield "![an episode of the final evaluation](videos/evaluation.webp)"


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines)


def _code(value: object) -> str:
    return f"`{one_line(value, 200).replace('`', chr(39))}`"


def _text(value: object) -> str:
    """Return a value as one line that cannot leave its cell of a table or begin markup."""
    return one_line(value, 200).replace("|", "\\|").replace("<", "&lt;")


__all__ = ["write_card"]
