"""Rectangles on the canvas, as (left, top, right, bottom)."""

from itertools import combinations

TITLE_HEIGHT = 30


def box(x, y, width, height):
    return x, y, x + width, y + height


def node_box(pos, size):
    """Return a node's rectangle including the title, which is above its position."""
    return box(pos[0], pos[1] - TITLE_HEIGHT, size[0], size[1] + TITLE_HEIGHT)


def overlapping(boxes):
    """Return the pairs of names whose rectangles overlap."""
    return [pair for pair in combinations(boxes, 2) if _meet(boxes[pair[0]], boxes[pair[1]])]


def around(groups, inner):
    """Return the names of the rectangles that contain another one entirely."""
    left, top, right, bottom = inner
    return [name for name, g in groups.items() if g[0] <= left and g[1] <= top and right <= g[2] and bottom <= g[3]]


def _meet(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
