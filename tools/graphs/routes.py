"""Routes of links around nodes: where a link would pass beneath a node, dots that the front end leads it through.

The curves are those that the front end draws: between two points a cubic Bezier curve, whose tangents are horizontal at sockets
and follow the mean of both directions at a dot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""

STRETCH, MAX_STRETCH = 0.25, 20.0
"""Length of a tangent as a share of the distance between two points, and its limit at a dot."""
TIMES = np.linspace(0, 1, 41)[:, None]
BERNSTEIN = np.hstack([(1 - TIMES) ** 3, 3 * (1 - TIMES) ** 2 * TIMES, 3 * (1 - TIMES) * TIMES**2, TIMES**3])
"""Weights of the four control points of a Bezier curve at 41 places."""
INSET = 11
"""Pixels at both sides of a node that a link may cover: its sockets are inside the node."""
CLEARANCE = 8
EDGE = 10
"""How much further out sockets are in the new design of nodes."""
ASIDE = 17
"""Distance of a dot from the column that a link passes."""
LANE = 12
"""Distance between parallel links."""
DISTANCES = (22, 10, -1)
"""Distances of dots from those of other links; the next one is taken where none is free."""
DOT = 60
"""Pixels of a longer way that a dot is worth."""


def lead_around(start: Point, end: Point, boxes: Sequence[Box], columns: Sequence[Box], taken: Iterable[Point]) -> list[Point]:
    """Return the dots of a link: none if it is clear of all boxes, otherwise the shortest way found through free lanes.

    Args:
        start: Where the link begins.
        end: Where it ends.
        boxes: Titles and bodies of all nodes.
        columns: The columns that it passes: left and right edge, top and bottom of their contents.
        taken: Dots of other links, which this one keeps a distance from.

    Raises:
        ValueError: No way is clear.
    """
    taken = list(taken)

    def cost(way: list[Point]) -> float:
        return _length(start, way, end) + DOT * len(way)

    for ways, distance in ((ways, distance) for distance in DISTANCES for ways in _ways(start, end, boxes, columns)):
        for way in sorted(ways, key=cost):
            if _apart(way, taken, distance) and not any(beneath(*at_edges(start, way, end, by), boxes) for by in (0, EDGE)):
                return way
    raise ValueError(f"no way from {start} to {end} is clear of the nodes; move a group")


def at_edges(start: Point, way: list[Point], end: Point, by: float) -> tuple[Point, list[Point], Point]:
    """Return a link with its ends moved outwards."""
    return (start[0] + by, start[1]), way, (end[0] - by, end[1])


def _ways(start: Point, end: Point, boxes: Sequence[Box], columns: Sequence[Box]) -> Iterator[list[list[Point]]]:
    """Yield lists of ways, those with fewer turns first."""
    yield [[]]
    yield list(_through(columns, boxes, start, end)) if columns else list(_down_a_corridor(start, end))
    yield [way for cut in range(1, len(columns)) for way in _in_two_lanes(columns, cut, boxes)] if start[0] < end[0] else []


def beneath(start: Point, way: Sequence[Point], end: Point, boxes: Sequence[Box]) -> bool:
    """Return whether a link covers any of the boxes, other than the edges where sockets are."""
    points, edges = curve(start, way, end)[:, None], np.asarray(boxes)
    inner = edges + (INSET, -CLEARANCE, -INSET, CLEARANCE)
    return bool(((points > inner[:, :2]) & (points < inner[:, 2:])).all(axis=2).any())


def curve(start: Point, way: Sequence[Point], end: Point) -> np.ndarray:
    """Return points of a link as the front end draws it, (N, 2)."""
    points = [start, *way, end]
    headings = [0.0, *(_heading(*points[index - 1 : index + 2]) for index in range(1, len(points) - 1)), 0.0]
    pieces = []
    for index, (first, second) in enumerate(pairwise(points)):
        distance = STRETCH * math.dist(first, second)
        at_start, at_end = (distance if socket else min(MAX_STRETCH, distance) for socket in (index == 0, index == len(way)))
        controls = first, _moved(first, headings[index], at_start), _moved(second, headings[index + 1], -at_end), second
        pieces.append(BERNSTEIN @ np.asarray(controls))
    return np.concatenate(pieces)


def _heading(before: Point, point: Point, after: Point) -> float:
    coming, going = (math.atan2(b[1] - a[1], b[0] - a[0]) for a, b in ((before, point), (point, after)))
    turn = (coming - going) / 2
    return coming - (turn + math.pi if abs(turn) > math.pi / 2 else turn)


def _moved(point: Point, heading: float, distance: float) -> Point:
    return point[0] + distance * math.cos(heading), point[1] + distance * math.sin(heading)


def _through(columns: Sequence[Box], boxes: Sequence[Box], start: Point, end: Point) -> Iterator[list[Point]]:
    """Yield ways past the columns: forwards, or backwards from a socket on the right to one on the left."""
    for lane in _lanes(columns, boxes):
        enter, leave = (columns[0][0] - ASIDE, lane), (columns[-1][2] + ASIDE, lane)
        yield from [[enter], [leave], [enter, leave]] if start[0] < end[0] else [[leave, enter]]


def _in_two_lanes(columns: Sequence[Box], cut: int, boxes: Sequence[Box]) -> Iterator[list[Point]]:
    """Yield ways that change to another lane between two columns."""
    for first in _lanes(columns[:cut], boxes, step=3):
        for second in _lanes(columns[cut:], boxes, step=3):
            enter, leave = (columns[0][0] - ASIDE, first), (columns[-1][2] + ASIDE, second)
            change = [(columns[cut - 1][2] + ASIDE, first), (columns[cut][0] - ASIDE, second)]
            yield from ([*begin, *change, *finish] for begin in ([], [enter]) for finish in ([], [leave]))


def _down_a_corridor(start: Point, end: Point) -> Iterator[list[Point]]:
    """Yield ways between two neighbouring columns, for a link so long that its curve would swing out of the corridor."""
    middle = (start[0] + end[0]) / 2
    way = 1 if start[1] < end[1] else -1
    for turn in (3 * LANE, 5 * LANE, 7 * LANE):
        yield [(middle, start[1] + way * turn), (middle, end[1] - way * turn)]


def _lanes(columns: Sequence[Box], boxes: Sequence[Box], *, step: int = 1) -> list[float]:
    """Return heights at which a horizontal link passes the columns between, above or below all of their nodes."""
    if not columns:
        return []
    left, right = columns[0][0], columns[-1][2]
    inside = sorted((top, bottom) for x0, top, x1, bottom in boxes if x0 < right and left < x1)
    lowest, lanes = inside[0][0] - 8 * LANE, []
    for top, bottom in [*inside, (inside[-1][1] + 200, 0)]:
        space = top - lowest - 2 * LANE
        lanes += [lowest + LANE + LANE * number for number in range(0, 1 + int(space // LANE), step)] if space >= 0 else []
        lowest = max(lowest, bottom)
    return lanes


def _apart(way: Sequence[Point], taken: Sequence[Point], distance: int) -> bool:
    return all(max(abs(dot[0] - other[0]), abs(dot[1] - other[1])) > distance for dot in way for other in taken)


def _length(start: Point, way: Sequence[Point], end: Point) -> float:
    return sum(math.dist(first, second) for first, second in pairwise([start, *way, end]))


@dataclass
class Dots:
    """The dots of all links, as a graph saves them."""

    saved: list[dict] = field(default_factory=list)
    ends: list[dict] = field(default_factory=list)

    def add(self, link: int, way: Sequence[Point]) -> None:
        """Add the dots of a link."""
        parent: dict[str, int] = {}
        for x, y in way:
            self.saved.append({"id": len(self.saved) + 1, **parent, "pos": [round(x), round(y)], "linkIds": [link]})
            parent = {"parentId": len(self.saved)}
        if parent:
            self.ends.append({"id": link, **parent})

    @property
    def points(self) -> list[Point]:
        """Positions of the reroutes."""
        return [(dot["pos"][0], dot["pos"][1]) for dot in self.saved]

    @property
    def extra(self) -> dict[str, list]:
        """The fields of a saved graph that hold the reroutes."""
        return {"reroutes": self.saved, "linkExtensions": self.ends} if self.saved else {}
