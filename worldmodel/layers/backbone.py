"""The stack of layers: block-wise scan, frame-local attention, feed-forward; all modulated by the frame's condition."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.layers.attention import FrameLocalAttention, Rotary, check_chunks, rotary_embedding
from lssvwm.worldmodel.layers.conditioning import Condition, Goal, Place
from lssvwm.worldmodel.layers.dead_reckoning import DeadReckoning
from lssvwm.worldmodel.layers.fused import gelu
from lssvwm.worldmodel.layers.mamba import BlockwiseMamba
from lssvwm.worldmodel.layers.memory import LayerMemory, Memory
from lssvwm.worldmodel.layers.mixer import make_mixer
from lssvwm.worldmodel.layers.path_integration import PathIntegration
from lssvwm.worldmodel.layers.runtime import Chosen, Runtime, choose_attention, choose_scan
from lssvwm.worldmodel.layers.teacher_forcing import deinterleaved, interleaved


class LayerOutput(NamedTuple):
    """One layer's outputs (B, T, S, D), its recall (B, T, N, channels) where it has a scan, and its memory."""

    x: Tensor
    recall: Tensor | None
    memory: LayerMemory


class Hidden(NamedTuple):
    """What the stack makes of T frames: one vector per token (B, T, S, D), the recall of every layer with a scan
    (B, T, N, channels), and the memory after the last frame.
    """

    tokens: Tensor
    recall: tuple[Tensor, ...]
    memory: Memory


class Gelu(nn.Module):
    """GELU in its tanh form."""

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)."""
        return gelu(x)


class Layer(nn.Module):
    """Up to three residual parts, each with AdaLN-zero: shift, scale and gate from the condition (paper, section 3)."""

    def __init__(self, config: WorldModelConfig, index: int) -> None:
        super().__init__()
        self.scan = make_mixer(config, index)
        self.attention = None if config.window == 0 else FrameLocalAttention(config)
        hidden = int(config.dim * config.mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(config.dim, hidden), Gelu(), nn.Linear(hidden, config.dim))
        self.norm = nn.LayerNorm(config.dim, elementwise_affine=False)
        self.modulation = nn.Linear(config.dim, 9 * config.dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def empty(self, rows: int, like: Tensor) -> LayerMemory:
        """Memory of `rows` dreams that have seen nothing."""
        return LayerMemory(
            self.scan.empty(rows, like) if self.scan else None,
            self.attention.empty(rows, like) if self.attention else None,
        )

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        memory: LayerMemory,
        seen: Tensor,
        rotary: Rotary | None,
        *,
        slots_full: bool,
        advance: bool,
        in_place: bool,
        teacher_forcing: bool,
    ) -> LayerOutput:
        """x (B, T, S, D), condition (B, T, D), `seen` (B,) frames before x.

        `rotary`, `slots_full` as in `FrameLocalAttention`; all else as in `Backbone`.
        """
        parts = self.modulation(condition)[:, :, None].chunk(9, -1)  # 9 x (B, T, 1, D)
        scan, window, recall = memory.scan, memory.window, None
        if self.scan is not None and scan is not None:
            shift, scale, gate = parts[0:3]
            mixed, recall, scan = self.scan(
                self.modulate(x, shift, scale),
                scan,
                advance=advance,
                in_place=in_place,
                teacher_forcing=teacher_forcing,
            )
            x = torch.addcmul(x, gate, mixed)
        if self.attention is not None and window is not None:
            shift, scale, gate = parts[3:6]
            mixed, window = self.attention(
                self.modulate(x, shift, scale),
                window,
                seen,
                rotary=rotary,
                slots_full=slots_full,
                advance=advance,
                teacher_forcing=teacher_forcing,
            )
            x = torch.addcmul(x, gate, mixed)
        shift, scale, gate = parts[6:9]
        x = torch.addcmul(x, gate, self.mlp(self.modulate(x, shift, scale)))
        return LayerOutput(x, recall, LayerMemory(scan, window))

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Adaptive layer norm."""
        return torch.addcmul(shift, self.norm(x), 1 + scale)


