"""The report: its numbers against numpy, its verdict against altered manifests, its page against a parser."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import pathlib
import re
import sys
import tomllib
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import jaxq
from jaxq import report
from jaxq.analyze import Score, Sensitivity
from jaxq.cli.app import app
from jaxq.errors import ExportError, InputError
from jaxq.export.artifact import Artifact
from jaxq.export.program import Quantization, Tensor
from jaxq.export.runtimes import litert
from jaxq.plan.recipe import Activations, read_recipe
from jaxq.plan.toml_text import recipe_text
from jaxq.report import page, tensors, verdict
from jaxq.report.document import Content, Histogram
from jaxq.report.exported import report_content
from jaxq.report.layout import layout
from jaxq.report.run import ladder
from jaxq.report.views import views

IMAGES = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
PARAMS = {"w": np.linspace(-1, 2, 24, dtype=np.float32).reshape(6, 4)}


def network(params: dict[str, np.ndarray], x: jax.Array) -> jax.Array:
    y = jax.nn.relu(x @ params["w"])
    return y + jax.nn.sigmoid(y)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    q = jaxq.quantize(network, "int8", PARAMS, IMAGES[:1])
    ranges = jaxq.calibrate(q, [IMAGES], PARAMS, q.init(PARAMS, IMAGES))
    return jaxq.export.to_tflite(q, PARAMS, ranges, verify=IMAGES, progress=False)


@pytest.fixture(scope="module")
def content(artifact: Artifact) -> Content:
    return report_content(artifact, pathlib.Path("net.html"), IMAGES, progress=False)


@pytest.fixture(scope="module")
def text(content: Content) -> str:
    return page.page(content)


class Elements(html.parser.HTMLParser):
    """Tags with their attributes; raises nothing, so that tests count."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_histograms_count_what_litert_computes(artifact: Artifact, content: Content) -> None:
    values = litert.run(artifact.data, [np.asarray(content_inputs(artifact))], "xnnpack", every_tensor=True)
    assert isinstance(values, dict)
    by_name = {artifact.program.tensors[i].name: (artifact.program.tensors[i], v) for i, v in values.items()}
    for node in content.nodes:
        tensor, integers = by_name[node.name]
        h, q = node.histogram, tensor.quantization
        assert h is not None and q is not None
        real = q.scale[0].astype(np.float64) * (integers.astype(np.int64) - q.zero_point[0])
        edges = h.start + h.width * np.arange(len(h.counts) + 1)
        assert np.array_equal(np.histogram(real, edges)[0], h.counts)
        assert sum(h.counts) == integers.size
        assert h.seen == (real.min(), real.max())
        assert (h.lowest, h.highest) == (np.mean(integers == -128), np.mean(integers == 127))


