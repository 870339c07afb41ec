"""What memory holds of the world: probes for its layout and for positions (Memory Maze's offline benchmark).

Pasukonis et al. 2022, section on offline probing: freeze the model, let it watch recorded episodes, and train probes
to tell from its state what the recording knows of the world: the walls of the whole maze, where objects are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from lssvwm.worldmodel.evaluation.probing.probes import Examples, ProbeConfig, ProbeKind, ProbeResult, fit_probe
from lssvwm.worldmodel.evaluation.protocols.clips import IntArray, Windows, draw_windows, read_windows
from lssvwm.worldmodel.evaluation.protocols.rollout import observe
from lssvwm.worldmodel.evaluation.protocols.trials import window
from lssvwm.worldmodel.layers.backbone import Hidden
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.model import WorldModel

SKETCH = 16_384
"""Numbers kept of a larger state: sums of its entries with random signs, which keep inner products (count sketch,
Charikar et al. 2002)."""


@dataclass(frozen=True)
class Probed:
    """A probe for `target`, trained on `reading`: `features` (what policies read), `recall` (what every scan's state
    answered at the last frame) or `state` (the states of all scans); the latter two only in models with a scan.
    """

    target: str
    reading: str
    result: ProbeResult
    ages: tuple[int, ...]
    """Frames that the model had seen at each of `result.scores`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"target": self.target, "reading": self.reading, "ages": list(self.ages), **asdict(self.result)}


class Split(NamedTuple):
    """Indices of episodes, none of them in two parts."""

    train: IntArray
    validation: IntArray
    test: IntArray


class Looked(NamedTuple):
    """Where probes look and what for, of the episodes that train, validate and judge them."""

    drawn: Sequence[Windows]
    times: Sequence[int]
    wanted: Mapping[str, Sequence[Tensor]]
    beside: Sequence[Tensor]
    """What they are told besides the reading."""


def probe_memory(
    model: WorldModel,
    store: EpisodeStore,
    targets: Sequence[str],
    *,
    context: int,
    clips: int,
    reads: int = 4,
    whole: bool = False,
    given: Sequence[str] = (),
    config: ProbeConfig | None = None,
    seed: int = 0,
    rows: int = 16,
    progress: bool = False,
) -> list[Probed]:
    """Probe for each of `targets`, extras of the episodes: whole numbers or booleans are classified, floats regressed.

    The model watches `clips` windows of `context` frames; its memory is read `reads` times over their second half.
    Three fifths of the episodes train, one fifth validates, one is held out for the figures. `whole`: windows begin
    with their episodes and are read over all of their length, so that scores show how knowledge grows; the score as a
    whole is still that of the second half. Extras `given` are told to the probe beside the reading. An `InputError`
    names extras that are missing or no numbers.
    """
    drawn, times, wanted, beside = looked_for(
        model, store, targets, context=context, clips=clips, reads=reads, whole=whole, given=given, seed=seed
    )
    sketch = Sketch(seed)
    readings = [
        read_memory(model, read_windows(store, each), times, sketch, rows=rows, progress=progress) for each in drawn
    ]
    groups = [torch.arange(at, len(beside[2]), len(times)) for at in range(len(times))]
    late = torch.cat([group for group, time in zip(groups, times, strict=True) if 2 * (time + 1) > context])
    ages, results = tuple(time + 1 for time in times), []
    for key, of in wanted.items():
        for reading in readings[0]:
            inputs = [torch.cat([r[reading], told], 1) for r, told in zip(readings, beside, strict=True)]
            train, validation, test = (Examples(i, t) for i, t in zip(inputs, of, strict=True))
            for kind in get_args(ProbeKind):
                found = fit_probe(kind, train, validation, test, config, groups=[late, *groups])
                score, *scores = found.scores
                base, *bases = found.bases
                found = replace(found, score=score, base=base, scores=tuple(scores), bases=tuple(bases))
                results.append(Probed(key, reading, found, ages))
    return results


def looked_for(
    model: WorldModel,
    store: EpisodeStore,
    targets: Sequence[str],
    *,
    context: int,
    clips: int,
    reads: int,
    whole: bool,
    given: Sequence[str],
    seed: int,
) -> Looked:
    """What probes are trained on besides the readings, told as `probe_memory`; an InputError says what is lacking."""
    generator = np.random.default_rng(seed)
    split = split_episodes(len(store), generator)
    times = read_times(context, reads, model.config.chunk, whole=whole)
    start: Literal["any", "episode"] = "episode" if whole else "any"
    shares = (0.6, 0.2, 0.2)
    drawn = [
        draw_windows(store, max(1, round(share * clips)), context, generator, start=start, among=part)
        for share, part in zip(shares, split, strict=True)
    ]
    wanted = {key: [targets_of(store, each, times, key) for each in drawn] for key in targets}
    return Looked(drawn, times, wanted, [numbers_of(store, each, times, given) for each in drawn])


def numbers_of(store: EpisodeStore, windows: Windows, times: Sequence[int], keys: Sequence[str]) -> Tensor:
    """Extras `keys` at every read of every window, side by side: (windows * reads, n) float32, n may be 0."""
    parts = (targets_of(store, windows, times, key) for key in keys)
    flat = [part.reshape(len(part), -1).float() for part in parts]
    return torch.cat(flat, 1) if flat else torch.zeros(len(windows.episodes) * len(times), 0)