class Backbone(nn.Module):
    """Latents, noise levels and actions in; one hidden vector per token out."""

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.patch_in = nn.Linear(config.latent_channels, config.dim)
        self.position = nn.Parameter(torch.randn(config.tokens, config.dim) * 0.02)
        self.condition = Condition(config)
        self.place = Place(config) if config.known_pose else None
        self.goal = Goal(config.told, config.dim) if config.told else None
        self.told_size = config.told_size
        self.path: PathIntegration | DeadReckoning | None = None
        if config.path_integration or config.dead_reckoning:
            self.path = (PathIntegration if config.path_integration else DeadReckoning)(config)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.layers))
        self.grid, self.chunk, self.head_size = config.grid, config.chunk, config.dim // config.heads
        self.runtime = Runtime()
        self.recompute = False  # set by the Trainer: trade time for memory where gradients are wanted

    def use(self, runtime: Runtime) -> None:
        """Compute with these implementations and this window from now on; copies of the model take them along.

        Raises InputError or MissingExtraError where one that is asked for by name cannot run on the model's device,
        and InputError for a window that the model was not trained with.
        """
        if runtime.window is not None and not any(layer.attention for layer in self._layers):
            raise InputError(f"window={runtime.window}: this model has no attention whose window could be set")
        self._chosen(runtime)
        for layer in self._layers:
            if layer.attention is not None:
                layer.attention.use(runtime)
            if isinstance(layer.scan, BlockwiseMamba):
                layer.scan.choice = runtime.scan
        self.runtime = runtime

    @property
    def chosen(self) -> Chosen:
        """What the runtime's choices come to where the model is."""
        return self._chosen(self.runtime)

    def _chosen(self, runtime: Runtime) -> Chosen:
        device, dtype = self.position.device.type, self.position.dtype
        attention = choose_attention(runtime.attention, device, dtype, self.head_size)
        return Chosen(choose_scan(runtime.scan, device, dtype), attention)

    @property
    def _layers(self) -> list[Layer]:
        return [layer for layer in self.layers if isinstance(layer, Layer)]

    @property
    def scans(self) -> list[tuple[int, int]]:
        """(tiles, channels of the recall) of every layer that has a scan."""
        layers = [layer.scan for layer in self._layers]
        return [(scan.tiles, scan.inner) for scan in layers if scan is not None]

    def empty(self, rows: int) -> Memory:
        """Memory of `rows` dreams that have seen nothing."""
        like = self.position
        layers = tuple(layer.empty(rows, like.detach()) for layer in self._layers)
        told = torch.zeros(rows, self.told_size, device=like.device) if self.goal is not None else None
        path = like.detach().new_zeros(rows, self.path.size) if self.path is not None else None
        return Memory(layers, torch.zeros(rows, dtype=torch.int64, device=like.device), told, path)

    def forward(
        self,
        latents: Tensor,
        level: Tensor,
        actions: Tensor,
        memory: Memory,
        *,
        pose: Tensor | None = None,
        told: Tensor | None = None,
        halvings: Tensor | None = None,
        advance: bool = True,
        in_place: bool = False,
        teacher_forcing: bool = False,
    ) -> Hidden:
        """Continue from `memory` of B rows by T frames.

        latents: (B, T, S, C), at `level` (B, T) in [0, 1], the noise level of each frame.
        actions: that led to them, (B, T) int64, -1 for none; or (B, T, A), NaN for none.
        pose: (B, T, P), for models that were trained with one.
        told: (B, T, G), for models that are told something; None tells them what the last frame was told.
        halvings: (B, T) int64, the size of each frame's step in a model with `shortcut`; None is the finest.
        advance: False returns the memory as it was, which is cheaper.
        in_place: where gradients are off, write the new states over those of `memory`, which is then used up.
        teacher_forcing: all that is given has every frame noised and clean, and the noised ones leave the memory alone
            (`layers.teacher_forcing`).

        Raises InputError where frames are not whole chunks.
        """
        frames = latents.shape[1] // (1 + teacher_forcing)
        start = self._start(memory, frames)
        x = self.patch_in(latents) + self.position
        path = memory.path
        if self.path is not None and path is not None:
            led, path = self.path(deinterleaved(actions, self.chunk).clean if teacher_forcing else actions, path)
            led = interleaved(led, led, self.chunk) if teacher_forcing else led
            if isinstance(self.path, DeadReckoning):
                pose = led
            else:
                x = x + led
        if self.place is not None and pose is not None:
            x = x + self.place(pose)
        goal = None
        if self.goal is not None:
            assert memory.told is not None
            told = memory.told[:, None].expand(-1, latents.shape[1], -1) if told is None else told
            goal = self.goal(told)
            x = x + goal[:, :, None]
        condition = self.condition(level, actions, pose, halvings, goal)
        rotary, slots_full = None, False
        slots = max(layer.slots for layer in start.layers)
        if any(layer.attention for layer in self._layers):
            rotary = rotary_embedding(memory.frames, frames, self.grid, self.head_size, x.dtype)
            if teacher_forcing:
                rotary = Rotary(*(interleaved(v, v, self.chunk) for v in rotary))
            # Asking another device would mean to wait for it.
            slots_full = not slots or (x.device.type == "cpu" and int(memory.frames.min()) >= slots)
        recompute = self.recompute and torch.is_grad_enabled()
        layers, recalls = [], []
        for layer, remembered in zip(self.layers, start.layers, strict=True):
            run = functools.partial(checkpoint, layer, use_reentrant=False) if recompute else layer
            x, recall, after = run(
                x,
                condition,
                remembered,
                memory.frames,
                rotary,
                slots_full=slots_full,
                advance=advance,
                in_place=in_place,
                teacher_forcing=teacher_forcing,
            )
            layers.append(after)
            if recall is not None:
                recalls.append(recall)
        if not advance:
            return Hidden(x, tuple(recalls), memory)
        last = None if self.goal is None or told is None else told[:, -1].float()
        return Hidden(x, tuple(recalls), Memory(tuple(layers), memory.frames + frames, last, path))

    def _start(self, memory: Memory, frames: int) -> Memory:
        """The memory to continue from by `frames` frames. Raises InputError where these are not whole chunks."""
        check_chunks(frames, self.chunk)
        if self.chunk > 1:
            for seen in set(memory.frames.tolist()):
                check_chunks(seen, self.chunk)
        # Over several chunks it pays to wait for the device and leave out what no row has seen.
        return memory.existing() if frames > self.chunk and any(v.slots for v in memory.layers) else memory