def content_inputs(artifact: Artifact) -> np.ndarray:
    entry = artifact.manifest["inputs"][0]
    return np.clip(np.rint(IMAGES / np.float32(entry["scale"])) + entry["zero_point"], -128, 127).astype(np.int8)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_bins_of_integers_are_equally_many_steps(dtype: str) -> None:
    limits = np.iinfo(dtype)
    every = np.arange(limits.min, limits.max + 1, dtype=dtype)
    h = tensors.histogram(Tensor("x", every.shape, dtype, Quantization.of(0.5, 3)), every)
    assert h is not None and set(h.counts) == {len(every) // tensors.BINS}
    assert h.width == 0.5 * len(every) // tensors.BINS and h.seen == (0.5 * (limits.min - 3), 0.5 * (limits.max - 3))


def test_floats_constants_and_nothing_have_histograms_of_their_own() -> None:
    plain = Tensor("x", (3,), "float32")
    assert tensors.histogram(plain, np.full(3, 2.0, np.float32)) == Histogram(
        2.0, 1 / 64, (3, *[0] * 63), None, None, (2.0, 2.0)
    )
    assert tensors.histogram(plain, np.array([1.0, np.nan], np.float32)) is None
    assert tensors.histogram(plain, np.zeros((0, 3), np.float32)) is None


def test_channels_are_the_extents_of_the_float_weights(content: Content) -> None:
    (dense,) = (n for n in content.nodes if n.channels is not None)
    assert dense.channels is not None
    half = np.abs(PARAMS["w"]).max(0) / 127 / 2 + 1e-6
    assert np.all(np.abs(np.array(dense.channels.low) - PARAMS["w"].min(0)) <= half)
    assert np.all(np.abs(np.array(dense.channels.high) - PARAMS["w"].max(0)) <= half)
    assert np.allclose(dense.channels.limit, np.abs(PARAMS["w"]).max(0), rtol=1e-6)


def test_bytes_and_errors_are_those_of_the_file_and_of_diff(artifact: Artifact, content: Content) -> None:
    constants = sum(t.data.nbytes for t in artifact.program.tensors if t.data is not None)
    assert sum(n.weight_bytes for n in content.nodes) == sum(content.bytes_by_kind.values()) == constants
    assert artifact.proof is not None
    found = jaxq.analyze.diff(*_target(artifact), progress=False)
    assert {n.name: n.difference for n in content.nodes} == {d.site: d for d in found.tensors}


def _target(artifact: Artifact) -> tuple[Any, ...]:
    assert artifact.proof is not None
    q = jaxq.quantize(network, "int8", PARAMS, IMAGES[:1])
    return q, IMAGES, PARAMS, artifact.proof.bound.ranges


# --- the graph --------------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw: st.DrawFn) -> list[list[int]]:
    size = draw(st.integers(1, 14))
    return [sorted(draw(st.sets(st.integers(0, i - 1), max_size=3))) if i else [] for i in range(size)]


@settings(deadline=None, max_examples=60)
@given(graphs())
def test_edges_go_down_and_nodes_stand_apart(reads: list[list[int]]) -> None:
    found = layout(reads)
    assert set(found.paths) == {(a, b) for b, sources in enumerate(reads) for a in sources}
    for (a, b), path in found.paths.items():
        assert path[0] == found.places[a] and path[-1] == found.places[b]
        assert [layer for _, layer in path] == list(range(path[0][1], path[-1][1] + 1)) and len(path) > 1
    by_layer: dict[int, list[float]] = {}
    for column, layer in found.places:
        by_layer.setdefault(layer, []).append(column)
    for columns in by_layer.values():
        assert np.all(np.diff(sorted(columns)) >= 1 - 1e-9)
    assert min(c for c, _ in found.places) >= 0 and max(c for c, _ in found.places) <= found.columns - 1 + 1e-9
    assert {layer for _, layer in found.places} == set(range(found.layers))


def test_views_class_nodes_by_their_numbers(content: Content) -> None:
    found = {view.key: view for view in views(content)}
    assert [*found][:3] == ["sqnr", "own", "bytes"] and {f"target-{name}" for name in content.targets} <= found.keys()
    for node, c, words in zip(content.nodes, found["sqnr"].classes, found["sqnr"].texts, strict=True):
        assert node.difference is not None
        assert c == np.searchsorted([10, 15, 20, 30], node.difference.total.sqnr, "right")
        assert words in ("exact", f"{node.difference.total.sqnr:.1f} dB")
    total = sum(n.weight_bytes for n in content.nodes)
    for node, c in zip(content.nodes, found["bytes"].classes, strict=True):
        share = node.weight_bytes / total
        assert c == (None if not share else 0 if share >= 0.3 else 1 if share >= 0.1 else 2 if share >= 0.03 else 3)
    edge = content.targets["edgetpu"].placements
    assert found["target-edgetpu"].classes == (None, *(4 if p.mapped else 0 for p in edge))


# --- the verdict ------------------------------------------------------------------------------------------------------


def changed(content: Content, **entries: Any) -> Content:
    return dataclasses.replace(content, manifest={**(content.manifest or {}), **entries})


def test_the_verdict_says_what_the_certificate_says(content: Content) -> None:
    good = verdict.verdict(content)
    assert (good.tone, good.headline) == ("good", "Every integer of the file is the one that was trained")
    assert "of 7 examples compared with ai-edge-litert" in good.details[0]
    proof = (content.manifest or {})["certificate"]
    worse = {
        **proof,
        "ok": False,
        "differing_integers": {"xnnpack": 3, "reference": 1},
        "first_divergent": {"xnnpack": "add"},
    }
    bad = verdict.verdict(changed(content, certificate=worse))
    assert bad.tone == "bad" and bad.headline == "4 integers of the file differ from those that were trained"
    assert bad.details[0] == "The first tensor that differs is add."
    assert verdict.verdict(changed(content, certificate=None)).headline == "The integers of this file are not verified"
    assert verdict.verdict(dataclasses.replace(content, manifest=None)).tone == "unknown"


def test_machines_that_round_otherwise_are_named(content: Content) -> None:
    machines = {
        "x86_64": {"ran": True, "derived_operators": 0, "modelled_operators": {}},
        "wasm32": {"ran": False, "derived_operators": 3, "modelled_operators": {}},
        "aarch64": {"ran": False, "derived_operators": 2, "modelled_operators": {"MUL": 1}},
    }
    proof = {**(content.manifest or {})["certificate"], "machines": machines}
    assert verdict.verdict(changed(content, certificate=proof)).details[1:] == (
        "LiteRT ran it on x86_64. wasm32 compute the same: every operator has the same kernel there.",
        "On aarch64 other kernels run, which jaxq models: MUL 1.",
    )


def test_remarks_name_the_fact_and_the_remedy(content: Content) -> None:
    finding = {
        "kind": "channels", "site": "add", "range": "add", "step": 0.5, "bits": 8, "kept": [["1", 3.0]], "of": 4,
        "place": "output", "wide": False, "offset": False, "remedy": "not read",
    }  # fmt: skip
    outputs = {"add": {"sqnr": 9.0, "distinct_float": 7, "distinct": 7}}
    found = verdict.remarks(changed(content, precision={"findings": [finding], "outputs": outputs}))
    assert found[0].tone == "bad" and found[0].text.endswith("SQNR 9.0 dB.")
    (channels,) = (r for r in found if "1 of 4 channels keep fewer" in r.text)
    assert channels.remedy.startswith("Scale the channels alike inside the model")


@pytest.mark.parametrize(
    ("part", "says"), [("rounding", "activation_bits=16"), ("clipping", "clips 25.00 %"), ("weights", "one scale")]
)
def test_the_remedy_fits_what_the_error_is_made_of(content: Content, part: str, says: str) -> None:
    node = content.nodes[-1]
    assert node.difference is not None
    none, much = (dataclasses.replace(node.difference.own, sqnr=5.0, mean_abs=m) for m in (0.0, 9.0))
    parts = {name: much if name == part else none for name in ("rounding", "clipping", "weights")}
    worse = dataclasses.replace(node.difference, own=much, clipped=0.25, **parts)
    nodes = (*content.nodes[:-1], dataclasses.replace(node, difference=worse))
    (remark,) = (r for r in verdict.remarks(dataclasses.replace(content, nodes=nodes)) if "adds much error" in r.text)
    assert says in remark.remedy and node.name in remark.text


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(text: str, content: Content) -> None:
    found = Elements(text)
    assert not [a for _, a in found.found if a.keys() & {"src", "href", "srcset"}] and "@import" not in text
    assert len([a for a in found.named("g") if a.get("class") == "node"]) == len(content.nodes)
    assert len([a for a in found.named("path") if a.get("class") == "edge"]) == sum(len(n.reads) for n in content.nodes)
    assert "Every integer of the file is the one that was trained" in text
    assert {a["name"] for a in found.named("meta") if "name" in a} >= {"viewport"}


def test_the_data_of_the_page_is_that_of_the_content(text: str, content: Content) -> None:
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert [n["name"] for n in data["nodes"]] == [n.name for n in content.nodes]
    for shown, node in zip(data["nodes"], content.nodes, strict=True):
        assert node.histogram is not None
        bars = [row["share"] for row in shown["tables"]["histogram"] if "share" in row]
        assert np.allclose(bars, np.array(node.histogram.counts) / sum(node.histogram.counts), rtol=1e-4)
    assert [r["steps"] for r in data["tables"]["errors"] if r["part"] == "own"] == pytest.approx(
        [n.difference.own.mean_abs for n in content.nodes if n.difference], rel=1e-4
    )


def test_names_of_other_people_are_shown_and_not_obeyed(content: Content) -> None:
    nasty = "</script><script>alert(1)</script><img src=x>"
    nodes = (dataclasses.replace(content.nodes[0], name=nasty), *content.nodes[1:])
    found = Elements(page.page(dataclasses.replace(content, name=nasty, nodes=nodes)))
    assert not found.named("img") and len(found.named("script")) == 3


def test_the_library_cannot_end_its_script(text: str) -> None:
    assert "</script" not in page.charts.library().lower() and text.lower().count("</script") == 3


# --- run folders, recipes, node data ----------------------------------------------------------------------------------


def test_a_run_gives_its_ladder_and_curves(tmp_path: pathlib.Path, content: Content) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"float_accuracy": 0.9, "qat_accuracy": 0.8, "seed": 3}))
    lines = [{"step": s, "name": "float/loss", "value": v} for s, v in [(0, 2.0), (10, 1.5), (10, 1.0)]]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = report.read_run(tmp_path)
    assert [(a.stage, a.value) for a in run.ladder] == [("float", 0.9), ("int8 QAT", 0.8)]
    assert [(p.phase, p.curve, p.step, p.value) for p in run.points] == [
        ("float", "loss", 0, 2.0),
        ("float", "loss", 10, 1.0),
    ]
    assert run.facts == {"seed": "3"}
    shown = page.page(dataclasses.replace(content, run=run))
    assert 'data-table="curves:loss"' in shown and 'data-table="ladder"' in shown
    assert report.three_lines(dataclasses.replace(content, run=run))[1].startswith("float 90.00 %, int8 QAT 80.00 %; ")


