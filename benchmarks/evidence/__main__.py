"""`make evidence`: for every claim the runs that show it or do not, judged, with tables and plots in docs/evidence.md.

    python -m benchmarks.evidence [CLAIM ...] [--list] [--quick] [--seeds 5] [--published] [--jobs 1] [--out DIR]

Runs are done by the project's own commands, which are printed, `--jobs` of them at once. What is done is not done
again: after Ctrl-C, `kill` or a failure the same command goes on where it stopped. All that was judged stands in
docs/evidence/CLAIM.json; `--published` counts what stands there already, from other machines and days.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence.claims import CLAIMS, SEEDS, claims
from benchmarks.evidence.commands import Process, Start
from benchmarks.evidence.results import judged, published, read, usable, write
from benchmarks.evidence.running import Plan, check, commands, show
from benchmarks.evidence.table import overview, plots, rows, section
from benchmarks.shared.page import fill
from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.command_line import run_main
from lssvwm.worldmodel.common.errors import InputError

INTERRUPTED = "interrupted; everything so far is saved: the same command goes on"
PAGE = Path("docs/evidence.md")


def main(args: Sequence[str] | None = None, *, start: Start = Process, page: Path = PAGE) -> None:
    """Show what is asked for; `start` runs commands, `page` receives the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="CLAIM", help=f"of {', '.join(CLAIMS)}; none: all")
    parser.add_argument("--list", action="store_true", help="say what there is; of claims that are named, the commands")
    parser.add_argument("--quick", action="store_true", help="one seed of tiny sizes, to see that it works: no results")
    parser.add_argument("--seeds", type=int, help=f"runs of each method, {SEEDS} unless told; they may grow")
    parser.add_argument("--published", action="store_true", help="do only the seeds that docs/evidence/ has not")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each in one thread; no more than cores")
    parser.add_argument("--out", type=Path, help="folder of the runs; runs/evidence, with --quick runs/evidence-quick")
    options = parser.parse_args(args)
    if options.quick and options.seeds not in (None, 1):
        raise InputError(f"--seeds {options.seeds}: --quick is one seed, leave one out")
    if options.quick and options.published:
        raise InputError("--published: --quick makes no results, leave one out")
    seeds = options.seeds if options.seeds is not None else 1 if options.quick else SEEDS
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: give at least 1")
    if options.jobs < 1:
        raise InputError(f"--jobs {options.jobs}: give at least 1")
    out = options.out or Path("runs/evidence-quick" if options.quick else "runs/evidence")
    plan = Plan(out, seeds, options.quick, options.jobs)
    chosen = claims(tuple(options.names))
    if options.list:
        print("\n".join(overview({claim.name: claim for claim in chosen}, seeds)))
        for claim in chosen if options.names else ():
            for words in commands(claim, plan):
                print(shlex.join(["python", *words]))
        return
    if options.quick and not options.names:
        chosen = [claim for claim in chosen if not claim.minetest]
    there = {claim.name: read(published(page, claim), claim) for claim in chosen if not plan.quick}
    known = {c.name: usable(there[c.name], c, plan) if options.published else {} for c in chosen}
    for claim in chosen:
        if not plan.covered(claim, known[claim.name]):
            check(claim)
    for claim in chosen:
        show(claim, plan, start, known=known[claim.name])
        results = known[claim.name] | judged(claim, plan, known[claim.name])
        made, folder = rows(claim, plan, results), plan.folder(claim)
        folder.mkdir(parents=True, exist_ok=True)
        table = section(claim, plan, made, plots(claim, made, folder, "evidence"))
        replace(folder / "table.md", lambda path, table=table: path.write_text("\n".join([*table, ""])))
        print("\n".join(table))
        if not plan.quick:
            write(published(page, claim), there[claim.name] | results)
            fill(page, claim.name, section(claim, plan, made, plots(claim, made, page.parent, page.stem)))
            print(f"table: {page}")


if __name__ == "__main__":
    run_main(main, INTERRUPTED)
