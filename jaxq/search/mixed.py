"""Bits of weights under a budget of bytes: the choice of least loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxq.analyze.choices import Option, options, with_options
from jaxq.analyze.sensitivity import default_loss, tried
from jaxq.analyze.trials import Measure, Trials
from jaxq.display.progress import bar
from jaxq.errors import InputError
from jaxq.plan.plan import Plan
from jaxq.quantization import bind
from jaxq.search.found import Found
from jaxq.search.knapsack import choose
from jaxq.search.sizes import budget_bytes, kernel_bytes

COLUMNS = ("op", "kind", "choice", ">bytes", ">change of the loss", ">bytes as it was")


class _Choice(NamedTuple):
    """One way to store the weights of an item. option: None where they stay as they are."""

    option: Option | None
    size: int
    change: float


class _Item(NamedTuple):
    """Ops that choose together, and what there is to choose."""

    ops: tuple[str, ...]
    kind: str
    choices: list[_Choice]


def mixed(
    target: Any,
    batches: Any,
    *state: Any,
    budget: int | float | str,
    labels: Any = None,
    loss: Measure | None = None,
    choices: Sequence[str] = ("w4", "w8"),
    progress: bool = True,
) -> Found:
    """Choose the bits of each op's weights so that all weights fit a budget and the loss grows least.

        min over c of sum_i S_i(c_i)   subject to   sum_i bytes_i(c_i) <= budget

    S_i(c) is the change of the model's loss when op i alone gets choice c (`jaxq.analyze.sensitivity`), bytes_i(c) the
    exact size of its kernel in the file. The sum stands for the loss of all together; that is measured in the end. The
    problem is solved exactly. Ops that share a parameter choose together. Interrupted (Ctrl-C), it chooses among what
    has been measured so far.

    Args:
      target: what `jaxq.quantize` gave, calibrated.
      batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      budget: bytes of all integer kernels in the file: an int; a float, the share of what they take now; or text,
        "2.5MB", "60%".
      labels, loss: as of `jaxq.analyze.sensitivity`.
      choices: of "w4" and "w8". What an op is now is always a choice.
      progress: show a progress bar.

    Returns: Found, with a rule for each op that changes.

    Raises: InputError for a budget that nothing fits, and as `jaxq.analyze.sensitivity`.

    References: Wu et al. 2020, section 5.1 (sensitivity); NVIDIA ModelOpt's `auto_quantize` and NNCF's mixed precision
    choose under a budget by other scores.

    Example:
      >>> found = jaxq.search.mixed(qmodel, images, budget=1.0, progress=False)
      >>> found.recipe.rules
      ()
    """
    if unknown := [c for c in choices if c not in ("w4", "w8")]:
        raise InputError(f'jaxq.search.mixed chooses among "w4" and "w8", not {unknown[0]!r}.')
    trials = Trials(bind(target, *state), batches, labels)
    loss, name = (loss, getattr(loss, "__name__", "loss")) if loss is not None else default_loss(trials)
    plan, base = trials.plan, trials.measured(loss)
    items, complete = _items(trials, loss, base, options(plan, choices), progress)
    whole = sum(item.choices[0].size for item in items)
    most = budget_bytes(budget, whole)
    sizes = [[c.size for c in item.choices] for item in items]
    picked = choose([[c.change for c in item.choices] for item in items], sizes, most)
    if picked is None:
        least = sum(map(min, sizes))
        raise InputError(
            f"The weights do not fit {most:,} bytes: they take {whole:,} now and {least:,} at least, with "
            f"{' or '.join(choices)} everywhere. Give a larger budget."
        )
    return _found(trials, loss, name, base, items, picked, complete)


def _items(
    trials: Trials, loss: Measure | None, base: float, wanted: Sequence[Option], progress: bool
) -> tuple[list[_Item], bool]:
    """Every kernel with what it may become; and whether all of it was measured."""
    plan, skipped, complete = trials.plan, list[str](), True
    items = {ops: _Item(ops, kind, [_Choice(None, _size(plan, ops), 0.0)]) for ops, kind in _units(plan, wanted)}
    with bar(progress) as shown:
        try:
            for option in shown.track(wanted, description="each op alone"):
                alone = tried(trials, loss, option, skipped)
                if alone is not None:
                    under = trials.planned(with_options(trials.recipe, [option]))
                    items[option.ops].choices.append(_Choice(option, _size(under, option.ops), alone - base))
        except KeyboardInterrupt:
            complete = False
    return list(items.values()), complete


def _units(plan: Plan, wanted: Sequence[Option]) -> list[tuple[tuple[str, ...], str]]:
    """The ops with integer weights, together those that choose together, with their kind."""
    kinds = {op.name: op.kind for op in plan.graph.ops}
    joined = {name: option.ops for option in wanted for name in option.ops}
    return [(ops, kinds[ops[0]]) for ops in dict.fromkeys(joined.get(name, (name,)) for name in plan.weights)]


def _size(plan: Plan, ops: Sequence[str]) -> int:
    return sum(kernel_bytes(plan, name) for name in ops)


def _found(
    trials: Trials,
    loss: Measure | None,
    name: str,
    base: float,
    items: Sequence[_Item],
    picked: Sequence[int],
    complete: bool,
) -> Found:
    made = [item.choices[i] for item, i in zip(items, picked, strict=True)]
    recipe = with_options(trials.recipe, [c.option for c in made if c.option is not None])
    together, whole = trials.measured(loss, recipe), sum(item.choices[0].size for item in items)
    size, expected = sum(c.size for c in made), sum(c.change for c in made)
    rows = [_row(trials.plan, item, choice) for item, choice in zip(items, made, strict=True)]
    facts = {
        "bytes": size, "bytes_before": whole, "loss": together, "loss_before": base, "measure": name,
        "sum_of_changes": expected, "choices": {row[0]: row[2] for row in rows},
    }  # fmt: skip
    title = (
        f"weights {size:,} bytes of {whole:,}; {name} {together:.6g} ({base:.6g} before; {base + expected:.6g} by the "
        f"sum of changes), {trials.examples} examples"
    )
    return Found(recipe, title, COLUMNS, tuple(rows), facts, complete)


def _row(plan: Plan, item: _Item, made: _Choice) -> tuple[str, ...]:
    bits = f"w{plan.weights[item.ops[0]].bits}" if made.option is None else made.option.choice
    return (", ".join(item.ops), item.kind, bits, f"{made.size:,}", f"{made.change:+.4g}", f"{item.choices[0].size:,}")