def test_a_run_gives_its_sensitivity(tmp_path: pathlib.Path, content: Content) -> None:
    scores = (
        Score("small", "FULLY_CONNECTED", "w4", 1.5, 0.5),
        Score("large", "FULLY_CONNECTED", "w4", 3.0, 2.0),
        Score("large", "FULLY_CONNECTED", "a16", 0.75, -0.25),
    )
    (tmp_path / "sensitivity.json").write_text(Sensitivity(1024, "cross entropy", 1.0, scores).to_json())
    shown = dataclasses.replace(content, run=report.read_run(tmp_path))
    assert shown.run.measure == "cross entropy, 1,024 examples"
    rows = page.charts.page_tables(shown)["sensitivity"]  # the most sensitive op first, its choices together
    assert [(r["site"], r["choice"], r["change"]) for r in rows] == [
        ("large", "w4", 2.0),
        ("large", "a16", -0.25),
        ("small", "w4", 0.5),
    ]
    assert 'data-table="sensitivity"' in page.page(shown) and "cross entropy, 1,024 examples" in page.page(shown)
    assert 'data-table="sensitivity"' not in page.page(content)
    (tmp_path / "sensitivity.json").write_text('{"scores": [{"site": "a"}]}')
    with pytest.raises(InputError, match=r"sensitivity.json is not what jaxq sensitivity --json prints: KeyError"):
        report.read_run(tmp_path)


