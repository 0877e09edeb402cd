"""The command `jaxq`. One file a command; `app.py` holds them together.

Exit codes: 0 done; 1 a gate failed, or jaxq refused and says why; 2 the command line or the recipe is wrong;
130 interrupted. With `--json` standard output holds exactly one JSON document, also when a command fails:
{"error": {"kind": ..., "message": ...}}.
"""

from __future__ import annotations

import sys

from jaxq.cli.interrupts import heard

NEEDED = {"typer": "typer", "ai_edge_litert": "ai-edge-litert", "flatbuffers": "flatbuffers"}


def needs(package: str) -> str:
    """What is said where a package of `jaxq[export]` is missing."""
    return f"The command line needs the package {package}. Run: pip install 'jaxq[export]'"


def main() -> None:
    """Run the command line that the process was given, and exit with its code."""
    with heard():
        try:
            from jaxq.cli.app import app
        except ModuleNotFoundError as e:
            if e.name not in NEEDED:
                raise
            sys.exit(f"error: {needs(NEEDED[e.name])}")
        app(prog_name="jaxq")
