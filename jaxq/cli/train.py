"""`jaxq train`: run a recipe that ships with jaxq."""

from __future__ import annotations

import asyncio
import inspect
import pathlib
import shlex
from collections.abc import Callable
from typing import Annotated, Any

import typer

from jaxq.cli import complete, options
from jaxq.cli.failures import Failure, usage
from jaxq.cli.output import Result, Table
from jaxq.cli.shipped import plain_name, recipe_module

Name = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        show_default=False,
        help="A shipped recipe: mnist, or recipes/mnist.",
        autocompletion=complete.trainings,
    ),
]
Out = Annotated[
    pathlib.Path | None,
    typer.Option("--out", metavar="DIR", show_default=False, help="Where everything goes; build/RECIPE if not given."),
]
Data = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--data", metavar="PATH", show_default=False,
        help="Of image_classifier and cifar10_* a folder (train/CLASS/, test/CLASS/), of keyword_spotting a folder "
        "(CLASS/*.wav), of text_classifier, text_regression and text_embedding a .csv, .tsv or .jsonl file.",
    ),
]  # fmt: skip
Network = Annotated[
    str | None,
    typer.Option(
        "--network", metavar="NAME", show_default=False,
        help="Of image_classifier: efficientnet_lite0 to 4, mobilenet_v1, mobilenet_v2, mobilenet_v3_small or _large; "
        "of cifar10_int8_training: mobilenet_v2 or resnet_20.",
    ),
]  # fmt: skip
Epochs = Annotated[
    float | None,
    typer.Option("--epochs", metavar="N", show_default=False, help="Passes over the images, where a recipe takes it."),
]
Policy = Annotated[
    str | None,
    typer.Option("--policy", metavar="NAME", show_default=False, help="Of a movie recipe: int8, int16 or float."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", show_default=False,
        help="A setting of the recipe, such as batch=64; may be given several times. A wrong name lists all.",
    ),
]  # fmt: skip
ConfigFile = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--config", metavar="FILE.toml", show_default=False, exists=True, dir_okay=False,
        help="Settings of the recipe in a file; --set wins.",
    ),
]  # fmt: skip
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", show_default=False,
        help="Of image_classifier: processes that decode images; 0, the default: threads do.",
    ),
]  # fmt: skip
Coordinator = Annotated[
    str | None,
    typer.Option(
        "--coordinator", metavar="HOST:PORT", show_default=False,
        help="Where process 0 of several listens; the same in each of them, with --processes and --process.",
    ),
]  # fmt: skip
Processes = Annotated[
    int | None, typer.Option("--processes", metavar="N", show_default=False, help="How many processes train together.")
]
Process = Annotated[
    int | None, typer.Option("--process", metavar="I", show_default=False, help="Which one this is, from 0.")
]
Cache = Annotated[
    bool,
    typer.Option(
        "--compilation-cache/--no-compilation-cache",
        help="Keep compiled programs for the next run, unless JAX_COMPILATION_CACHE_DIR says where.",
    ),
]
Smoke = Annotated[bool, typer.Option("--smoke", help="A few steps only, to see that everything runs.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the weights and of the order of the data.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier run left in --out.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")]

# Options that not all recipes take.
LACKS = {"data": "brings its own data", "epochs": "has a length of its own",
         "network": "has one network", "policy": "has no policies to choose from",
         "settings": "has no settings", "workers": "has no files to decode"}  # fmt: skip
OPTION = {"settings": "set"}  # where it is not the name

# Recipes that several processes can run together (`jaxq.recipes.processes`).
MANY_PROCESSES = frozenset(
    {
        "cifar10_efficientnet_lite0",
        "cifar10_mobilenet_v2",
        "image_classifier",
        "movie_embedding",
        "movie_rating",
        "movie_sentiment",
        "text_classifier",
        "text_embedding",
        "text_regression",
    }
)