def split_episodes(count: int, generator: np.random.Generator) -> Split:
    """Episodes in random order, about 3 : 1 : 1, at least one in each part. Fewer than 3 are an `InputError`."""
    if count < 3:
        raise InputError(f"probing needs 3 episodes or more, to hold some out; there are {count}: record more")
    order, part = generator.permutation(count), max(1, count // 5)
    return Split(order[2 * part :], order[part : 2 * part], order[:part])


def read_times(context: int, reads: int, chunk: int, *, whole: bool = False) -> list[int]:
    """Frames after which memory is read: the last ones of `reads` equal parts of the second half, or of the `whole`
    context, in whole chunks.
    """
    ends = np.linspace(0 if whole else context / 2, context, reads + 1)[1:]
    times = sorted({int(end // chunk) * chunk - 1 for end in ends})
    if times[0] < 0:
        raise InputError(f"a context of {context} frames is too short to probe: use at least {2 * chunk}")
    return times


def targets_of(store: EpisodeStore, windows: Windows, times: Sequence[int], key: str) -> Tensor:
    """Extra `key` at every read of every window: (windows * reads, ...), int64 or float32.

    An extra with one entry per frame is taken at the frame, any other holds for the whole episode.
    """
    values: list[np.ndarray[Any, Any]] = []
    for number, start in zip(windows.episodes, windows.starts, strict=True):
        name = store.names[number]
        episode = store.read(name)
        if key not in episode.extras:
            raise InputError(
                f"{store.root / name} has no extra '{key}' to probe for, only {sorted(episode.extras)}: "
                "record with extra_obs, or name another"
            )
        array = np.asarray(episode.extras[key])
        if array.dtype.kind not in "biuf":
            raise InputError(f"{store.root / name}: '{key}' is {array.dtype}, probes need numbers")
        per_frame = array.shape[:1] == (len(episode.image),)
        here = [array[start + time] if per_frame else array for time in times]
        if values and here[0].shape != values[0].shape:
            raise InputError(
                f"{store.root / name}: '{key}' has shape {here[0].shape}, {values[0].shape} elsewhere: "
                "a probe needs the same shape in every episode"
            )
        values += here
    stacked = np.stack(values)
    return torch.from_numpy(stacked.astype(np.float32 if stacked.dtype.kind == "f" else np.int64))


@torch.no_grad()
def read_memory(
    model: WorldModel,
    clips: Clips,
    times: Sequence[int],
    sketch: Sketch,
    *,
    rows: int = 16,
    progress: bool = False,
) -> Mapping[str, Tensor]:
    """Readings (clips * reads, size), float32 on the CPU, by name: memory after each of the frames `times`."""
    found: dict[str, list[Tensor]] = {}
    count = len(clips.mask)
    for begin in tqdm(range(0, count, rows), desc="read memory", unit="batch", disable=not progress):
        part = clips.rows(slice(begin, begin + rows)).to(model.device)
        memory, done = model.empty(len(part.mask)), 0
        reads: dict[str, list[Tensor]] = {}
        for time in times:
            with recalled(model) as recall:
                seen, memory = observe(model, window(part, done, time + 1), memory)
            done = time + 1
            reads.setdefault("features", []).append(seen[-1].features[:, -1])
            for name, tensors in (("recall", [each[:, -1] for each in recall[-1]]), ("state", states(memory))):
                if tensors:
                    flat = torch.cat([each.flatten(1) for each in tensors], 1)
                    reads.setdefault(name, []).append(sketch(name, flat))
        for name, values in reads.items():
            found.setdefault(name, []).append(torch.stack(values, 1).flatten(0, 1).float().cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def states(memory: Memory) -> list[Tensor]:
    """The states of all scans, rows first."""
    return [layer.scan.state for layer in memory.layers if layer.scan is not None]


@contextmanager
def recalled(model: WorldModel) -> Iterator[list[Sequence[Tensor]]]:
    """Gather what the scans recall while the model observes inside: one entry per call of its layers."""
    gathered: list[Sequence[Tensor]] = []

    def note(module: torch.nn.Module, inputs: tuple[Any, ...], hidden: Hidden) -> None:
        gathered.append(hidden.recall)

    handle = model.backbone.register_forward_hook(note)
    try:
        yield gathered
    finally:
        handle.remove()


class Sketch:
    """Vectors of more than `SKETCH` numbers made that short, the same way every time for the same name."""

    def __init__(self, seed: int, size: int = SKETCH) -> None:
        self.seed, self.size = seed, size
        self.plans: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, name: str, values: Tensor) -> Tensor:
        """Values (B, n) -> (B, min(n, size))."""
        width = values.shape[1]
        if width <= self.size:
            return values
        if name not in self.plans:
            source = torch.Generator().manual_seed(self.seed)
            bucket = torch.randint(self.size, (width,), generator=source)
            sign = torch.randint(2, (width,), generator=source) * 2 - 1
            self.plans[name] = (bucket.to(values.device), sign.to(values.device, values.dtype))
        bucket, sign = self.plans[name]
        return values.new_zeros(len(values), self.size).index_add(1, bucket, values * sign)
