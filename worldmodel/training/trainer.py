"""The training loop of a world model, on one device or many, that stops and goes on without a trace."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lssvwm.worldmodel.checkpoint import read_state, save_checkpoint, taking_up
from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.gradients import Skipping
from lssvwm.worldmodel.common.loggers import Scalars
from lssvwm.worldmodel.common.rng import row_generators
from lssvwm.worldmodel.common.stepping import Figures, deferred_interrupts, run_steps, settled
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.diffusion.noise import Draw
from lssvwm.worldmodel.episodes import Clips, EpisodeStore
from lssvwm.worldmodel.episodes.loader import ClipLoader, ClipSource, StepClips, StreamClips
from lssvwm.worldmodel.layers.memory import Memory
from lssvwm.worldmodel.layers.runtime import allow_shapes
from lssvwm.worldmodel.model import Counts, Losses, WorldModel
from lssvwm.worldmodel.training.carried import Carried
from lssvwm.worldmodel.training.config import MAY_CHANGE, TrainingConfig, check_same
from lssvwm.worldmodel.training.curriculum import Curriculum
from lssvwm.worldmodel.training.heads import HeadsConfig, fit_heads
from lssvwm.worldmodel.training.optimizers import make_optimizers, rate
from lssvwm.worldmodel.training.processes import processes

STATE = "training.pt"


@dataclass(frozen=True)
class Part:
    """Clips that are computed at once, and what chance decided about them."""

    clips: Clips
    drawn: Draw
    memory: Memory | None = None  # that the clips begin from; None: an empty one


class Trainer:
    """Trains `model` on `source` and keeps an averaged copy, `average`, which is the one to use.

    `out` receives the averaged weights as a checkpoint folder and `training.pt`, from which a new Trainer of the same
    configuration continues bit for bit as if it had never stopped (on CPU, with the same episodes).

    In several processes (`accelerate launch`, `torchrun`) each computes its rows of every step, and all end up with the
    weights that one process would have found, up to float error; only the main one writes to `out` and to `writer`. All
    need to see the same folders.
    """

    def __init__(
        self,
        model: WorldModel,
        source: ClipSource,
        config: TrainingConfig,
        out: Path,
        *,
        world: Mapping[str, Any],
        writer: Scalars | None = None,
    ) -> None:
        if config.decay and not config.steps:
            raise InputError(f"decay={config.decay} needs to know all steps of the training: set steps")
        self.processes = processes()
        self.rows = self.processes.share(config.batch, config.accumulate)
        self.model, self.source, self.config = model, source, config
        self.out, self.world, self.writer = out, world, writer
        self.parallel = self.processes.wrap(model)  # before the copy, as it may move the model
        self.average = copy.deepcopy(model).requires_grad_(False)
        model.backbone.recompute = config.checkpoint_layers
        if config.compile:
            compile_layers(model)
        self.optimizers = make_optimizers(model, config)
        self.step, self.whole, self.progress = 0, True, False
        self.fitted: dict[str, float] = {}  # when the heads were fitted last, and how well
        self.recent: list[dict[str, float]] = []
        self.skipping = Skipping("resume to try others, or train anew with lower muon_lr and adam_lr, or in float32")
        self.carried = Carried(model, source, config, self.rows, self.processes) if config.carry else None
        clips: StepClips | StreamClips = (
            self.carried.clips if self.carried else StepClips(source, config.seed, self.rows, config.stages.length)
        )
        self.loader = ClipLoader(clips, config.workers, pin=model.device.type == "cuda")
        if (out / STATE).exists():
            self.load()
        self.processes.agree(self.step, f"the step that {out / STATE} stands at")  # and nobody saves before all looked

    def train(self, until: int, *, progress: bool = True) -> dict[str, float]:
        """Train up to step `until` and save; returns means over the last hundred steps at most.

        An interruption saves before it is passed on, so nothing is lost.
        """
        config, main = self.config, self.processes.main
        self.progress = progress and main
        if config.decay and until > config.steps:
            raise InputError(f"step {until} lies past the {config.steps} steps that decay={config.decay} ends with")
        try:
            return run_steps(
                self,
                until,
                name="world_model",
                unit="step",
                units=1,
                shown=("loss", "diffusion", "reward", "termination", *(("length",) if config.curriculum else ())),
                every=20,
                save_seconds=config.save_seconds,
                writer=self.writer if main else None,
                progress=self.progress,
            )
        finally:
            self.loader.close()

    def fit_heads(self, store: EpisodeStore, config: HeadsConfig) -> dict[str, float]:
        """Fit the heads to all of `store` (`training.heads`), save, and return their losses; once at any step."""
        if config.steps and self.fitted.get("heads_step") != self.step:
            figures: dict[str, float] = {}
            if self.processes.main:
                seed = (self.config.seed << 32) + self.step
                with deferred_interrupts() as interrupt:
                    figures = fit_heads(
                        self.average, store, config, seed=seed, progress=self.progress, between=interrupt
                    )
            self.processes.same(self.average)
            for ours, best in zip(self.model.heads, self.average.heads, strict=True):
                ours.load_state_dict(best.state_dict())
            self.fitted = {**figures, "heads_step": float(self.step)}
            self.save()
        return dict(self.fitted)

    def train_step(self) -> Figures:
        """One optimiser step; returns its losses and gradient norm, unless it was skipped as that is not finite."""
        self.skipping.check()
        self.model.train()
        self.whole = self.processes.count == 1  # where one fails alone, the others do not come to save with it
        parts = self.parts()
        self.whole = False
        losses = self.backward(parts)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        # The same in all processes, whose gradients have been averaged.
        usable = self.skipping.usable(norm)
        share, length = rate(self.step, self.config), parts[0].clips.mask.shape[1]
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * share
            if usable:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.carried:
            # What had no finite gradient is nothing to go on from.
            self.carried.memory = losses.memory if usable else None
        if usable:
            self.model.readout.standardise.update(self.processes.total)
        else:
            self.model.readout.standardise.pending = None
        self.step += 1
        self.update_average()
        self.whole = True
        figures: dict[str, Tensor | float] = {"skipped": float(not usable)}
        if self.config.curriculum:
            figures["length"] = float(length)
        if usable:
            heads = {name: getattr(losses, name) for name in ("diffusion", "reward", "termination")}
            figures |= {"loss": losses.total, **heads, "grad_norm": norm.detach()}
        return figures

    def parts(self) -> list[Part]:
        """This process's share of the step's clips, in the parts that are computed one after the other."""
        device, size = self.model.device, len(self.rows) // self.config.accumulate
        clips = self.loader.clips(self.step).to(device)
        generators = row_generators(self.config.seed, self.step, self.rows, device)
        memory = self.carried.start(self.step) if self.carried else None
        found = []
        for begin in range(0, len(self.rows), size):
            rows = slice(begin, begin + size)
            share = clips.rows(rows)
            start = None if memory is None else memory.select(rows)
            found.append(Part(share, self.model.draw(share, generators[rows]), start))
        return found

    def backward(self, parts: list[Part]) -> Losses:
        """Leave the gradient of the whole step's loss in the weights, and return that loss, over all processes."""
        counts = [stacked(self.model.counts(part.clips, part.drawn)) for part in parts]
        whole = Counts(*self.processes.total(torch.stack(counts).sum(0)))
        half = self.config.precision == "bfloat16"
        carry = self.carried is not None and self.carried.clips.carries(self.step)
        found, memories = [], []
        for part in parts:
            last = part is parts[-1]
            with (
                nullcontext() if last else self.processes.apart(self.parallel),
                torch.autocast(self.model.device.type, torch.bfloat16, enabled=half),
            ):
                losses = self.parallel(part.clips, part.drawn, whole, part.memory, carry)
                # Every process has its part of the sum, and their gradients are averaged.
                torch.autograd.backward(losses.total * self.processes.count)
            found.append(stacked(losses).detach())
            memories.append(losses.memory)
        memory = Memory.cat(memories) if carry else None
        total, diffusion, reward, termination = self.processes.total(torch.stack(found).sum(0))
        return Losses(total, diffusion, reward, termination, memory)

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the average towards the weights; faster at first, while the weights are still far from useful."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        for mean, current in zip(self.average.buffers(), self.model.buffers(), strict=True):
            mean.copy_(torch.lerp(mean, current, 1 - decay) if mean.is_floating_point() else current)

    def prepare(self) -> None:
        """Fit the tokenizer, and what is worked out from actions, to a sample of real frames."""
        if bool(self.model.tokenizer.fitted):
            return
        self.whole, path = self.processes.count == 1, self.model.backbone.path
        if self.processes.main:
            length = self.config.stages.length(0)
            generator = np.random.default_rng((self.config.seed, 0, 0, 1))  # no row of any step draws from this one
            clips = self.source.sample(max(1, self.config.fit_frames // length), length, generator)
            if path is not None:  # first, as a tokenizer that is fitted says that all of this is done
                print(path.fit(clips.to(self.model.device), self.config.seed))
            frames = clips.frames[clips.mask].to(self.model.device)
            self.model.tokenizer.fit(frames, seed=self.config.seed, progress=self.progress)
        self.processes.same(self.model.tokenizer)
        if path is not None:
            self.processes.same(path)
        self.average.load_state_dict(self.model.state_dict())
        self.whole = True

    @property
    def alone(self) -> bool:
        """Whether it trains in one process."""
        return self.processes.count == 1

    def agree(self, number: int) -> int:
        """The largest number of all processes'."""
        return self.processes.largest(number)

    def save(self) -> None:
        """Write the averaged weights and the state to resume from, in the main process; all others wait for it."""
        self.whole = self.processes.count == 1  # where writing fails, the others do not come to save again
        carried = self.carried.state_dict(self.step) if self.carried else None
        if self.processes.main:
            self.write(carried)
        self.processes.wait()
        self.whole = True

    def write(self, carried: Mapping[str, Any] | None) -> None:
        """Write what `save` does, with what the rows of all processes carry."""
        save_checkpoint(self.out, self.average, world=self.world, step=self.step)
        state = {
            "step": self.step,
            "fitted": self.fitted,
            "recent": self.recent,
            "config": asdict(self.config),
            "model_config": self.model.config.to_dict(),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "carried": carried,
        }
        replace(self.out / STATE, lambda path: torch.save(state, path))

    def load(self) -> None:
        """Continue from `training.pt`; refuses one of another configuration, naming what differs."""
        path = self.out / STATE
        state = read_state(path, torch.device("cpu"))  # there is room for the memory of all processes' rows
        with taking_up(path):
            made = WorldModelConfig.from_dict(state["model_config"])
            check_same(path, made.to_dict(), self.model.config)
            but = MAY_CHANGE
            done = Curriculum.parse(state["config"]["curriculum"], state["config"]["length"])
            if done.agrees(self.config.stages, max(1, state["step"])):
                but += ("curriculum",)  # what lies behind is as it would have been
            check_same(path, state["config"], self.config, but=but)
            self.step, self.fitted, self.recent = state["step"], state["fitted"], settled(state["recent"])
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            if self.carried:
                self.carried.load_state_dict(self.step, state["carried"])


def compile_layers(model: WorldModel) -> None:
    """Compile the layers one by one: those that are alike share the work, which a whole stack would repeat."""
    # One for each kind of layer, length of clips, and way in which memory is taken up and left behind, or torch would
    # give up on the later ones.
    allow_shapes()
    for layer in model.backbone.layers:
        layer.compile(dynamic=False)


def stacked(scalars: Counts | Losses) -> Tensor:
    """All of them in one vector."""
    return torch.stack([value for value in vars(scalars).values() if isinstance(value, Tensor)])