def train(
    recipe: Name,
    out: Out = None,
    data: Data = None,
    policy: Policy = None,
    network: Network = None,
    epochs: Epochs = None,
    settings: Settings = None,
    config: ConfigFile = None,
    workers: Workers = None,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
    compilation_cache: Cache = True,
    smoke: Smoke = False,
    seed: Seed = 0,
    force: Force = False,
    resume: Resume = False,
    json: options.Json = False,
) -> Result | Failure:
    """Run a shipped recipe: train, quantize, export."""
    if force and resume:
        raise usage("--force begins again and --resume goes on; give one of them.")
    folder = _folder(recipe, out)
    run = recipe_module(recipe, "run").run
    given = _taken(
        recipe, run, data=data, policy=policy, network=network, epochs=epochs,
        settings=_settings(config, settings) or None, workers=workers,
    )  # fmt: skip
    cluster = {"coordinator": coordinator, "processes": processes, "process": process}
    _join(recipe, **cluster)
    from jaxq.recipes.compilation_cache import kept

    try:
        with kept(compilation_cache):
            return _shown(recipe, folder, run(folder, seed=seed, smoke=smoke, resume=resume, force=force, **given))
    except BaseException as error:
        if not _by_interrupt(error):
            raise
        joined = {name: value for name, value in cluster.items() if value is not None}
        again = going_on(recipe, folder, smoke, seed, given | joined)
        return Failure("Interrupted", f"interrupted; to go on from the last checkpoint: {again}", 130)


def _folder(recipe: str, out: pathlib.Path | None) -> pathlib.Path:
    """Where the run leaves its files."""
    folder = pathlib.Path("build", plain_name(recipe)) if out is None else out
    if folder.exists() and not folder.is_dir():
        raise usage(f"--out {folder} is a file; a run leaves several, in a directory.")
    return folder


def _taken(recipe: str, run: Callable[..., Any], **values: Any) -> dict[str, Any]:
    """The options that were given, each of which the recipe's `run` must take."""
    given = {name: value for name, value in values.items() if value is not None}
    for name in sorted(given.keys() - inspect.signature(run).parameters.keys()):
        raise usage(f"--{OPTION.get(name, name)}: the recipe {recipe} {LACKS[name]}.")
    return given


def _shown(recipe: str, folder: pathlib.Path, summary: dict[str, Any]) -> Result:
    """What a finished run prints: its summary, and the lines of its report."""
    said = {name: value for name, value in summary.items() if name != "report"}
    lines = summary.get("report", [])
    shown = {"recipe": plain_name(recipe), "out": folder, "summary": said, "report": lines}
    return Result(shown, [_table(said), *(["\n".join(lines)] if lines else [])])


def _join(recipe: str, coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Join the other processes of the run, where there are any."""
    if coordinator is None and processes is None and process is None:
        return
    if coordinator is None or processes is None or process is None:
        raise usage(
            "--coordinator HOST:PORT, --processes N and --process I belong together; give all of them, or none."
        )
    if not 0 <= process < processes:
        raise usage(f"--process {process}: the processes of {processes} are numbered from 0 to {processes - 1}.")
    if plain_name(recipe) not in MANY_PROCESSES:
        can = ", ".join(sorted(MANY_PROCESSES))
        raise usage(f"--processes: the recipe {recipe} trains in one process. These can in several: {can}.")
    from jaxq.recipes.processes import join

    join(coordinator, processes, process)


def going_on(recipe: str, out: pathlib.Path, smoke: bool, seed: int, given: dict[str, Any]) -> str:
    """The command that goes on with an interrupted run; given: what this recipe takes and others may not."""
    chosen = {"out": out, **given, **({"seed": seed} if seed else {})}
    settings = chosen.pop("settings", {})
    words = [word for option, value in chosen.items() for word in (f"--{option}", str(value))]
    words += [word for name, value in settings.items() for word in ("--set", f"{name}={_written(value)}")]
    return shlex.join(["jaxq", "train", recipe, *words, *(["--smoke"] if smoke else []), "--resume"])


def _settings(file: pathlib.Path | None, given: list[str] | None) -> dict[str, Any]:
    from jaxq.recipes.settings import read

    return read(file, given or [])


def _written(value: Any) -> str:
    """A value as `--set` takes it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _by_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C ended the run: by itself, or as an error of what it cut off (a checkpoint being saved)."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _table(summary: dict[str, Any]) -> Table:
    return Table("summary", ["what", "value"], [[name, _text(value)] for name, value in summary.items()])


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
