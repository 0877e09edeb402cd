"""`jaxq explain`: what a word that jaxq prints means, and what to do about it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated

import typer

from jaxq.cli import options
from jaxq.cli.failures import usage
from jaxq.cli.output import Result
from jaxq.cli.quantized import quantized
from jaxq.cli.targets import load_target
from jaxq.display.text import did_you_mean
from jaxq.plan.plan import Plan

Word = Annotated[
    str,
    typer.Argument(
        metavar="CODE|SITE", show_default=False,
        help="A lint rule, an error's class, an op, a recipe, a target, a kind of finding; with --model a site.",
    ),
]  # fmt: skip
Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="TARGET", show_default=False,
        help="The model that has the site: package.module:function or file.py:function.",
    ),
]  # fmt: skip

FINDINGS = {
    "channels": (
        "Some channels of a tensor keep too few steps of its range, because others are much larger. The integers are "
        "exact, and hold little of these channels.",
        "Normalise the channels before the model, bound the large ones and train, or give the site 16 bits.",
    ),
    "members": (
        "Tensors that share a range (a concatenation's operands, for instance) are of very different sizes: the small "
        "ones keep too few steps.",
        "Scale them alike inside the model and undo it on the host, or return them as separate outputs.",
    ),
}
ERROR_REMEDIES = {
    "AssignError": "Give each op a weight of its own. The passes of jaxq.ptq leave such a weight as it is, and say so.",
    "BatchStatisticsError": "Use stored statistics, as BatchNorm of nnx and linen does; sum over examples in the loss.",
    "CalibrationError": "Give batches that reach every tensor, or overwrite=True to replace trained ranges.",
    "CaptureError": "The message names your line. Write it with the ops of docs/ops.md.",
    "ControlFlowError": "Unroll the loop, or move it out of the model.",
    "ExportError": "The message names the tensor and what TFLite lacks.",
    "FormatError": "The file is cut, or no .tflite file. Export or download it again.",
    "GraphError": "It is a fault of jaxq: please report it with the graph that it prints.",
    "InputError": "Give inputs of the shapes and dtypes of the example that the model was quantized with.",
    "MismatchError": "Please report it with the graph that it prints; allow_mismatch=True gives the file all the same.",
    "PlanError": "Change the rule, or the target, that the message names.",
    "RangeError": "Call jaxq.calibrate, or restore a checkpoint with ranges, before the model is used.",
    "RecipeError": "The message names the field. docs/all_of_jaxq.md has a table of all of them.",
    "TargetError": "Use another op, or another target: jaxq explain TARGET lists what it takes.",
    "UnmatchedRuleError": "print(qmodel.plan), or jaxq plan, lists the sites by name.",
    "WeightsError": "The message has the command that fetches the file.",
}


def explain(word: Word, model: Model = None, recipe: options.Recipe = "int8", json: options.Json = False) -> Result:
    """Explain a word that jaxq prints: a lint rule, an error, an op, a recipe, a target, a finding, a model's site."""
    if model is not None:
        text = site_text(quantized(load_target(model), recipe).plan, word)
        return Result({"word": word, "text": text}, [text])
    known = {name: text for words in READERS.values() for name, text in words().items()}
    word = next((name for name in known if name.casefold() == word.casefold()), word) if word not in known else word
    if word not in known:
        advice = did_you_mean(word, known)
        raise usage(f"There is nothing called {word!r} to explain. {advice} A site of a model needs --model TARGET.")
    return Result({"word": word, "text": known[word]}, [known[word]])


def _rules() -> dict[str, str]:
    from jaxq.export.lint import RULES

    return {
        r.id: f"{r.id}: a rule of jaxq lint, {r.severity}\n{r.what}\nfix: {r.fix}\nsource: {r.source}" for r in RULES
    }


def _errors() -> dict[str, str]:
    from jaxq import errors

    found = {n: v for n, v in vars(errors).items() if inspect.isclass(v) and issubclass(v, errors.JaxqError)}
    return {n: f"{n}: an error of jaxq\n{inspect.getdoc(v)}\nwhat to do: {ERROR_REMEDIES[n]}"
            for n, v in found.items() if n in ERROR_REMEDIES}  # fmt: skip


