"""`python -m jaxq`: the command line."""

from __future__ import annotations

from jaxq.cli import main

if __name__ == "__main__":
    main()
