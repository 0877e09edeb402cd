"""Settings of a recipe's run: fields of its config by dotted name, from a TOML file and from `NAME=VALUE`."""

from __future__ import annotations

import dataclasses
import pathlib
import tomllib
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from jaxq.display.text import did_you_mean
from jaxq.errors import InputError

Config = TypeVar("Config")
PLAIN = (bool, int, float, str)
POSITIVE = ("batch", "calibrate", "epochs", "float_steps", "qat_steps", "verify")  # others may be 0; none is negative


def changed(config: Config, settings: Mapping[str, Any]) -> Config:
    """The config with other values.

    Args:
      config: a frozen dataclass, which may hold others.
      settings: a field's name, or a dotted path of names, to its value; a nested mapping stands for a path. A text is
        read as the field's type.

    Raises: InputError for a name that is no setting, with the nearest, and a value of another type.
    """
    for name, value in _flat(settings).items():
        config = _with(config, name.split("."), name, value)
    return config


def read(file: pathlib.Path | None, given: Sequence[str]) -> dict[str, Any]:
    """The settings of a TOML file, then those of `NAME=VALUE`, which win. Raises InputError."""
    found = {} if file is None else _flat(_toml(file))
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise InputError(f"--set {each} is not NAME=VALUE, such as --set batch=64.")
        found[name.strip()] = value.strip()
    return found


def names(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting of a config by its dotted name, with its value."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            found |= names(value, f"{name}.")
        elif _plain(typing.get_type_hints(type(config))[field.name]):
            found[name] = value
    return found


def _with(config: Any, path: Sequence[str], name: str, value: Any) -> Any:
    known = names(config)
    inner = getattr(config, path[0], None)
    if len(path) > 1 and dataclasses.is_dataclass(inner):
        return dataclasses.replace(config, **{path[0]: _with(inner, path[1:], name, value)})
    if len(path) > 1 or path[0] not in known:
        raise InputError(
            f"There is no setting {name!r}. {did_you_mean('.'.join(path), known)} All: {', '.join(known)}."
        )
    hint = typing.get_type_hints(type(config))[path[0]]
    try:
        read_as = _listed(value) if typing.get_origin(hint) is tuple else value
        given = msgspec.convert(read_as, hint, strict=not _text(value))
    except msgspec.ValidationError as e:
        raise InputError(f"The setting {name} is {value!r}: {str(e)[0].lower() + str(e)[1:]}.") from e
    _refuse_negative(name, path[0], given)
    return dataclasses.replace(config, **{path[0]: given})


def _refuse_negative(name: str, field: str, given: Any) -> None:
    """Raise InputError for NaN, a number below zero, and zero where there must be something."""
    numbers = [n for n in (given if isinstance(given, tuple) else (given,)) if isinstance(n, int | float)]
    for number in numbers:
        if not number >= 0 or (number == 0 and field in POSITIVE):
            least = "more than 0" if field in POSITIVE else "0 or more"
            raise InputError(f"The setting {name} is {number}; it must be {least}.")


def _listed(value: Any) -> Any:
    """`a,b` as a list."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _plain(hint: Any) -> bool:
    """Whether a type is one that a file can hold: a number, a text, None, one of some values, or a tuple of these."""
    if typing.get_origin(hint) is typing.Literal:
        return True
    parts = typing.get_args(hint)
    return hint in (*PLAIN, type(None), ...) or bool(parts and all(_plain(part) for part in parts))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def _toml(file: pathlib.Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as e:
        raise InputError(f"Cannot read {file}: {e.strerror}.") from e
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise InputError(f"{file} is no TOML file: {e}.") from e
