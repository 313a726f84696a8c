"""Parts of SVG images: every text is escaped, every number short, every colour a name of the page's style."""

from collections.abc import Sequence
from html import escape

from lightning_sparse.reporting.page.scales import Scale, number

__all__ = ["COLOURS", "Frame", "element", "image", "ramp", "shortened", "text"]

COLOURS = 7
"""So many colours the page's style has for lines: classes ``c0``, ``c1``, ..."""

_RAMP = ((31, 119, 205), (128, 132, 140), (213, 112, 20))
"""From the first layer to the last: blue, grey, orange; legible on white and on black, and to all eyes."""


def element(tag: str, content: str = "", **attributes: object) -> str:
    """Return an element; ``class_`` is its class, and other underlines are dashes.

    >>> element("rect", class_="bar", x=1.0, stroke_width=2)
    '<rect class="bar" x="1" stroke-width="2"/>'
    """
    names = (name.rstrip("_").replace("_", "-") for name in attributes)
    given = "".join(
        f' {name}="{escape(_value(value))}"' for name, value in zip(names, attributes.values(), strict=True)
    )
    return f"<{tag}{given}>{content}</{tag}>" if content else f"<{tag}{given}/>"


def text(words: str, x: float, y: float, anchor: str = "start", **attributes: object) -> str:
    """Return words at a place; what they hold is text, whatever it is."""
    return element("text", escape(words) or " ", x=x, y=y, text_anchor=anchor, **attributes)


def image(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """Return a whole image that is as wide as its place; ``title`` is read out in its stead."""
    return element(
        "svg",
        element("title", escape(title)) + "".join(parts),
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        role="img",
        aria_label=title,
    )


def shortened(name: str, letters: int) -> str:
    """Return a name, or its end, by which names of layers differ.

    >>> shortened("net.blocks.0.conv", 10), shortened("fc", 10)
    ('…ks.0.conv', 'fc')
    """
    return name if len(name) <= letters else f"…{name[len(name) - letters + 1 :]}"


def ramp(place: int, count: int) -> str:
    """Return the colour of one of many layers.

    >>> ramp(0, 3), ramp(1, 3), ramp(2, 3)
    ('#1f77cd', '#80848c', '#d57014')
    """
    share = 2 * place / max(1, count - 1)
    low = min(int(share), 1)
    mixed = (a + (b - a) * (share - low) for a, b in zip(_RAMP[low], _RAMP[low + 1], strict=True))
    return "#" + "".join(f"{round(value):02x}" for value in mixed)


class Frame:
    """The place of a chart within its image, with axes, ticks and grid.

    Args:
        width: Of the image.
        height: Of the image.
        x: Horizontal axis.
        y: Vertical axis.
    """

    left, right, top, bottom = 60.0, 12.0, 10.0, 42.0

    def __init__(self, width: float, height: float, x: Scale, y: Scale) -> None:
        self.width, self.height, self.x, self.y = width, height, x, y

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point lies."""
        inner = (self.width - self.left - self.right, self.height - self.top - self.bottom)
        return self.left + inner[0] * self.x(x), self.height - self.bottom - inner[1] * self.y(y)

    def axes(self, x_name: str, y_name: str, percent: bool = False, x_percent: bool = False) -> list[str]:
        """Return grid, ticks, their labels, and the names of both axes."""
        base, end = self.height - self.bottom, self.width - self.right
        parts = []
        for tick in self.y.ticks:
            _, y = self.at(self.x.low, tick)
            parts.append(element("line", class_="grid", x1=self.left, x2=end, y1=y, y2=y))
            parts.append(text(number(tick, percent), self.left - 6, y + 4, "end", class_="tick"))
        for tick in self.x.ticks:
            x, _ = self.at(tick, self.y.low)
            parts.append(element("line", class_="axis", x1=x, x2=x, y1=base, y2=base + 4))
            parts.append(text(number(tick, x_percent), x, base + 17, "middle", class_="tick"))
        middle = (self.left + end) / 2
        parts.append(element("line", class_="axis", x1=self.left, x2=end, y1=base, y2=base))
        parts.append(text(x_name, middle, self.height - 6, "middle", class_="name"))
        upright = (self.top + base) / 2
        turned = f"rotate(-90 11 {_value(upright)})"
        parts.append(text(y_name, 11, upright, "middle", class_="name", transform=turned))
        return parts


def _value(value: object) -> str:
    """Return a number with two decimals at most, and text as it is."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
