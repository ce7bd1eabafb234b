"""Puts what pydantic found wrong into words: `disk[1].format: 'vmdk' is not allowed; …`."""

from __future__ import annotations

import difflib
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_KINDS = {
    "int_type": "a whole number",
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
    lines = []
    for found in error.errors(include_url=False):
        key = _dotted(found["loc"])
        text = _words(found, model)
        lines.append(f"{key}: {text}" if key else text)
    return lines


def _words(found: Any, model: type[BaseModel]) -> str:
    kind, context = found["type"], found.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(found["loc"], model)
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(context["error"])
    shown = _shown(found["input"])
    if kind == "literal_error":
        return f"{shown} is not allowed; allowed: {context['expected']}"
    if kind in ("greater_than_equal", "less_than_equal", "greater_than", "less_than"):
        return f"{shown} is out of range: {_lowered(found['msg'])}"
    if kind in _KINDS:
        return f"{shown} is not {_KINDS[kind]}"
    return f"{shown}: {_lowered(found['msg'])}"


def _unknown_key(location: tuple[int | str, ...], model: type[BaseModel]) -> str:
    owner: type[BaseModel] | None = model
    for step in location[:-1]:
        if isinstance(step, str) and owner is not None:
            owner = _model_of(owner, step)
    allowed = sorted(owner.model_fields) if owner is not None else []
    close = difflib.get_close_matches(str(location[-1]), allowed, n=1)
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


def _dotted(location: tuple[int | str, ...]) -> str:
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
