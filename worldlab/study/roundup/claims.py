"""Reads a roundup.toml: the comparisons to run (parts), and the claims whose predictions they decide.

[[part]]
name = "small"
about = "What is compared"            # a sentence for the report
base = "a"                            # `mixes` makes the models: pure families, and the base with one role replaced
families = ["a", "b"]
mixes = ["pure", "encoder", "dynamics", "decoder"]
agent = "random"                      # agent of all models; default: the preset's
matrix.axes.env = "Branch"            # other keys as in a matrix.toml

[[claim]]
number = 1
claim = "the claim, as a sentence"
part = "small"
quantity = "bits/bound"               # a measure, or one of worldlab.study.roundup.method_values.TRIAL_QUANTITIES
predictions = [{ x = "b decoder", is = "below", y = "a" }]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from worldlab.config.resolve import PARTS
from worldlab.errors import ConfigError, did_you_mean, one_line
from worldlab.runs import storage
from worldlab.study.compare.matrix import resolve_paths

PACKAGED = Path(__file__).with_name("roundup.toml")
RELATIONS = ("above", "below", "not above", "not below", "about")
"""Relations between x and y. The last three take a margin; "not above" then means x <= y + margin."""
PURE = "pure"


@dataclass(frozen=True)
class Prediction:
    """One prediction, such as "x is above y".

    x, y: labels of methods; y may be a number. margin: the largest difference that counts as none, in units of the
    quantity, or as a factor if log. quantity, part: default to the claim's. y_quantity: the quantity of y if it differs
    from x's.
    """

    x: str
    relation: str
    y: str | float
    quantity: str
    part: str
    margin: float = 0.0
    log: bool = False
    y_quantity: str = ""

    @property
    def sentence(self) -> str:
        """The prediction as a sentence: "a is below b"."""
        allowed = f" (within {'a factor of ' if self.log else ''}{self.margin:g})" if self.margin else ""
        y = self.y if isinstance(self.y, str) else f"{self.y:g}"
        at = f" ({self.y_quantity})" if self.y_quantity else ""
        return f"{self.x} is {self.relation} {y}{at}{allowed}"


@dataclass(frozen=True)
class Claim:
    """A published claim, and the predictions that test it.

    said: the published wording. trap: a caveat for readers. amended: what was changed in the claim after a run, and
    why.
    columns: the quantities to rank methods by, if the quantity is "rank".
    """

    number: int
    claim: str
    part: str
    quantity: str
    predictions: tuple[Prediction, ...]
    said: str = ""
    trap: str = ""
    amended: str = ""
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class RoundupPart:
    """One comparison of a round-up.

    matrix: a table in the form of matrix.toml, with paths relative to the current folder.
    """

    name: str
    about: str
    matrix: Mapping[str, Any]


@dataclass(frozen=True)
class Roundup:
    """A round-up: its parts and claims. quick: overrides for every part's matrix in a quick trial run."""

    title: str
    parts: tuple[RoundupPart, ...]
    claims: tuple[Claim, ...]
    quick: Mapping[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> RoundupPart:
        """Return a part by name. Raises: ConfigError for an unknown name."""
        for part in self.parts:
            if part.name == name:
                return part
        names = [part.name for part in self.parts]
        raise ConfigError(
            one_line(f"roundup: no part named {one_line(name, 30)!r}.{did_you_mean(name, names)}"),
            fix=f"parts: {', '.join(names)}",
        )


def read_roundup(path: Path = PACKAGED) -> Roundup:
    """Read a roundup.toml. Raises: ConfigError."""
    try:
        table = storage.read_toml(path)
    except OSError as exc:
        raise ConfigError(one_line(f"roundup: cannot read {one_line(path, 60)}: {exc.strerror}")) from exc
    except ValueError as exc:
        raise ConfigError(f"roundup: {one_line(path, 60)} is not valid TOML", cause=one_line(exc, 200)) from exc
    _check_keys(table, ("title", "part", "claim", "quick"), "roundup.toml")
    parts = tuple(_part(row, path.parent) for row in table.get("part", []))
    claims = tuple(_claim(row) for row in table.get("claim", []))
    roundup = Roundup(str(table.get("title", "Round-up")), parts, claims, _matrix(table.get("quick", {}), path.parent))
    for claim in claims:
        for prediction in claim.predictions:
            roundup.part(prediction.part)
    if not parts or not claims:
        raise ConfigError(
            f"roundup: {one_line(path, 60)} has no parts or no claims",
            fix="add at least one [[part]] and one [[claim]]",
        )
    return roundup


def _part(row: Mapping[str, Any], folder: Path) -> RoundupPart:
    _check_keys(row, ("name", "about", "base", "families", "mixes", "agent", "matrix"), "[[part]]")
    matrix = _matrix(row.get("matrix", {}), folder)
    missing = [key for key in ("name", *(("base", "families") if "mixes" in row else ())) if key not in row]
    if missing:
        raise ConfigError(one_line(f"roundup: [[part]] {row.get('name', '?')} has no {missing[0]!r}"))
    if "mixes" in row:
        matrix["model"] = [*make_mixes(row["base"], row["families"], row["mixes"]), *matrix.get("model", [])]
    if "agent" in row:
        if matrix.get("model"):
            matrix["model"] = [{"agent": row["agent"], **model} for model in matrix["model"]]
        else:
            matrix["axes"] = {**matrix.get("axes", {}), "agent": row["agent"]}
    return RoundupPart(row["name"], row.get("about", ""), matrix)


def _matrix(table: Any, folder: Path) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise ConfigError(one_line(f"roundup: a matrix must be a table, got {table!r}"), fix="matrix.seeds = 5")
    return resolve_paths(folder, table)


def make_mixes(base: str, families: Sequence[str], kinds: Sequence[str]) -> list[dict[str, str]]:
    """Return [[model]] tables: pure families, and the base family with one role of another family ("b decoder")."""
    roles = [role for role in PARTS if role != "agent"]
    models = [{"name": name, **dict.fromkeys(roles, name)} for name in families if PURE in kinds or name == base]
    for role in (role for role in roles if role in kinds):
        swapped = (name for name in families if name != base)
        models += [{"name": f"{name} {role}", **dict.fromkeys(roles, base), role: name} for name in swapped]
    return models


def _claim(row: Mapping[str, Any]) -> Claim:
    _check_keys(row, [one.name for one in fields(Claim)], "[[claim]]")
    try:
        own = {key: row[key] for key in ("number", "claim", "part", "quantity")}
        predictions = tuple(_prediction(prediction, row) for prediction in row["predictions"])
    except KeyError as exc:
        raise ConfigError(one_line(f"roundup: [[claim]] {row.get('number', '?')} has no {exc}")) from exc
    where = f"roundup: claim {own['number']}"
    if not predictions:
        raise ConfigError(f"{where} predicts nothing", fix="predictions = [{ x = ..., is = ..., y = ... }]")
    if "rank" in {own["quantity"], *(one.quantity for one in predictions)} and not row.get("columns"):
        raise ConfigError(f"{where}: rank needs columns to rank by", fix='columns = ["bits/bound", "probe/linear_r2"]')
    return Claim(
        **own,
        predictions=predictions,
        said=row.get("said", ""),
        trap=row.get("trap", ""),
        amended=row.get("amended", ""),
        columns=tuple(row.get("columns", ())),
    )


def _prediction(row: Mapping[str, Any], claim: Mapping[str, Any]) -> Prediction:
    _check_keys(row, ("x", "is", "y", "quantity", "part", "margin", "log", "y_quantity"), "a prediction")
    if row["is"] not in RELATIONS:
        raise ConfigError(
            one_line(
                f"roundup: claim {claim['number']}: no relation {row['is']!r}.{did_you_mean(row['is'], RELATIONS)}"
            ),
            fix=f"relations: {', '.join(RELATIONS)}",
        )
    y = row["y"] if isinstance(row["y"], str) else float(row["y"])
    quantity, part = row.get("quantity", claim["quantity"]), row.get("part", claim["part"])
    margin, log = float(row.get("margin", 0.0)), bool(row.get("log", False))
    wrong = _margin_error(row["is"], margin, log, y)
    if wrong:
        raise ConfigError(one_line(f"roundup: claim {claim['number']}: {wrong}"))
    return Prediction(row["x"], row["is"], y, quantity, part, margin, log, row.get("y_quantity", ""))


def _margin_error(relation: str, margin: float, log: bool, y: str | float) -> str:
    """Return what is wrong with a margin or a logarithm, "" if nothing is."""
    if margin and relation in ("above", "below"):
        return f"'{relation}' has no margin; 'not above', 'not below' and 'about' do"
    if log and margin and margin <= 1:
        return f"with log a margin is a factor above 1, got {margin:g}"
    if margin < 0:
        return f"a margin is at least 0, got {margin:g}"
    if log and not isinstance(y, str) and y <= 0:
        return f"{y:g} has no logarithm"
    return ""


def _check_keys(row: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    wrong = next((key for key in row if key not in keys), None)
    if wrong is not None:
        raise ConfigError(
            one_line(f"roundup: {where} has no key {one_line(wrong, 30)!r}.{did_you_mean(wrong, keys)}"),
            fix=f"keys: {', '.join(keys)}",
        )
