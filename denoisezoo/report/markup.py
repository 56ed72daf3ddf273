"""Small pieces of HTML. Text enters a page through functions that escape it; `Html` is text that is safe already."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from denoisezoo.report.theme import Style

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Html(str):
    """Markup: put into a page as it is."""

    __slots__ = ()


def text(content: object) -> Html:
    """`content` as markup: escaped, unless it is markup already."""
    return content if isinstance(content, Html) else Html(escape(str(content)))


def join(parts: Iterable[object]) -> Html:
    """Parts one after the other, each escaped unless it is markup."""
    return Html("".join(text(part) for part in parts))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """An element. `class_` is the attribute class, `data_v` is data-v; an attribute that is None is left out."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{shown}>{join(content)}</{name}>")


def facts(pairs: Mapping[str, Any]) -> Html:
    """A list of terms and their values."""
    return tag("dl", *(tag("div", tag("dt", plain(key)), tag("dd", said(value))) for key, value in pairs.items()))


def plain(key: str) -> str:
    """A key as words: `peak_memory` is peak memory."""
    return key.replace("_", " ")


def said(value: object) -> str:
    """A value as a reader says it: yes, no, a dash for none, numbers with thousands apart."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == "":
        return "–"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def mark(style: Style) -> Html:
    """The shape of a family in its colour."""
    path = Html(f'<path d="{style.path}"></path>')
    return tag("svg", path, class_="mark", viewBox="0 0 12 12", style=f"fill:{style.colour}", aria_hidden="true")


def named(style: Style, name: str) -> Html:
    """A denoiser's name behind its family's shape."""
    return tag("span", mark(style), tag("strong", name), class_="named")


def table_box(table: Html, label: str) -> Html:
    """A table in a box of its own that scrolls sideways, also by keyboard."""
    return tag("div", table, class_="box", role="region", tabindex=0, aria_label=label)


def code(command: str) -> Html:
    """A command with a button that copies it."""
    button = tag("button", "Copy", type="button", class_="copy")
    return tag("div", tag("pre", tag("code", command), tabindex=0), button, class_="code")


@dataclass(frozen=True)
class Png:
    """A PNG file: its bytes and its size in pixels."""

    data: bytes
    width: int
    height: int

    def image(self, alt: str) -> Html:
        """The picture, within the page itself."""
        source = "data:image/png;base64," + base64.b64encode(self.data).decode("ascii")
        return Html(f'<img src="{source}" alt="{escape(alt)}" width="{self.width}" height="{self.height}">')


def read_png(path: Path) -> Png | None:
    """The PNG at `path`; None when there is none that can be read."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if len(data) < 24 or not data.startswith(PNG_SIGNATURE):
        return None
    width, height = struct.unpack(">II", data[16:24])
    return Png(data, width, height)
