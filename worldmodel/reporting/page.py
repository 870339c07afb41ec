"""`report.md`: every table of an evaluation with what it is of, and the pictures that belong to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lssvwm.worldmodel.common.atomic import write_text
from lssvwm.worldmodel.reporting.tables import Table, table

PAGE = "report.md"


@dataclass(frozen=True)
class Section:
    """What is told under a title (of the figures: episodes, unit of the intervals), a table, pictures by file name."""

    title: str
    about: str
    table: Table = ()
    pictures: tuple[str, ...] = ()

    def text(self) -> str:
        """As Markdown."""
        pictures = (f"![{self.title}]({name})" for name in self.pictures)
        parts = [f"## {self.title}", self.about, table(self.table) if self.table else "", *pictures]
        return "\n\n".join(filter(None, parts))


def write_page(folder: Path, title: str, command: str, about: str, sections: Sequence[Section]) -> str:
    """Write the page, at once; returns what it holds."""
    parts = [f"# {title}", f"```\n{command}\n```", about, *(section.text() for section in sections)]
    text = "\n\n".join(filter(None, parts)) + "\n"
    write_text(folder / PAGE, text)
    return text