def test_of_a_run_with_a_measure_every_share_is_a_stage() -> None:
    found = {"measure": "accuracy", "seed": 0, "float": 0.86, "int8 qat": 0.85, "int8 bytes": 7}
    assert [a.stage for a in ladder(found)] == ["float", "int8 qat"]
    assert ladder({**found, "measure": "correlation"}) == ()


def test_a_folder_that_is_no_run_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"has no summary.json, no log.jsonl and no sensitivity.json"):
        report.read_run(tmp_path)
    (tmp_path / "log.jsonl").write_text("{")
    with pytest.raises(InputError, match=r"log.jsonl holds a line that is no JSON"):
        report.read_run(tmp_path)


@pytest.mark.parametrize(
    "recipe",
    [
        jaxq.Recipe(name="int8"),
        jaxq.Recipe(
            name="a \"b\"", rules=(jaxq.Rule("head/*", activation_bits=16), jaxq.Rule("x", weight_bits=4)),
            ties=(("a", "b"),), activations=Activations(observe=True), target="edgetpu",
        ),
    ],
)  # fmt: skip
def test_a_recipe_is_read_from_its_text(recipe: jaxq.Recipe) -> None:
    assert read_recipe(tomllib.loads(recipe_text(recipe))) == read_recipe(recipe)


