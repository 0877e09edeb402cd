"""`jaxq bench`: how long a .tflite file takes under LiteRT."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from jaxq.cli import options
from jaxq.cli.data import random_batches
from jaxq.cli.failures import usage
from jaxq.cli.output import Result, Table

Threads = Annotated[str, typer.Option("--threads", metavar="N,N", help="Numbers of threads, one contestant each.")]
Against = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--against", metavar="FILE", show_default=False, exists=True, dir_okay=False,
        help="Another .tflite file, such as the float one, to be measured in turns with the first.",
    ),
]  # fmt: skip
Rounds = Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="How often each contestant has its turn.")]
MOST_THREADS = 256


def bench(
    file: options.TFLite,
    threads: Threads = "1,2",
    against: Against = None,
    rounds: Rounds = 50,
    json: options.Json = False,
) -> Result:
    """Measure the latency of a .tflite file, anyone's, under LiteRT with XNNPACK.

    On random inputs. The contestants (file and number of threads) take turns in every round; a ratio is the median of
    the rounds' ratios, so that it holds on a busy machine too.
    """
    from jaxq.export.evaluate.load import evaluated_program
    from jaxq.export.runtimes.bench import Contestant, measure
    from jaxq.export.runtimes.litert import runtime_version

    counts, files, contestants = _counts(threads), [file, *([against] if against else [])], []
    for path in files:
        data, inputs = path.read_bytes(), next(iter(random_batches(evaluated_program(path), 1)))
        contestants += [Contestant(str(path), data, count, inputs) for count in counts]
    found = measure(contestants, rounds)
    ratios = [a.ratio(b) for a, b in zip(found, found[len(counts) :], strict=False)] if against else []
    data = {"runtime": runtime_version(("xnnpack",)), "rounds": rounds, "latencies": _as_data(found, ratios)}
    head = f"{data['runtime']}, XNNPACK; {rounds} rounds in turns; milliseconds an invocation"
    return Result(data, [head, _table(data["latencies"], against)])


def _counts(text: str) -> list[int]:
    try:
        counts = list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise usage(f"--threads {text} must be numbers with commas between them, such as 1,2.") from None
    if not all(0 < count <= MOST_THREADS for count in counts):
        raise usage(f"--threads {text} must be numbers from 1 to {MOST_THREADS}.")
    return counts


def _as_data(found: Sequence[Any], ratios: Sequence[float]) -> list[dict[str, Any]]:
    padded = [*ratios, *[None] * (len(found) - len(ratios))]
    return [
        {
            "file": latency.contestant.name,
            "bytes": len(latency.contestant.data),
            "threads": latency.contestant.threads,
            "invocations": latency.seconds.size,
            "median_seconds": latency.median,
            "p10_seconds": latency.percentile(10),
            "p90_seconds": latency.percentile(90),
            "least_seconds": latency.least,
            "ratio": ratio,
        }
        for latency, ratio in zip(found, padded, strict=True)
    ]


def _table(latencies: Sequence[dict[str, Any]], against: pathlib.Path | None) -> Table:
    times = ("median_seconds", "p10_seconds", "p90_seconds", "least_seconds")
    rows = [
        [
            pathlib.Path(entry["file"]).name, f"{entry['bytes']:,}", str(entry["threads"]),
            *(f"{1e3 * entry[key]:.3f}" for key in times), "" if entry["ratio"] is None else f"{entry['ratio']:.3f}",
        ]
        for entry in latencies
    ]  # fmt: skip
    columns = ["file", ">bytes", ">threads", ">median", ">p10", ">p90", ">least"]
    last = [f">times {against.name}"] if against else []
    return Table("latency", [*columns, *last], rows if against else [row[:-1] for row in rows])
