"""What was found, as Markdown: one line for every stage, then the figures of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.gpu.running import Outcome


def summary(outcomes: Sequence[Outcome], waiting: Sequence[str], heading: str) -> str:
    """The page; `waiting` names stages that have not run yet."""
    lines = [f"# {heading}", "", "| stage | what | came to | seconds | checks held |", "|---|---|---|---|---|"]
    for outcome in outcomes:
        checked = [finding for finding in outcome.findings if finding["ok"] is not None]
        held = f"{sum(finding['ok'] for finding in checked)} of {len(checked)}" if checked else ""
        lines.append(
            f"| {outcome.stage.name} | {outcome.stage.title} | {outcome.status} | {outcome.seconds:.0f} | {held} |"
        )
    lines += [f"| {name} | | not yet | | |" for name in waiting]
    for outcome in outcomes:
        if outcome.findings:
            lines += ["", f"## {outcome.stage.name}", "", "| figure | value | goal | |", "|---|---|---|---|"]
            lines += [row(finding) for finding in outcome.findings]
    return "\n".join(lines) + "\n"


def row(finding: Any) -> str:
    """One figure as a line of the table."""
    value = finding["value"]
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    held = {None: "", True: "holds", False: "**does not hold**"}[finding["ok"]]
    return f"| {finding['what']} | {shown} {finding['unit']} | {finding['goal']} | {held} |"
