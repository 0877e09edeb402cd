"""Writes docs/diagrams/: the Mermaid diagrams of the pages as pictures. The site needs no script and no network.

    make node-packages && python docs/make_diagrams.py

A picture has the name of its text's hash: a diagram that changes has no picture until this is run, and `make docs`
says so. Mermaid draws in headless Chromium. Letters are measured in the fonts of the machine at hand.
"""

from __future__ import annotations

import hashlib
import html
import pathlib
import re
import subprocess
import tempfile

DOCS = pathlib.Path(__file__).resolve().parent
PICTURES = DOCS / "diagrams"
MERMAID = DOCS.parent / "build" / "node" / "node_modules" / "mermaid" / "dist" / "mermaid.min.js"
PAGE = """<!doctype html><meta charset="utf-8"><body><script src="{script}"></script>
<pre class="mermaid">{text}</pre>
<script>mermaid.initialize({{startOnLoad: true, theme: "neutral", htmlLabels: false,
  flowchart: {{htmlLabels: false, useMaxWidth: true}}, fontFamily: "Helvetica, Arial, sans-serif",
  deterministicIds: true, deterministicIDSeed: "{name}"}})</script></body>"""


def name_of(diagram: str) -> str:
    """The name of a diagram's picture."""
    return hashlib.sha256(diagram.strip().encode()).hexdigest()[:12] + ".svg"


def diagrams() -> list[str]:
    """The Mermaid blocks of all pages."""
    pages = sorted(DOCS.rglob("*.md"))
    return [text for page in pages for text in re.findall(r"```mermaid\n(.*?)```", page.read_text("utf-8"), re.DOTALL)]


def drawn(diagram: str) -> str:
    """The SVG of a diagram, as Mermaid draws it."""
    page = PAGE.format(script=MERMAID.as_uri(), text=html.escape(diagram), name=name_of(diagram)[:12])
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "page.html")
        file.write_text(page, "utf-8")
        command = [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--virtual-time-budget=20000",
            "--dump-dom",
        ]
        done = subprocess.run([*command, file.as_uri()], capture_output=True, text=True, check=True)
    found = re.search(r"<svg .*?</svg>", done.stdout, re.DOTALL)
    if found is None or "Syntax error" in found[0]:
        raise SystemExit(f"Mermaid drew nothing of:\n{diagram}")
    return found[0].replace("<br>", "<br/>") + "\n"


def main() -> None:
    """Write the pictures that are missing, and remove those of no diagram."""
    PICTURES.mkdir(exist_ok=True)
    wanted = {name_of(diagram): diagram for diagram in diagrams()}
    for old in PICTURES.glob("*.svg"):
        if old.name not in wanted:
            old.unlink()
    for name, diagram in wanted.items():
        if not (PICTURES / name).exists():
            (PICTURES / name).write_text(drawn(diagram), "utf-8")


if __name__ == "__main__":
    main()
