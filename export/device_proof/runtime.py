"""LiteRT's web runtime, from the user's own installation of it: npm install @litertjs/core @litertjs/wasm-utils."""

from __future__ import annotations

import pathlib
import shutil

from jaxq.errors import ExportError

# Without SIMD in WebAssembly a browser takes the second.
WASM = ("litert_wasm_internal", "litert_wasm_compat_internal")
FILES = {
    "core/dist/index.js": "core/index.js",
    "wasm-utils/dist/index.js": "wasm-utils/index.js",
    **{f"core/wasm/{name}.{end}": f"wasm/{name}.{end}" for name in WASM for end in ("js", "wasm")},
}


def pack(modules: pathlib.Path, target: pathlib.Path) -> None:
    """Copy the runtime's files from a node_modules folder. Raises ExportError for one that lacks them."""
    for name, place in FILES.items():
        source = modules / "@litertjs" / name
        if not source.is_file():
            raise ExportError(
                f"{source} does not exist. Run `npm install @litertjs/core @litertjs/wasm-utils` and give the "
                "node_modules folder."
            )
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / place)
