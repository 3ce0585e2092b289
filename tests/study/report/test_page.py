"""The page as text: well formed, without outside references, and safe against hostile names."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report_kit import BLANK, ENVS, GROUPS, METHODS, QUANTITIES, comparison, hostile

from worldlab.study.report.clips import Clip, LeftOut
from worldlab.study.report.findings import Findings, compute_findings
from worldlab.study.report.formats import format_interval
from worldlab.study.report.page import render_page
from worldlab.study.report.verdict import conclude
from worldlab.study.results import Comparison
from worldlab.training.panel import plain_text

VOID = {"meta", "link", "img", "source", "br"}


class Page(HTMLParser):
    """Parses a page into elements with attributes and texts, and asserts that every element is closed."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.raw: dict[str, str] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.raw[self.open[-1]] = self.raw.get(self.open[-1], "") + data
        elif data.strip():
            self.texts.append(data.replace("\xa0", " "))

    @property
    def shape(self) -> Counter:
        """Counts of elements by name and attribute names, without ticks: long names leave less room for ticks."""
        kept = [(tag, attrs) for tag, attrs in self.elements if attrs.get("class") not in ("grid", "tick")]
        return Counter((tag, *sorted(attrs)) for tag, attrs in kept)


def rendered(found: Comparison, clips=None, left=()) -> Page:
    findings: Findings = compute_findings(found)
    return Page(render_page(findings, conclude(findings), clips or {env: [] for env in found.envs}, list(left)))


@pytest.fixture(scope="module")
def shown() -> Page:
    return rendered(comparison())


def test_it_makes_no_request(shown):
    """The page refers to nothing outside, and its policy would forbid it."""
    (policy,) = [a["content"] for tag, a in shown.elements if a.get("http-equiv") == "Content-Security-Policy"]
    sources = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert sources["default-src"] == "'none'" and sources["img-src"] == "data:"
    for kind, name in (("style-src", "style"), ("script-src", "script")):
        digest = hashlib.sha256(shown.raw[name].encode()).digest()
        assert sources[kind] == f"'sha256-{base64.b64encode(digest).decode()}'"
    for tag, attributes in shown.elements:
        assert tag not in ("iframe", "object", "embed", "form", "base", "audio", "video")
        for name in ("src", "href", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    assert "url(" not in shown.raw["style"] and "@import" not in shown.raw["style"]
    assert len(shown.raw["script"].splitlines()) < 50


def test_every_number_has_n_and_interval(shown):
    findings = compute_findings(comparison())
    text = " ".join(shown.texts)
    for one in [*findings.returns.values(), *(a["iqm"] for a in findings.aggregates.values())]:
        assert one.runs >= 4
    drawn = [a["aria-label"] for tag, a in shown.elements if tag == "svg" and a.get("role") == "img"]
    assert len(drawn) == 4 + 2 * len(ENVS) + 1
    for env in ENVS:
        (label,) = [label for label in drawn if label.startswith(f"Mean return on {env}:")]
        for method in METHODS:
            one = findings.returns[method.key, env]
            assert f"{method.label} {format_interval(one.estimate, one.low, one.high)}, n = {one.runs}" in label
    assert "gan n 4" in text and "Budget of every model: env steps 20,000, updates 4,000." in text


def test_the_setup_is_reported(shown):
    text = "\n".join(shown.texts)
    about = comparison().about
    for part in (
        about["command"],
        "torch 2.13.0",
        about["hardware"],
        about["data"]["sha256"],
        *(q.estimator for q in QUANTITIES),
    ):
        assert part in text
    for reference in comparison().references.values():
        assert reference.why in text
    assert "DivergedError: the loss of the critic left the finite numbers" in text
    assert conclude(compute_findings(comparison())).lead in text


def clip(method: str) -> Clip:
    return Clip(method, 0, "dream-1.png", "strip", 1, "data:image/png;base64,", "", 10, 10)


def attacked(payload: str) -> Page:
    found = hostile(payload)
    clips = {env: [clip(found.methods[0].key)] for env in found.envs}
    return rendered(found, clips, [LeftOut(payload, payload)])


@pytest.fixture(scope="module")
def harmless() -> Page:
    return attacked("harmless")


@pytest.mark.parametrize("payload", [*GROUPS, BLANK])
def test_no_text_becomes_an_element(harmless, payload):
    """Elements and attributes do not depend on the texts, and the texts are readable."""
    found = attacked(payload)
    one_line = ("text", "x", "y")  # a longer label has more lines
    assert Counter({**found.shape, one_line: 0}) == Counter({**harmless.shape, one_line: 0})
    assert found.raw == harmless.raw
    shown = " ".join(plain_text(payload).split())
    assert sum(shown in " ".join(text.split()) for text in found.texts) > 30
    assert all(letter.isprintable() or letter == "\n" for text in found.texts for letter in text)


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_few_seeds_give_a_warning(seeds):
    shown = rendered(comparison(seeds=seeds))
    text = "\n".join(shown.texts)
    assert f"Only {len(seeds)} seed{'s' if len(seeds) > 1 else ''}: fewer than 5" in text
    drawn = [tag for tag, attributes in shown.elements if attributes.get("class") == "whisker"]
    assert bool(drawn) == (len(seeds) > 1)


def test_sections_without_content_are_left_out():
    """One method without references, measures, baselines and clips: no headings and no links for them."""
    given = replace(comparison(methods=METHODS[:1]), references={}, quantities=(), about={}, budgets={})
    shown = rendered(given)
    ids = {a["id"] for _, a in shown.elements if "id" in a}
    assert ids == {"result", "environments", "run"}
    links = {a["href"] for tag, a in shown.elements if tag == "a"}
    assert links == {f"#{name}" for name in ids} - {"#run"}
    assert not re.search(r"\bnan\b|\bNone\b|Undefined", " ".join(shown.texts))
