"""How the graph is coloured: by error, by bytes, by multiplications, by where a target places each operator.

A view puts every node into one of five classes, 0 (needs a look) to 4 (fine), or into none where it has no number.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from jaxq.analyze.difference import sqnr_text
from jaxq.export.targets import TARGETS
from jaxq.report.document import Content, Node

SQNR = (10.0, 15.0, 20.0, 30.0)  # decibels between the classes; below 15 networks begin to lose accuracy
SHARES = (0.3, 0.1, 0.03, 0.01)  # of all bytes or multiplications


@dataclasses.dataclass(frozen=True)
class View:
    """One way to colour. key: for the page. legend: the words of classes 0 to 4 that occur. classes, texts: by node."""

    key: str
    title: str
    legend: tuple[tuple[int, str], ...]
    classes: tuple[int | None, ...]
    texts: tuple[str, ...]


def views(content: Content) -> list[View]:
    """The views that a report has numbers for, the most telling first."""
    nodes = content.nodes
    found = []
    if any(n.difference for n in nodes):
        found += [
            _view(
                "sqnr", "error against the float model (SQNR)", nodes, _sqnr(False), _text_of_sqnr(False), _decibels()
            ),
            _view(
                "own", "error that each operator adds (own SQNR)", nodes, _sqnr(True), _text_of_sqnr(True), _decibels()
            ),
        ]
    total = sum(n.weight_bytes for n in nodes)
    found.append(_view("bytes", "bytes of weights", nodes, _share(lambda n: n.weight_bytes, total), _bytes, _shares()))
    macs = sum(n.macs for n in nodes)
    if macs:
        found.append(_view("macs", "multiplications", nodes, _share(lambda n: n.macs, macs), _macs, _shares()))
    return [*found, *(_placed(name, nodes) for name in content.targets)]


def _view(
    key: str,
    title: str,
    nodes: Sequence[Node],
    classed: Callable[[Node], int | None],
    text: Callable[[Node], str],
    legend: Sequence[str],
) -> View:
    classes = tuple(map(classed, nodes))
    used = tuple((i, words) for i, words in enumerate(legend) if i in classes)
    return View(key, title, used, classes, tuple(map(text, nodes)))


def _sqnr(own: bool) -> Callable[[Node], int | None]:
    def classed(node: Node) -> int | None:
        if node.difference is None:
            return None
        value = (node.difference.own if own else node.difference.total).sqnr
        return None if math.isnan(value) else sum(value >= bound for bound in SQNR)

    return classed


def _text_of_sqnr(own: bool) -> Callable[[Node], str]:
    def text(node: Node) -> str:
        if node.difference is None:
            return ""
        number = sqnr_text((node.difference.own if own else node.difference.total).sqnr)
        return number if number == "exact" else f"{number} dB"

    return text


def _decibels() -> list[str]:
    between = [f"{a:g} to {b:g} dB" for a, b in zip(SQNR, SQNR[1:], strict=False)]
    return [f"below {SQNR[0]:g} dB", *between, f"{SQNR[-1]:g} dB and more"]


def _share(of: Callable[[Node], int], total: int) -> Callable[[Node], int | None]:
    def classed(node: Node) -> int | None:
        return sum(of(node) < share * total for share in SHARES) if of(node) else None

    return classed


def _shares() -> list[str]:
    between = [f"{100 * b:g} to {100 * a:g} %" for a, b in zip(SHARES, SHARES[1:], strict=False)]
    return [f"{100 * SHARES[0]:g} % and more", *between, f"below {100 * SHARES[-1]:g} %"]


def _bytes(node: Node) -> str:
    return f"{node.weight_bytes:,} B" if node.weight_bytes else ""


def _macs(node: Node) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if node.macs >= size:
            return f"{node.macs / size:.3g}{unit} MAC"
    return f"{node.macs} MAC" if node.macs else ""


def _placed(target: str, nodes: Sequence[Node]) -> View:
    """What a target takes; the rest is no fault where it runs that by other means, as a CPU does."""
    device = TARGETS[target]
    rest = 1 if device.runs_rest else 0

    def classed(node: Node) -> int | None:
        return None if target not in node.placed else 4 if node.placed[target][0] else rest

    def text(node: Node) -> str:
        return "" if target not in node.placed or node.placed[target][0] else legend[rest]

    legend = ("not taken", "other kernel", "", "", "taken")
    return _view(f"target-{target}", f"taken by {device.title}", nodes, classed, text, legend)
