"""Fewer points for a picture: a page of an hour's move must stay small."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Point = tuple[float, float]

# About as many as a wide screen has pixels across.
MOST_POINTS = 1500


def thin(
    points: Sequence[Point], keep: Callable[[Sequence[Point]], Sequence[Point]]
) -> list[Point]:
    """At most about MOST_POINTS points: `keep` chooses from each of as many groups as needed."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = -(-len(points) // MOST_POINTS)
    return [
        kept for start in range(0, len(points), size) for kept in keep(points[start : start + size])
    ]


def extremes(group: Sequence[Point]) -> list[Point]:
    """The lowest and the highest, in the order of time: what decides is at the edges."""
    return sorted({min(group, key=lambda p: p[1]), max(group, key=lambda p: p[1])})


def highest(group: Sequence[Point]) -> list[Point]:
    return [max(group, key=lambda p: p[1])]


def mean(group: Sequence[Point]) -> list[Point]:
    return [(sum(p[0] for p in group) / len(group), sum(p[1] for p in group) / len(group))]
