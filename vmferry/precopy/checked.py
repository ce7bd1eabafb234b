"""JSON objects from files of users, checked: an error names file, key and what is allowed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vmferry.errors import UsageError


class Checked:
    """One JSON object. `where` is what errors call it; every method raises UsageError."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, Mapping):
            raise UsageError(f"{where} must be a JSON object, not {_shown(data)}")
        self._data = data
        self._where = where

    def number(
        self, key: str, rule: str, *, least: float, most: float = math.inf, default: Any = None
    ) -> float:
        """A number from `least` to `most`; `rule` says in words what is allowed."""
        value = self._data.get(key, default)
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not _finite(value) or not least <= value <= most:
            raise self._wrong(key, rule)
        return float(value)

    def whole(
        self, key: str, rule: str, *, least: int, most: float = math.inf, default: Any = None
    ) -> int:
        """A whole number from `least` to `most`."""
        value = self._data.get(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self._wrong(key, rule)
        return value

    def choice(self, key: str, allowed: Sequence[str], default: str) -> str:
        """One of the words that are allowed."""
        value = self._data.get(key, default)
        if value not in allowed:
            raise self._wrong(key, f"must be one of {', '.join(allowed)}")
        return str(value)

    def format(self, known: int) -> None:
        """The version of the format: another one cannot be read."""
        if self._data.get("format", known) != known:
            raise self._wrong("format", f"is not known: this vmferry reads format {known}")

    def objects(self, key: str) -> list[Checked]:
        """A list of objects."""
        value = self._data.get(key)
        if not isinstance(value, list):
            raise self._wrong(key, "must be a list")
        return [Checked(one, f"{self._where}, {key}[{i}]") for i, one in enumerate(value)]

    def object(self, key: str) -> Checked:
        """An object; an empty one where it is missing."""
        value = self._data.get(key)
        return Checked({} if value is None else value, f"{self._where}, {key}")

    @property
    def names(self) -> list[str]:
        """All keys."""
        return [str(key) for key in self._data]

    def has(self, key: str) -> bool:
        """Whether it is there and not null."""
        return self._data.get(key) is not None

    def _wrong(self, key: str, rule: str) -> UsageError:
        if key not in self._data:
            return UsageError(f"{self._where}: '{key}' is missing; it {rule}")
        return UsageError(f"{self._where}: '{key}' {rule}; it is {_shown(self._data[key])}")


def parse_object(text: str, where: str) -> Checked:
    """The JSON object that a file holds. Raises UsageError."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number in JSON")

    try:
        data = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise UsageError(f"{where}, line {error.lineno}: this is not JSON ({error.msg})") from None
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    except RecursionError:
        raise UsageError(f"{where}: this is nested too deeply") from None
    return Checked(data, where)


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else text[:37] + "…"
