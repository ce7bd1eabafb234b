"""Asks one QEMU over QMP, read-only; what it does not tell is remembered with QEMU's own words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from vmferry.hypervisor.qemu.inquiry import Inquiry
from vmferry.hypervisor.qemu.qmp import QmpError, QmpGone, QmpMute
from vmferry.preflight.facts import Scalar

# Ten times what a big VM takes on a busy host.
_WHOLE_SECONDS = 10.0

T = TypeVar("T")


class Executor(Protocol):
    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any: ...


class Asking:
    """Questions to one QEMU. Raises QmpGone and QmpMute; any other refusal is an answer: None."""

    def __init__(self, qemu: Executor) -> None:
        self._inquiry = Inquiry(qemu.execute)
        self.unread: dict[str, str] = {}

    async def ask(self, fact: str, command: str, **arguments: Any) -> Any:
        """What `command` returns, for the fact of that name; None where it is refused."""
        try:
            return await self._inquiry.execute(command, arguments or None)
        except (QmpGone, QmpMute):
            raise
        except QmpError as error:
            self.unread[fact] = f"{command}: {error}"
            return None

    async def whole(self, fact: str, reading: Awaitable[T]) -> T | None:
        """A fact that takes several questions; None where its reader does not understand the
        answers, which must not keep anybody's VM from moving, or where that takes too long."""
        try:
            async with asyncio.timeout(_WHOLE_SECONDS):
                return await reading
        except (QmpGone, QmpMute):
            raise
        except TimeoutError:
            self.unread[fact] = f"QEMU did not tell it within {_WHOLE_SECONDS:g} s"
            return None
        except Exception as error:
            self.unread[fact] = f"by a bug in vmferry: {type(error).__name__}: {error}"
            return None

    async def listed(self, path: str) -> dict[str, str]:
        """The types of an object's properties, by name; empty where there is no such object."""
        rows = await self.quietly("qom-list", path=path)
        return {row["name"]: row["type"] for row in rows or ()}

    async def get(self, path: str, name: str) -> Any:
        """One property; None where it cannot be read."""
        return await self.quietly("qom-get", path=path, property=name)

    async def values(self, path: str, types: Mapping[str, str]) -> dict[str, Any]:
        """All properties of an object that are values and can be read."""
        names = [name for name, type_ in types.items() if not type_.startswith(("child<", "link<"))]
        return await self.some(path, names)

    async def some(self, path: str, names: Iterable[str]) -> dict[str, Any]:
        """Those of these properties that can be read."""
        names = sorted(names)
        answers = await asyncio.gather(*(self.get(path, name) for name in names))
        found = zip(names, answers, strict=True)
        return {name: value for name, value in found if value is not None}

    async def quietly(self, command: str, **arguments: Any) -> Any:
        """What `command` returns; None where it is refused."""
        try:
            return await self._inquiry.execute(command, arguments)
        except (QmpGone, QmpMute):
            raise
        except QmpError:
            return None


def scalars(values: Mapping[str, Any]) -> dict[str, Scalar]:
    """Those that are a plain value."""
    return {name: value for name, value in values.items() if isinstance(value, Scalar)}
