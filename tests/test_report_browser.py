"""The report in a browser: headless Chromium draws every chart, light and dark, wide and narrow, without a network."""

from __future__ import annotations

import pathlib
import re
import subprocess

import numpy as np
import pytest

from jaxq import report
from tests.web import CHROMIUM

FILE = pathlib.Path(__file__).parent / "golden" / "mobilenet_v2.tflite"
OFFLINE = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    place = tmp_path_factory.mktemp("report") / "net.html"
    image = np.random.default_rng(0).integers(0, 255, (1, 48, 48, 3), np.uint8).view(np.int8)
    data = FILE.read_bytes()
    shape = report.content("net.tflite", data).nodes[0].tensor
    side = int(re.findall(r"\[1,(\d+),", shape)[0])
    inputs = [np.resize(image, (1, side, side, 3))]
    return report.write(place, report.content("net.tflite", data, inputs=inputs))


def drawn(page: pathlib.Path, width: int, profile: pathlib.Path, *options: str) -> str:
    """The page as it stands after its scripts ran."""
    window = [f"--window-size={width},2000", "--virtual-time-budget=8000", f"--user-data-dir={profile}"]
    command = [str(CHROMIUM), *OFFLINE, *window, *options, "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_the_charts_are_drawn(page: pathlib.Path, width: int, tmp_path: pathlib.Path) -> None:
    found = drawn(page, width, tmp_path)
    chosen = re.search(r'<g class="node chosen"[^>]*data-index="(\d+)"', found)
    assert chosen is not None
    detail = found[found.index('id="detail"') : found.index("<h2>Where the bytes are")]
    assert detail.count("<svg") == 2 and "mark-rect" in detail and "mark-rule" in detail
    assert "vega-error" not in found
    assert re.search(r"<dt>steps used</dt><dd>\d+ of 256</dd>", detail)


@pytest.mark.slow
def test_the_page_follows_the_dark_setting(page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def ink(text: str) -> set[str]:
        return set(re.findall(r'fill="(#[0-9a-f]{6})"', text[text.index('id="detail"') :]))

    light, dark = (drawn(page, 1280, tmp_path, f"--blink-settings=preferredColorScheme={n}") for n in (1, 0))
    assert "#5b6875" in ink(light) and "#9aa7b3" not in ink(light)
    assert "#9aa7b3" in ink(dark) and "#5b6875" not in ink(dark)


@pytest.mark.slow
def test_a_training_of_one_step_has_a_point(tmp_path: pathlib.Path) -> None:
    """A line of one number is nothing: the curve's points are drawn too."""
    (tmp_path / "log.jsonl").write_text('{"step": 0, "name": "float/loss", "value": 2.4}\n')
    found = report.content("net.tflite", FILE.read_bytes(), run=report.read_run(tmp_path))
    page = drawn(report.write(tmp_path / "net.html", found), 390, tmp_path)
    curves = page[page.index("<h2>Training") : page.index("<h2>Where the bytes are")]
    assert re.search(r'<path[^>]*aria-roledescription="point"', curves)
    assert "<h2>To repeat it" not in page  # there is nothing to repeat
