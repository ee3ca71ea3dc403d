"""Where things stand in a plotting area, in pixels: scales, and labels that do not cover one another."""

import math
from collections.abc import Iterable, Sequence

from msgspec import Struct

CHARACTER_PX = 6.4
"""Mean width of a character at the size of a label."""
LABEL_PX = 13
_GAP_PX = 9
_CORNER_PX = 5
_LOG_FROM = 20.0
_MARGIN = 0.06
_MOST_TICKS = 8
_FEWEST_TICKS = 3
_STEPS = ((1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 5), (1, 2, 5), (1,))


class Span(Struct, frozen=True):
    """The domain of one axis; logarithmic where values lie far apart."""

    low: float
    high: float
    log: bool = False

    def position(self, value: float) -> float:
        """Where a value stands, as a share of the axis."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def span(values: Iterable[float], *, may_log: bool = False) -> Span:
    """A domain that holds the values with some room; positive values more than 20-fold apart get a logarithmic one."""
    low, high = min(found := tuple(values)), max(found)
    if may_log and low > 0 and high / low > _LOG_FROM:
        room = (high / low) ** _MARGIN
        return Span(low / room, high * room, log=True)
    if low >= 0 and may_log:
        return Span(0.0, high * (1 + 2 * _MARGIN) or 1.0)
    room = (high - low or abs(high) or 1.0) * 2 * _MARGIN
    return Span(low - room, high + room)


def log_ticks(low: float, high: float) -> list[float]:
    """Round values of a logarithmic axis: as many steps of each power of ten as there is room for."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _STEPS:
        found = [_round(step * 10.0**power) for power in powers for step in steps if low <= step * 10.0**power <= high]
        if len(found) <= _MOST_TICKS:
            return found if len(found) >= _FEWEST_TICKS else _even_ticks(low, high)
    return [10.0**power for power in powers if low <= 10.0**power <= high]


def _even_ticks(low: float, high: float) -> list[float]:
    """Values at one round step, for a domain that few round values fall into."""
    power = 10.0 ** math.floor(math.log10(high - low))
    wide = (high - low) / power
    step = power * (0.2 if wide < 2 else 0.5 if wide < 4 else 1 if wide < 8 else 2)
    return [_round(index * step) for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _round(value: float) -> float:
    """Without what binary arithmetic leaves behind the twelfth digit, which would be printed."""
    return float(f"{value:.12g}")


class Box(Struct, frozen=True):
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Whether the two share any area."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def inside(self, width: float, height: float) -> bool:
        """Whether it lies within an area."""
        return self.left >= 0 and self.top >= 0 and self.right <= width and self.bottom <= height

    @property
    def centre(self) -> tuple[float, float]:
        """Its middle."""
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2


def labelled(
    points: Sequence[tuple[float, float, str]], width: float, height: float
) -> list[tuple[float, float, str] | None]:
    """For each point (x, y, text) in pixels the centre of its label, or None where none fits; earlier points choose first.

    A label stands at a corner of its point, else next to, above or below it, and covers neither a point nor another label.
    """
    taken = [Box(x - _CORNER_PX, y - _CORNER_PX, x + _CORNER_PX, y + _CORNER_PX) for x, y, _ in points]
    placed: list[tuple[float, float, str] | None] = []
    for x, y, text in points:
        room = (box for box in _around(x, y, text) if box.inside(width, height) and not any(map(box.meets, taken)))
        box = next(room, None)
        if box is None:
            placed.append(None)
            continue
        taken.append(box)
        placed.append((*box.centre, text))
    return placed


def _around(x: float, y: float, text: str) -> tuple[Box, ...]:
    wide, half, near, far = len(text) * CHARACTER_PX, LABEL_PX / 2, _CORNER_PX, _CORNER_PX + LABEL_PX
    return (
        Box(x + near, y - far, x + near + wide, y - near),
        Box(x + near, y + near, x + near + wide, y + far),
        Box(x - near - wide, y - far, x - near, y - near),
        Box(x - near - wide, y + near, x - near, y + far),
        Box(x + _GAP_PX, y - half, x + _GAP_PX + wide, y + half),
        Box(x - _GAP_PX - wide, y - half, x - _GAP_PX, y + half),
        Box(x - wide / 2, y - _GAP_PX - LABEL_PX, x + wide / 2, y - _GAP_PX),
        Box(x - wide / 2, y + _GAP_PX, x + wide / 2, y + _GAP_PX + LABEL_PX),
    )
