"""Places labels so that they cover nothing: beside their point if possible, else further away. Pure geometry, in
pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

REACHES = (1.0, 1.8, 2.8, 4.0, 5.5, 7.5, 10.0, 13.0)  # distances to try, in heights of the label
DIRECTIONS = (0, 180, 35, -35, 145, -145, 70, -70, 110, -110)  # in degrees
# The costs of a pixel outside the chart, and of a pixel of distance. A covered pixel costs 1.
OUTSIDE = 4.0
BENDING = 0.02


@dataclass(frozen=True)
class Box:
    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """Returns the area that both boxes cover, in square pixels."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.top, other.top) - max(self.bottom, other.bottom)
        # Two negative sides would have a positive product.
        if wide <= 0 or high <= 0:
            return 0.0
        return wide * high

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.top - self.bottom)

    @property
    def middle(self) -> tuple[float, float]:
        x = (self.left + self.right) / 2
        y = (self.bottom + self.top) / 2
        return x, y


@dataclass(frozen=True)
class Label:
    """The size of a text, and the point that it belongs to."""

    x: float
    y: float
    width: float
    height: float


def place_labels(labels: Sequence[Label], obstacles: Sequence[Box], room: Box) -> list[Box]:
    """Returns a box for each label, in their order: as close to its point as possible without covering another label or
    an obstacle, and inside `room`."""
    taken = list(obstacles)
    placed = []
    for label in labels:
        box = min(_boxes_around(label), key=lambda box: _cost(box, label, taken, room))
        taken.append(box)
        placed.append(box)
    return placed


def _boxes_around(label: Label) -> Iterator[Box]:
    for reach in REACHES:
        step = label.height * reach
        for degrees in DIRECTIONS:
            angle = math.radians(degrees)
            right = step * math.cos(angle)
            up = step * math.sin(angle)
            left = label.x + right
            if math.cos(angle) <= 0:
                # On the left of its point, a label ends there.
                left -= label.width
            bottom = label.y + up - label.height / 2
            yield Box(left, bottom, left + label.width, bottom + label.height)


def _cost(box: Box, label: Label, taken: Sequence[Box], room: Box) -> float:
    """Returns a cost that counts covered pixels most, then the distance from the point."""
    hidden = sum(box.overlap(other) for other in taken)
    outside = (box.area - box.overlap(room)) * OUTSIDE
    # The nearest point of the box, on the height of its middle, where the line to the label ends.
    x = min(max(label.x, box.left), box.right)
    _, y = box.middle
    distance = math.hypot(x - label.x, y - label.y)
    return hidden + outside + BENDING * distance
