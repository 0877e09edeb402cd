"""Saving survives whatever ends it: a kill at any step, another writer, a full disk, links, long names."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from jaxq.errors import ExportError, FormatError
from jaxq.export.files import check_pair, refuse_place, write_whole

# Forks one child for every n; it writes a pair and kills itself before its n-th call of the operating system.
KILLED = """
import itertools, json, os, pathlib, signal, sys, tempfile, warnings
warnings.simplefilter("ignore")  # JAX warns of fork; nothing of JAX runs here
from jaxq.export.files import write_whole
place, force = pathlib.Path(sys.argv[1]), sys.argv[2] == "force"

def dying(n):
    count = itertools.count(1)
    def wrapped(call):
        def run(*args, **kwargs):
            if next(count) == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)
        return run
    for name in ("open", "write", "fsync", "chmod", "link", "replace", "unlink", "close"):
        setattr(os, name, wrapped(getattr(os, name)))
    tempfile._os.open = os.open

for n in range(1, 100):
    folder = place / str(n)
    folder.mkdir()
    pair = {folder / "m.json": json.dumps({"jaxq": "1", "sha256": sys.argv[3]}).encode(), folder / "m.tflite": b"new"}
    if force:
        (folder / "m.json").write_text(json.dumps({"jaxq": "1", "sha256": sys.argv[4]}))
        (folder / "m.tflite").write_bytes(b"old")
    child = os.fork()
    if not child:
        dying(n)
        write_whole(pair, force=force)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
print(n)
"""


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def state(folder: pathlib.Path) -> str:
    """What a reader finds: nothing, "old", "new", or a pair that is refused."""
    model, manifest = folder / "m.tflite", folder / "m.json"
    if not model.exists():
        return "nothing"
    assert manifest.exists()
    json.loads(manifest.read_text())  # whole
    try:
        check_pair(model, model.read_bytes())
    except FormatError:
        return "refused"
    return model.read_text()


@pytest.mark.parametrize("force", ["force", "new"])
def test_a_kill_at_any_step_leaves_no_torn_pair(tmp_path: pathlib.Path, force: str) -> None:
    arguments = [sys.executable, "-c", KILLED, str(tmp_path), force, sha(b"new"), sha(b"old")]
    found = subprocess.run(arguments, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    steps = int(found.stdout)
    states = [state(tmp_path / str(n)) for n in range(1, steps + 1)]
    assert steps > 8 and states[-1] == "new"
    before = "old" if force == "force" else "nothing"
    assert states[0] == before and set(states) == (
        {"old", "refused", "new"} if force == "force" else {"nothing", "new"}
    )
    assert states == sorted(states, key=[before, "refused", "new"].index)  # never back


def test_of_two_writers_one_succeeds(tmp_path: pathlib.Path) -> None:
    """The second finds the manifest of the first, or the model: whichever it is, nothing of it stays."""
    pair = {tmp_path / "m.json": b"{}", tmp_path / "m.tflite": b"first"}
    write_whole(pair, force=False)
    for missing in ("m.json", "m.tflite"):
        (tmp_path / missing).unlink()
        with pytest.raises(ExportError, match="exists: it appeared meanwhile. Give another path"):
            write_whole(dict.fromkeys(pair, b"second"), force=False)
        assert not (tmp_path / missing).exists() and len(list(tmp_path.iterdir())) == 1
        (tmp_path / missing).write_bytes(pair[tmp_path / missing])


def test_a_race_of_many_writers(tmp_path: pathlib.Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def write(i: int) -> bool:
        try:
            write_whole({tmp_path / "m.json": b"%d" % i, tmp_path / "m.tflite": b"%d" % i}, force=False)
        except ExportError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(64)))
    assert sum(won) == 1
    assert (tmp_path / "m.json").read_text() == (tmp_path / "m.tflite").read_text() == str(won.index(True))
    assert len(list(tmp_path.iterdir())) == 2


def test_where_there_are_no_hard_links(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    write_whole({tmp_path / "m.tflite": b"first"}, force=False)
    with pytest.raises(ExportError, match="exists: it appeared meanwhile"):
        write_whole({tmp_path / "m.tflite": b"second"}, force=False)
    assert (tmp_path / "m.tflite").read_text() == "first" and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_what_was(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "m.tflite").write_text("old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match=r"m.tflite: No space left on device. Nothing was left behind."):
        write_whole({tmp_path / "m.tflite": b"new"})
    assert (tmp_path / "m.tflite").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_link_that_leads_nowhere_is_a_file(tmp_path: pathlib.Path) -> None:
    link = tmp_path / "m.tflite"
    link.symlink_to(tmp_path / "gone")
    with pytest.raises(ExportError, match="m.tflite exists .a link to .*gone, which is missing"):
        refuse_place(link, force=False)
    with pytest.raises(ExportError, match="exists: it appeared meanwhile"):
        write_whole({link: b"new"}, force=False)
    assert link.is_symlink() and not (tmp_path / "gone").exists()
    refuse_place(link, force=True)
    write_whole({link: b"new"})
    assert link.read_text() == "new" and not link.is_symlink()


@pytest.mark.parametrize("length", [245, 250, 255, 256, 300, 5000])
def test_names_of_any_length(tmp_path: pathlib.Path, length: int) -> None:
    path = tmp_path / ("m" * (length - 7) + ".tflite")
    if length <= 255:
        refuse_place(path, force=False)
        write_whole({path: b"new"}, force=False)
        assert path.read_text() == "new"
    else:
        with pytest.raises(ExportError, match="Cannot write .*: File name too long"):
            refuse_place(path, force=False)
        with pytest.raises(ExportError, match="Cannot write .*: File name too long. Nothing was left behind"):
            write_whole({path: b"new"}, force=False)
        assert not list(tmp_path.iterdir())


def test_a_path_with_a_nul() -> None:
    with pytest.raises(ExportError, match="Cannot write .*: embedded null byte"):
        refuse_place(pathlib.Path("m\0.tflite"), force=False)


def test_a_manifest_of_another_file_is_refused(tmp_path: pathlib.Path) -> None:
    model, manifest = tmp_path / "m.tflite", tmp_path / "m.json"
    model.write_bytes(b"model")
    check_pair(model, b"model")  # no manifest: anyone's file
    manifest.write_text(json.dumps({"jaxq": "1", "sha256": sha(b"model")}))
    check_pair(model, b"model")
    manifest.write_text(json.dumps({"jaxq": "1", "sha256": sha(b"other")}))
    with pytest.raises(FormatError, match="m.json is the manifest of another file: it says SHA-256"):
        check_pair(model, b"model")
    manifest.write_text('{"jaxq": "1", "sh')
    with pytest.raises(FormatError, match="m.json is no JSON"):
        check_pair(model, b"model")
    manifest.write_text('{"labels": []}')  # another program's
    check_pair(model, b"model")
