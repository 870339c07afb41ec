"""A palindrome walk: actions out and back in inverse order. Frame t of the way out must come again on the way back.

Which action undoes which is the world's own affair: `1:2,2:1` for turns, `0:1,1:0,2:1+1+2+1+1` where a step is undone
by turning round, stepping and turning round again. Recordings may carry it as the extra `inverse_actions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.rng import row_generators
from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from lssvwm.worldmodel.episodes.data import INVERSE_KEY
from lssvwm.worldmodel.evaluation.metrics.frames import psnr
from lssvwm.worldmodel.evaluation.models import Model
from lssvwm.worldmodel.evaluation.protocols.clips import Windows, read_windows
from lssvwm.worldmodel.evaluation.protocols.figures import plain_band
from lssvwm.worldmodel.evaluation.protocols.rollout import observe
from lssvwm.worldmodel.evaluation.protocols.trials import window
from lssvwm.worldmodel.evaluation.studies.study import Settings, Study, cell
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import WorldModel
from lssvwm.worldmodel.reporting.plots import Line, Plot
from lssvwm.worldmodel.reporting.statistics import FloatArray, by_unit, student_band

Inverse = Mapping[int, tuple[int, ...]]


@dataclass(frozen=True)
class Palindrome:
    """Walks out and back."""

    inverse: str = ""
    """Which actions undo which, such as 1:2,2:1 or 2:1+1+2+1+1; by default what the recording says."""
    steps: int = 16
    """Recorded actions on the way out; walks are taken where all of them can be undone, and each changed the frame."""


class Walks(NamedTuple):
    """Where walks begin, and how many others were left out of the episodes read, for a step that changed no pixel."""

    windows: Windows
    left_out: int


@dataclass(frozen=True)
class Back:
    """What a batch of rows is told on the way back, and where it must then be: all (B, L), rows filled up."""

    actions: Tensor  # int64
    active: Tensor  # bool: the row still acts
    reached: Tensor  # int64: the step of the way out that this frame undoes down to (0: its start), or -1


def walks_of(models: Sequence[Model], config: Palindrome, settings: Settings) -> tuple[Inverse, Walks]:
    """Which actions undo which, and the walks; an InputError says what a study of these models lacks."""
    if config.steps < 1:
        raise InputError(f"--palindrome.steps {config.steps}: give at least 1")
    for model in models:
        world = model.checkpoint.model.config
        if not world.num_actions or world.pose_size or world.chunk > 1:
            raise InputError(
                f"{model.name}: a palindrome walk takes a model that is told one action per frame and no pose; "
                "where a pose is told, --protocols retrieval walks back"
            )
    store, actions = models[0].store, min(model.checkpoint.model.config.num_actions for model in models)
    inverse = parse_inverse(config.inverse, actions) or inverse_of(store)
    return inverse, walks(store, inverse, config.steps, settings)


def palindrome(models: Sequence[Model], config: Palindrome, settings: Settings) -> Study:
    """The study: PSNR by steps undone, after a real way out and after a dreamt one."""
    store, (inverse, drawn) = models[0].store, walks_of(models, config, settings)
    windows = drawn.windows
    table = [("model", "way out", "all steps, dB", *(f"{n} back" for n in shown(config.steps)), "walks", "episodes")]
    figures: dict[str, Any] = {}
    lines: list[Line] = []
    for model in models:
        found = walk_back(model.checkpoint.model, model.store, windows, inverse, config.steps, settings, model.name)
        figures[model.name] = {}
        for way, values in zip(("real", "dreamt", "held"), found, strict=True):
            if way == "held":
                continue
            by_episode = by_unit(values, windows.episodes)
            figures[model.name][way] = plain_band(student_band(by_episode))
            table.append(line_of(model.name, way, values, windows, config.steps))
            lines.append(Line(f"{model.name}, {way} way out", range(1, config.steps + 1), student_band(by_episode)))
    table.append(line_of("last frame of the way out, held", "real", found[2], windows, config.steps))
    held = student_band(by_unit(found[2], windows.episodes))
    lines.append(Line("last frame of the way out, held", range(1, config.steps + 1), held, reference=True))
    about = (
        f"After {settings.context} real frames, {config.steps} recorded actions out and their inverses in inverse "
        f"order; PSNR of the frame that undoes n steps against the frame before them: the recorded one, or the dreamt "
        f"one where the way out was dreamt too. Inverse: {told(inverse)}; {drawn.left_out} walks of the episodes read "
        f"were left out, in which a step changed no pixel. {settings.steps} denoising steps. {len(models)} model(s), "
        f"{len(windows.episodes)} walks from {len(np.unique(windows.episodes))} of {len(store)} episodes; means and "
        "95 % intervals (Student's t) over episodes."
    )
    plot = Plot(lines, "steps undone", "PSNR of the frame that comes again, dB")
    return Study("palindrome", "Palindrome walk", about, table, figures, plot)


def line_of(name: str, way: str, values: FloatArray, windows: Windows, steps: int) -> tuple[str, ...]:
    """One line of the table: (walks, steps) PSNR as a whole and after some steps."""
    whole = student_band(by_unit(student_band(values.T).mean, windows.episodes))
    each = student_band(by_unit(values, windows.episodes))
    near = (cell(each, n - 1) for n in shown(steps))
    return (name, way, cell(whole), *near, str(len(values)), str(int(whole.count)))


def shown(steps: int) -> list[int]:
    """Numbers of steps that the table shows: 1, 2, 4, ... and the last."""
    return sorted({2**n for n in range(steps.bit_length()) if 2**n <= steps} | {steps})


def parse_inverse(text: str, actions: int) -> Inverse:
    """`1:2,2:1+1` as a mapping; empty for an empty text. An InputError for anything else, or an unknown action."""
    found: dict[int, tuple[int, ...]] = {}
    for item in filter(None, text.split(",")):
        try:
            done, undo = item.split(":")
            found[int(done)] = tuple(map(int, undo.split("+")))
        except ValueError as error:
            raise InputError(
                f"--palindrome.inverse {text!r}: {item!r} is not ACTION:ACTION or ACTION:ACTION+ACTION, such as 1:2,2:1"
            ) from error
        if unknown := [a for a in (int(done), *found[int(done)]) if not 0 <= a < actions]:
            raise InputError(f"--palindrome.inverse {text!r}: there is no action {unknown[0]}, only 0 to {actions - 1}")
    return found


def inverse_of(store: EpisodeStore) -> Inverse:
    """What the recording says; an InputError where it says nothing."""
    rows = store.read_array(store.names[0], INVERSE_KEY)
    if rows is None:
        raise InputError(
            f"{store.root / store.names[0]} does not say which actions undo which (extra '{INVERSE_KEY}'): give "
            "--palindrome.inverse, such as 1:2,2:1 where 1 and 2 are turns to either side"
        )
    return {action: tuple(row[row >= 0].tolist()) for action, row in enumerate(rows[0]) if (row >= 0).any()}


def told(inverse: Inverse) -> str:
    """A mapping as it is given on the command line."""
    return ",".join(f"{done}:{'+'.join(map(str, undo))}" for done, undo in sorted(inverse.items()))


def walks(store: EpisodeStore, inverse: Inverse, steps: int, settings: Settings) -> Walks:
    """Windows of `context` frames and `steps` actions that can all be undone, from as many episodes as it takes.

    Each is drawn once, episodes in random order and about as many from each, so that not all have to be read. Frames
    do not tell a step against a wall, which nothing has to undo, from one along a view that looks the same everywhere:
    walks with an action that changed no pixel are left out.
    """
    if settings.context < 1:
        raise InputError("--context 0: a walk begins after at least 1 real frame")
    length, found, left_out = settings.context + steps, list[tuple[int, int]](), 0
    generator, each = np.random.default_rng(settings.seed), -(-settings.clips // len(store))
    for number in generator.permutation(len(store)).tolist():
        episode = store.read(store.names[number])
        action, image = episode.action, episode.image
        undone = np.isin(action, list(inverse)) if action.ndim == 1 else np.zeros(len(action), bool)
        still = np.array([False, *((new == old).all() for new, old in zip(image[1:], image[:-1], strict=True))])
        # Over the steps of the walk that begins at each frame: how many can be undone, and how many changed nothing.
        starts = np.arange(max(0, len(action) - length + 1))
        counts = np.stack([undone, still]).cumsum(1)[:, [starts + settings.context - 1, starts + length - 1]]
        can, did_nothing = counts[:, 1] - counts[:, 0]
        able = starts[(can == steps) & (did_nothing == 0)]
        left_out += int((can == steps).sum()) - len(able)
        found += [(number, start) for start in generator.permutation(able)[:each].tolist()]
        if len(found) >= settings.clips:
            break
    if not found:
        raise InputError(
            f"{store.root}: nowhere {steps} actions in a row after {settings.context} frames are of {sorted(inverse)}, "
            f"the ones that can be undone, and each changed a pixel ({left_out} times one did not): give "
            "--palindrome.inverse for more of them, or fewer --palindrome.steps"
        )
    episodes, starts = np.array(found[: settings.clips], np.int64).T
    return Walks(Windows(episodes, starts, length), left_out)


def way_back(out: Clips, inverse: Inverse) -> Back:
    """The way back from `out` (B, steps + 1): the frame at which the walk begins, and the walk."""
    plans: list[list[tuple[int, int]]] = []
    for actions in out.actions.tolist():
        plan: list[tuple[int, int]] = []
        for step in range(len(actions) - 1, 0, -1):
            undo = inverse[actions[step]]
            plan += [(action, step - 1 if n == len(undo) - 1 else -1) for n, action in enumerate(undo)]
        plans.append(plan)
    shape = (len(plans), max(map(len, plans)))
    actions, reached = torch.zeros(shape, dtype=torch.int64), torch.full(shape, -1)
    for row, plan in enumerate(plans):
        for at, (action, step) in enumerate(plan):
            actions[row, at], reached[row, at] = action, step
    active = torch.arange(shape[1]) < torch.tensor([len(plan) for plan in plans])[:, None]
    return Back(actions, active, reached)


@torch.no_grad()
def walk_back(
    model: WorldModel,
    store: EpisodeStore,
    windows: Windows,
    inverse: Inverse,
    steps: int,
    settings: Settings,
    name: str = "",
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """PSNR by steps undone, (walks, steps) each: real way out, dreamt way out, and the last real frame held."""
    count = len(windows.episodes)
    found = np.full((3, count, steps), np.nan)
    for begin in tqdm(range(0, count, settings.rows), desc=f"palindrome: {name}", disable=not settings.progress):
        part = slice(begin, min(begin + settings.rows, count))
        clips = read_windows(store, windows.rows(part))
        back, rows = (
            way_back(window(clips, settings.context - 1, windows.length), inverse),
            range(part.start, part.stop),
        )
        clips, context = clips.to(model.device), settings.context
        out, begun = clips.frames[:, context - 1 :], observe(model, window(clips, 0, context), model.empty(len(rows)))
        real = observe(model, window(clips, context, windows.length), begun.memory).memory
        found[0, part] = undone(model, real, back, out, settings, rows)
        generators, memory, dreamt = row_generators(settings.seed, 1, rows, model.device), begun.memory, [out[:, 0]]
        for t in range(context, windows.length):
            new = model.imagine(clips.actions[:, t], memory, steps=settings.steps, generator=generators)
            memory = new.memory
            dreamt.append(new.frame)
        found[1, part] = undone(model, memory, back, torch.stack(dreamt, 1), settings, rows)
        found[2, part] = psnr(out[:, -1:].expand_as(out[:, :-1]), out[:, :-1]).flip(1).cpu().numpy()
    return found[0], found[1], found[2]


def undone(
    model: WorldModel, memory: Memory, back: Back, out: Tensor, settings: Settings, rows: Sequence[int]
) -> FloatArray:
    """Dream the way back from `memory`: PSNR against `out` (B, steps + 1, h, w, 3) by steps undone, (B, steps)."""
    generators = row_generators(settings.seed, 2, rows, model.device)
    found = np.full((len(out), out.shape[1] - 1), np.nan)
    for at in range(back.actions.shape[1]):
        active = back.active[:, at].to(model.device)
        new = model.imagine(
            back.actions[:, at].to(model.device), memory, steps=settings.steps, generator=generators, active=active
        )
        memory = new.memory
        for row, step in enumerate(back.reached[:, at].tolist()):
            if step >= 0:
                found[row, found.shape[1] - step - 1] = psnr(new.frame[row], out[row, step]).item()
    return found
