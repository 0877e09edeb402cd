"""Own data: folders of images and files of texts, what is read, what is refused, and a smoke run of each recipe."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from jaxq.cli.app import app
from jaxq.errors import InputError
from jaxq.export.evaluate.load import load_program
from jaxq.export.flatbuffer.metadata import read_metadata
from jaxq.recipes import image_classifier, labelled_texts, text_classifier
from jaxq.recipes.movie_tasks import Data

ROWS = [("A good film, truly", "praise"), ("dull", "blame"), ('she said "fine"', "praise")]
FILES = {
    "header.csv": 'label,text\npraise,"A good film, truly"\nblame,dull\npraise,"she said ""fine"""\n',
    "bare.csv": '"A good film, truly",praise\ndull,blame\n"she said ""fine""",praise\n',
    "a.tsv": 'text\tlabel\nA good film, truly\tpraise\ndull\tblame\n"she said ""fine"""\tpraise\n',
    "a.jsonl": "".join(json.dumps({"text": t, "label": c}) + "\n" for t, c in ROWS),
    "bom.csv": '\ufefftext,label\n"A good film, truly",praise\ndull,blame\n"she said ""fine""",praise\n',
}


@pytest.mark.parametrize("name", FILES)
def test_texts_and_labels_are_read(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / name).write_text(FILES[name])
    found = labelled_texts.read(tmp_path / name)
    assert found.classes == ("blame", "praise") and found.texts == [text for text, _ in ROWS]
    assert found.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", "does not end in .csv, .tsv or .jsonl"),
        ("a.csv", "text,label\nonly\n", "line 2 has no label: 'only'"),
        ("a.csv", "text,label\n,blame\n", "line 2 has no text: 'blame'"),
        ("a.csv", "x,a\ny,a\n", "has 2 texts of 1 classes; there must be two or more"),
        ("a.csv", "", "has 0 texts of 0 classes"),
        ("a.jsonl", "{", "line 1: Expecting property name"),
        ("a.jsonl", "[1]\n", "line 1 has no text"),
    ],
)
def test_what_is_no_file_of_texts_is_refused(name: str, text: str, message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        labelled_texts.read(tmp_path / name)


def test_a_fifth_is_tested_with_and_every_class_is_on_both_sides() -> None:
    texts = labelled_texts.made_up(0, 400)
    train, test = labelled_texts.split(texts)
    assert len(train.texts) + len(test.texts) == 400 and 50 < len(test.texts) < 110
    assert not set(train.texts) & set(test.texts)
    few = labelled_texts.Texts(["one", "two"], np.array([0, 1], np.int32), ("a", "b"))
    with pytest.raises(InputError, match=r"The class '[ab]' has no text to t(rain|est) with"):
        labelled_texts.split(few)


def test_the_loss_and_the_score_are_of_the_class() -> None:
    task = text_classifier.task(("a", "b", "c"))
    logits, labels = np.array([[0.0, 3.0, 1.0], [2.0, 0.0, 0.0]], np.float32), np.array([1.0, 2.0], np.float32)
    assert task.loss is not None
    wanted = [np.log(np.exp(row).sum()) - row[int(label)] for row, label in zip(logits, labels, strict=True)]
    np.testing.assert_allclose(task.loss(logits, labels), wanted, rtol=1e-5)  # pyright: ignore[reportArgumentType]
    assert task.score(logits, Data(labels, labels, labels, labels)) == 0.5


def test_another_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"no network 'mobilenet_v7' for images. Did you mean 'mobilenet_v2'"):
        image_classifier.config("mobilenet_v7")
    chosen = image_classifier.config("efficientnet_lite0", epochs=4.0)
    assert (chosen.first.epochs, chosen.extra.epochs, chosen.mean) == (4.0, 2.0, (127.0, 127.0, 127.0))


def test_a_recipe_says_what_it_needs(tmp_path: pathlib.Path) -> None:
    done = CliRunner().invoke(app, ["train", "recipes/text_classifier", "--out", str(tmp_path / "run")])
    assert done.exit_code == 1 and "Give it with --data FILE.csv" in done.stderr
    done = CliRunner().invoke(app, ["train", "recipes/mnist", "--network", "x", "--out", str(tmp_path / "run")])
    assert done.exit_code == 2 and "--network: the recipe recipes/mnist has one network" in done.stderr


@pytest.mark.slow
def test_a_text_classifier_of_three_classes(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    rows = [(f"w{a} w{b} is{c}", "xyz"[c]) for a, b, c in rng.integers(0, [30, 30, 3], (150, 3)).tolist()]
    (tmp_path / "t.csv").write_text("text,label\n" + "".join(f"{t},{c}\n" for t, c in rows))
    out = tmp_path / "run"
    command = ["train", "recipes/text_classifier", "--data", str(tmp_path / "t.csv"), "--out", str(out), "--smoke"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    program, data = load_program(out / "int8.tflite"), (out / "int8.tflite").read_bytes()
    assert program.tensors[program.outputs[0]].shape == (1, 3)
    said = read_metadata(data, program)
    assert said is not None and said.outputs[0].labels == ("x", "y", "z")
    assert (out / "int8.html").is_file() and f"report: {out / 'int8.html'}" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("network", ["efficientnet_lite0", "mobilenet_v2"])
def test_an_image_classifier_of_two_classes(network: str, tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, colour in (("day", 200), ("night", 40)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(12):
                pixels = np.clip(rng.normal(colour, 20, (40, 48, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    out = tmp_path / "run"
    data = ["--data", str(tmp_path / "photos"), "--network", network]
    done = CliRunner().invoke(app, ["train", "recipes/image_classifier", *data, "--out", str(out), "--smoke"])
    assert done.exit_code == 0, done.output
    program = load_program(out / "model.tflite")
    assert program.tensors[program.outputs[0]].shape == (1, 2)
    said = read_metadata((out / "model.tflite").read_bytes(), program)
    assert said is not None and said.outputs[0].labels == ("day", "night")
