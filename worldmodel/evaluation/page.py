"""`report.md`: every table of an evaluation with what it is of, and the pictures that belong to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.evaluation.report import Table, aligned


@dataclass(frozen=True)
class Section:
    """A table under its title, what it is of (episodes, unit of the intervals), and pictures by file name."""

    title: str
    about: str
    table: Table
    pictures: tuple[str, ...] = ()

    def text(self) -> str:
        """For the terminal."""
        return f"{self.title}\n{aligned(self.table)}"

    def markdown(self) -> list[str]:
        """For the page."""
        head, *lines = (f"| {' | '.join(line)} |" for line in self.table)
        pictures = [f"\n![{self.title}]({name})" for name in self.pictures]
        return [f"## {self.title}", "", self.about, "", head, "|---" * len(self.table[0]) + "|", *lines, *pictures, ""]


def write_page(path: Path, command: str, models: str, sections: Sequence[Section]) -> None:
    """Write the page, at once."""
    lines = ["# Evaluation", "", "```", command, "```", "", models, ""]
    text = "\n".join([*lines, *(line for section in sections for line in section.markdown())])
    replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