def _ops() -> dict[str, str]:
    from jaxq.ops import OPS
    from jaxq.plan.target import TARGETS

    def text(name: str) -> str:
        spec = OPS[name]
        written = ", ".join(spec.operators or (name,))
        lacking = [t.name for t in TARGETS.values() if not all(map(t.has, spec.operators or (name,)))]
        return "\n".join([
            f"{name}: an op of jaxq, written as {written}",
            f"scales: {SCALES.get(str(spec.scales), f'prescribed by TFLite: {spec.scales}')}",
            f"exactness: {'a table: training may differ by one step' if spec.table else 'every integer is equal'}",
            f"16 bits: {'yes' if spec.int16 else 'no: it computes in 8'}",
            f"targets that lack it: {', '.join(lacking) or 'none'}",
        ])  # fmt: skip

    return {name: text(name) for name in OPS if name != "FLOAT"} | {
        "FLOAT": "FLOAT: a float island, what is no op of docs/ops.md\nIt trains as recorded; to_tflite refuses it.\n"
        "what to do: move it before or after the model, or write it in ops of docs/ops.md."
    }


SCALES = {
    "free": "the output has a scale of its own",
    "same": "all activations in and out share one scale",
    "none": "the output is no real number",
}


def _targets() -> dict[str, str]:
    from jaxq.plan.target import TARGETS

    return {t.name: "\n".join([
        f"{t.name}: a target, {t.title}",
        f"operators: {'every one that LiteRT has' if t.operators is None else ', '.join(sorted(t.operators))}",
        f"floats between integers: {'yes' if t.float_islands else 'no'}; 16 bits: {'yes' if t.int16 else 'no'}",
        f"evidence: {t.evidence}{f' ({t.source})' if t.source else ''}",
    ]) for t in TARGETS.values()}  # fmt: skip


def _recipes() -> dict[str, str]:
    from jaxq.plan.recipe import SHIPPED
    from jaxq.plan.toml_text import recipe_text

    return {name: f"{name}: a recipe that ships with jaxq; as a file, without what is the default\n"
                  f"{recipe_text(recipe).strip()}" for name, recipe in SHIPPED.items()}  # fmt: skip


def _findings() -> dict[str, str]:
    return {name: f"{name}: a kind of finding of calibration\n{what}\nwhat to do: {fix}"
            for name, (what, fix) in FINDINGS.items()}  # fmt: skip


READERS: dict[str, Callable[[], dict[str, str]]] = {
    "errors": _errors,
    "findings": _findings,
    "ops": _ops,
    "recipes": _recipes,
    "rules": _rules,
    "targets": _targets,
}


def site_text(plan: Plan, site: str) -> str:
    """What the plan says of a site: its op, your line, its scheme, with whom it shares its scale, who reads it."""
    graph = plan.graph
    values = {name: value for value, name in graph.site_names.items()}
    ops = {op.name: op for op in graph.ops}
    if site not in values and site not in ops:
        raise usage(f"The model has no site {site!r}. {did_you_mean(site, [*values, *ops])}")
    op = ops.get(site) or next((op for op in graph.ops if values[site] in op.outputs), None)
    value = values[site] if site in values else ops[site].outputs[0]
    group, readers = plan.group(value), [o.name for o in graph.consumers(value)]
    lines = [f"{site}: {graph.avals[value]}, {'an input' if op is None else f'made by {op.kind}'}"]
    lines += [f"your line: {op.source}"] if op is not None and op.source else []
    lines += [f"weights: {plan.weights[op.name]}"] if op is not None and op.name in plan.weights else []
    lines += [f"activations: {group.scheme}"] if group is not None else []
    shared = [] if group is None else [m for m in group.members if m != graph.site_names[value]]
    lines += [f"shares its scale with: {', '.join(shared)}"] if shared else []
    lines += [f"float island: {plan.islands[op.name]}"] if op is not None and op.name in plan.islands else []
    return "\n".join([*lines, f"read by: {', '.join(readers) or 'nothing: it is an output'}"])
