"""Writes the header of a model card, from which the Hub fills its index: YAML between two lines of dashes."""

from __future__ import annotations

from typing import Any

from worldlab.runs.stores import RunCard


def with_header(card: RunCard) -> str:
    """Return the content of README.md."""
    import yaml  # huggingface_hub requires it

    facts = card.facts
    header: dict[str, Any] = {
        "library_name": "worldlab",
        "pipeline_tag": "reinforcement-learning",
        "tags": facts["tags"],
    }
    if card.licence:
        header["license"] = card.licence
    if "return_mean" in facts:
        header["model-index"] = [{"name": facts["title"], "results": [_result(facts)]}]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n\n{card.body}"


def _result(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the score as the index lists it: not verified by anybody, from one seed."""
    name = f"mean return over {facts['episodes']} episodes, one seed"
    spread = f" +/- {facts['return_std']:.2f}" if "return_std" in facts else ""
    value = f"{facts['return_mean']:.2f}{spread}"
    return {
        "task": {"type": "reinforcement-learning", "name": "reinforcement learning"},
        "dataset": {"type": facts["env"], "name": facts["env"]},
        "metrics": [{"type": "mean_reward", "name": name, "value": value, "verified": False}],
    }