def test_node_data_is_keyed_by_output_tensors(content: Content) -> None:
    (graph,) = json.loads(report.node_data(content)).values()
    assert graph["results"].keys() == {n.name for n in content.nodes}
    last = content.nodes[-1].difference
    assert last is not None and graph["results"][content.nodes[-1].name]["value"] == last.total.sqnr
    bare = dataclasses.replace(content, nodes=tuple(dataclasses.replace(n, difference=None) for n in content.nodes))
    (graph,) = json.loads(report.node_data(bare)).values()
    assert graph["results"] == {n.name: {"value": n.weight_bytes} for n in content.nodes if n.weight_bytes}


# --- how it is called -------------------------------------------------------------------------------------------------


def test_the_artifact_writes_its_page(artifact: Artifact, tmp_path: pathlib.Path) -> None:
    place = artifact.report(tmp_path / "a.html", progress=False)
    assert "<h1>a.tflite</h1>" in place.read_text()
    with pytest.raises(ExportError, match=r"a.html exists"):
        artifact.report(place)
    with pytest.raises(ExportError, match=r"does not end in .html"):
        artifact.report(tmp_path / "a.txt")


def test_the_command_writes_page_and_node_data(artifact: Artifact, tmp_path: pathlib.Path) -> None:
    file = artifact.save(tmp_path / "net.tflite")
    np.save(tmp_path / "x.npy", IMAGES)
    (tmp_path / "net.py").write_text(
        "import numpy as np\nfrom tests.test_report import network, PARAMS\n"
        "def net(): return network, np.zeros((1, 6), np.float32), PARAMS\n"
    )
    options = ["--data", str(tmp_path / "x.npy"), "--model-explorer", str(tmp_path / "n.json"), "--json"]
    done = CliRunner().invoke(app, ["report", str(file), *options])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["report"] == str(tmp_path / "net.html") and found["lines"][0].startswith(
        "Every integer of the file is"
    )
    assert json.loads((tmp_path / "n.json").read_text()).keys() == {"main"}
    again = CliRunner().invoke(app, ["report", str(file)])
    assert again.exit_code == 1 and "--force to replace it" in again.stderr


def test_a_manifest_of_another_file_counts_for_nothing(artifact: Artifact, tmp_path: pathlib.Path) -> None:
    file = artifact.save(tmp_path / "net.tflite")
    place = file.with_suffix(".json")
    place.write_text(place.read_text().replace('"sha256": "', '"sha256": "0'))
    done = CliRunner().invoke(app, ["report", str(file), "--json"])
    assert "is not the manifest of" in done.stderr
    assert json.loads(done.stdout)["lines"][0].startswith("There is no manifest")


@pytest.mark.parametrize(("module", "package"), [("altair", "altair"), ("vl_convert", "vl-convert-python")])
def test_a_missing_package_is_named_with_the_line_that_installs_it(
    module: str, package: str, artifact: Artifact, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ExportError, match=rf"needs the package {package}.*pip install 'jaxq\[report\]'"):
        artifact.report(tmp_path / "a.html")
