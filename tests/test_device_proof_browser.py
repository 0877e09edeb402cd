"""The page of a proof folder in headless Chromium, with LiteRT's web runtime: `make browser`, and `make test-all`.

Needs chromium, and npm's packages in build/node (`make node-packages`); conftest.py leaves the file out without them.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import pathlib
import subprocess
import threading

import pytest
from PIL import Image

from jaxq.export.device_proof import save_proof
from jaxq.export.flatbuffer.write import write
from tests import test_kernels as kernels
from tests.web import CHROMIUM, MODULES

DRIVER = """
const puppeteer = require("puppeteer-core");
(async () => {
  const flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--force-prefers-reduced-motion"];
  const browser = await puppeteer.launch({ executablePath: process.argv[3], headless: true, args: flags,
                                           userDataDir: process.argv[5] });
  const page = await browser.newPage();
  await page.setViewport({ width: 390, height: 844, deviceScaleFactor: 2 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: process.argv[6] }]);
  await page.goto(process.argv[2]);
  await page.waitForFunction("window.result", { timeout: 120000 });
  const wide = await page.evaluate("document.documentElement.scrollWidth");
  const picture = await page.$("#file");
  if (process.argv[7]) { await picture.uploadFile(process.argv[7]);
    await page.waitForFunction("document.querySelectorAll('#classes li').length"); }
  await page.screenshot({ path: process.argv[4], fullPage: true });
  const text = await page.evaluate("document.body.innerText");
  console.log(JSON.stringify({ ...(await page.evaluate("window.result")), wide, text }));
  await browser.close();
})().catch(error => { console.error(String(error)); process.exit(1); });
"""


def browsed(
    folder: pathlib.Path, work: pathlib.Path, scheme: str = "light", picture: pathlib.Path | None = None
) -> dict:
    """What the page says in headless Chromium at 390 pixels; its picture is work/SCHEME.png."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    (work / "driver.cjs").write_text(DRIVER)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        command = [
            "node",
            str(work / "driver.cjs"),
            url,
            str(CHROMIUM),
            str(work / f"{scheme}.png"),
            str(work / scheme),
        ]
        command += [scheme, str(picture or "")]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NODE_PATH": MODULES})
        server.shutdown()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_computes_every_integer(tmp_path: pathlib.Path, scheme: str) -> None:
    program = kernels.chain()
    data, inputs = write(program), kernels.examples(program, 4)
    packed = save_proof(data, inputs, tmp_path / "proof", runtime=MODULES)
    Image.new("RGB", (60, 40), (200, 120, 30)).save(tmp_path / "orange.png")
    found = browsed(packed, tmp_path, scheme, tmp_path / "orange.png" if scheme == "light" else None)
    assert ("class" in found["text"].split("Use the camera")[1]) == (scheme == "light")
    assert found["differing"] == 0 and found["total"] > 0, found
    assert found["wide"] == 390
    assert f"0 of {found['total']:,} integers differ on this device" in found["text"]
    assert "yes, integer for integer" in found["text"]


@pytest.mark.slow
def test_without_a_runtime_the_page_claims_nothing(tmp_path: pathlib.Path) -> None:
    program = kernels.chain()
    found = browsed(save_proof(write(program), kernels.examples(program, 1), tmp_path / "proof"), tmp_path)
    assert "Nothing was proven: LiteRT's web runtime is not in the folder runtime/. See README.md." in found["text"]
    assert "not measured" in found["text"] and "not run" in found["text"] and "integer for integer" not in found["text"]


BY_MACHINE = {
    "MUL": kernels.binary("MUL", (0.5, 3), (0.25, -2), (0.25, 1), shapes=((1, 9, 30), (1, 9, 30))),
    "SOFTMAX": kernels.unary("SOFTMAX", (0.09, 5), (1 / 256, -128), shape=(1, 20, 19), beta=0.7),
    "CONV_2D of int4": kernels.packed(kernels.conv((6, 6, 8), 8, (3, 3), y=(0.05, 3))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_MACHINE)
def test_a_browser_computes_what_differs_by_machine(tmp_path: pathlib.Path, name: str) -> None:
    inputs = kernels.examples(BY_MACHINE[name], 40)
    packed = save_proof(write(BY_MACHINE[name]), inputs, tmp_path / "proof", runtime=MODULES)
    expected = json.loads((packed / "proof.json").read_text())["expected"]
    assert expected["wasm32"] != expected["x86_64" if "int4" in name else "aarch64"]
    found = browsed(packed, tmp_path)
    assert found["differing"] == 0 and found["total"] > 1000, found
