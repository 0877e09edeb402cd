"""What a test in a browser needs: Chromium, and npm's packages, which `make node-packages` installs."""

from __future__ import annotations

import os
import pathlib
import shutil

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
INSTALLED = pathlib.Path(__file__).resolve().parents[1] / "build" / "node" / "node_modules"
MODULES = os.environ.get("JAXQ_NODE_MODULES", str(INSTALLED))
WEB_RUNTIME = CHROMIUM is not None and pathlib.Path(MODULES, "@litertjs").is_dir()
