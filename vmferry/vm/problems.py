"""Puts what pydantic found wrong into words: `disk[1].format: 'vmdk' is not allowed; …`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_KINDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "string_type": "text in quotes",
    "bool_type": "true or false",
    "float_type": "a number",
    "tuple_type": "a list",
    "list_type": "a list",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
_SHOWN_MAX = 80


def describe(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each problem: `key: what is wrong; what is allowed`."""
    lines: dict[str, str] = {}
    for found in error.errors(include_url=False):
        location, owner = _follow(found["loc"], model)
        key, text = _dotted(location), _words(found, owner)
        # The same key twice: a value that may be of two kinds and is neither.
        lines[key] = f"{lines[key]}; {text}" if key in lines else text
    return [f"{key}: {text}" if key else text for key, text in lines.items()]


def _follow(
    location: tuple[int | str, ...], model: type[BaseModel]
) -> tuple[list[int | str], type[BaseModel] | None]:
    """The location without pydantic's names for the kinds of a value, and the owner of its end."""
    owner: type[BaseModel] | None = model
    last_owner = owner
    steps: list[int | str] = []
    for number, step in enumerate(location, start=1):
        if isinstance(step, int):
            steps.append(step)
        elif owner is not None and (step in owner.model_fields or number == len(location)):
            steps.append(step)
            last_owner, owner = owner, _model_of(owner, step)
    return steps, last_owner


def _words(found: Any, owner: type[BaseModel] | None) -> str:
    kind, context = found["type"], found.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(str(found["loc"][-1]), owner)
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(context["error"])
    shown = _shown(found["input"])
    if kind == "literal_error":
        return f"{shown} is not allowed; allowed: {context['expected']}"
    if kind == "greater_than_equal":
        return f"{shown} is out of range; allowed: {context['ge']} or more"
    if kind == "less_than_equal":
        return f"{shown} is out of range; allowed: {context['le']} or less"
    if kind == "multiple_of":
        return f"{shown} is not a multiple of {context['multiple_of']}"
    if kind in _KINDS:
        return f"{shown} is not {_KINDS[kind]}"
    return f"{shown}: {_lowered(found['msg'])}"


def _unknown_key(key: str, owner: type[BaseModel] | None) -> str:
    allowed = sorted(owner.model_fields) if owner is not None else []
    close = difflib.get_close_matches(key, allowed, n=1)
    meant = f"; did you mean '{close[0]}'?" if close else ""
    return f"unknown key; allowed: {', '.join(allowed)}{meant}"


def _model_of(owner: type[BaseModel], field: str) -> type[BaseModel] | None:
    """The model in the annotation of a field: `Disk` for `tuple[Disk, ...]`."""
    info = owner.model_fields.get(field)
    return None if info is None else _first_model(info.annotation)


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        if part not in (Ellipsis, NoneType) and (model := _first_model(part)) is not None:
            return model
    return None


def _dotted(location: Sequence[int | str]) -> str:
    text = ""
    for step in location:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if text else step
    return text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 3] + "..."


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]
