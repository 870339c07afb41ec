"""The stack of layers: block-wise scan, frame-local attention, feed-forward; all modulated by the frame's condition."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.config import WorldModelConfig
from lssvwm.worldmodel.layers.attention import FrameLocalAttention, Turn, check_chunks, rotary
from lssvwm.worldmodel.layers.conditioning import Condition, Goal, Place
from lssvwm.worldmodel.layers.doubled import doubled, halves
from lssvwm.worldmodel.layers.fused import gelu
from lssvwm.worldmodel.layers.mamba import BlockwiseMamba
from lssvwm.worldmodel.layers.memory import LayerMemory, Memory
from lssvwm.worldmodel.layers.mixer import make_mixer
from lssvwm.worldmodel.layers.path_integration import PathIntegration
from lssvwm.worldmodel.layers.runtime import Chosen, Runtime, choose_attention, choose_scan


class Mixed(NamedTuple):
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
        turn: Turn | None,
        *,
        full: bool,
        advance: bool,
        in_place: bool,
        twice: bool,
    ) -> Mixed:
        """x (B, T, S, D), condition (B, T, D), seen (B,) frames before x; turn and full as in `FrameLocalAttention`."""
        parts = self.modulation(condition)[:, :, None].chunk(9, -1)  # 9 x (B, T, 1, D)
        scan, window, recall = memory.scan, memory.window, None
        if self.scan is not None and scan is not None:
            how: dict[str, Any] = {"advance": advance, "in_place": in_place, "twice": twice}
            mixed, recall, scan = self.scan(self.modulate(x, *parts[0:2]), scan, **how)
            x = torch.addcmul(x, parts[2], mixed)
        if self.attention is not None and window is not None:
            given = (self.modulate(x, *parts[3:5]), window, seen)
            mixed, window = self.attention(*given, turn=turn, full=full, advance=advance, twice=twice)
            x = torch.addcmul(x, parts[5], mixed)
        x = torch.addcmul(x, parts[8], self.mlp(self.modulate(x, *parts[6:8])))
        return Mixed(x, recall, LayerMemory(scan, window))

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
        self.place = Place(config) if config.pose_size else None
        self.goal = Goal(config.told, config.dim) if config.told else None
        self.told_size = config.told_size
        self.path = PathIntegration(config) if config.path_integration else None
        self.angles = config.path_integration
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
        chosen_by(runtime, self.position, self.head_size)
        for layer in self._layers:
            if layer.attention is not None:
                layer.attention.use(runtime)
            if isinstance(layer.scan, BlockwiseMamba):
                layer.scan.choice = runtime.scan
        self.runtime = runtime

    @property
    def chosen(self) -> Chosen:
        """What the runtime's choices come to where the model is."""
        return chosen_by(self.runtime, self.position, self.head_size)

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
        angles = like.detach().new_zeros(rows, self.angles) if self.path is not None else None
        return Memory(layers, torch.zeros(rows, dtype=torch.int64, device=like.device), told, angles)

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
        twice: bool = False,
    ) -> Hidden:
        """Continue from `memory`: latents (B, T, S, C), noise levels in [0, 1] and actions (B, T), pose (B, T, P).

        `told` (B, T, G) is for models that are told something; without, they are told what the last frame was.
        `halvings` (B, T) are the steps that a model with `shortcut` is to take (None: the finest). Action -1 (or NaN)
        is "none". With `advance=False` the memory is returned as it was, which is cheaper. With `in_place`, for where
        gradients are off, states are written over those of the memory that was given, which is then used up. `twice`:
        every frame comes twice in all that is given, and the noised copies leave the memory alone (`layers.doubled`).
        """
        frames = latents.shape[1] // (1 + twice)
        start = self.checked(memory, frames)
        x = self.patch_in(latents) + self.position
        if self.place is not None and pose is not None:
            x = x + self.place(pose)
        angles = memory.angles
        if self.path is not None and angles is not None:
            place, angles = self.path(halves(actions, self.chunk).clean if twice else actions, angles)
            x = x + (doubled(place, place, self.chunk) if twice else place)
            angles = angles[:, -1].contiguous()  # of its own, as memories are
        goal = None
        if self.goal is not None:
            assert memory.told is not None
            told = memory.told[:, None].expand(-1, latents.shape[1], -1) if told is None else told
            goal = self.goal(told)
            x = x + goal[:, :, None]
        condition = self.condition(level, actions, pose, halvings, goal)
        turn, full = None, False
        slots = max(layer.slots for layer in start.layers)
        if any(layer.attention for layer in self._layers):
            turn = rotary(memory.frames, frames, self.grid, self.head_size, x.dtype)
            turn = Turn(*(doubled(v, v, self.chunk) for v in turn)) if twice else turn
            # Asking another device would mean to wait for it.
            full = not slots or (x.device.type == "cpu" and int(memory.frames.min()) >= slots)
        how: dict[str, Any] = {"full": full, "advance": advance, "in_place": in_place, "twice": twice}
        layers, recalls = [], []
        for layer, remembered in zip(self.layers, start.layers, strict=True):
            given = (x, condition, remembered, memory.frames, turn)
            if self.recompute and torch.is_grad_enabled():
                x, recall, after = checkpoint(layer, *given, **how, use_reentrant=False)
            else:
                x, recall, after = layer(*given, **how)
            layers.append(after)
            if recall is not None:
                recalls.append(recall)
        if not advance:
            return Hidden(x, tuple(recalls), memory)
        last = None if self.goal is None or told is None else told[:, -1].float()
        return Hidden(x, tuple(recalls), Memory(tuple(layers), memory.frames + frames, last, angles))

    def checked(self, memory: Memory, frames: int) -> Memory:
        """The memory to continue from by `frames` frames. Raises InputError where these are not whole chunks."""
        check_chunks(frames, self.chunk)
        if self.chunk > 1:
            for seen in set(memory.frames.tolist()):
                check_chunks(seen, self.chunk)
        # Over several chunks it pays to wait for the device and leave out what no row has seen.
        return memory.existing() if frames > self.chunk and any(v.slots for v in memory.layers) else memory


def chosen_by(runtime: Runtime, like: Tensor, head_size: int) -> Chosen:
    """What the choices come to for tensors on the device and in the dtype of `like`."""
    device, dtype = like.device.type, like.dtype
    scan = choose_scan(runtime.scan, device, dtype)
    return Chosen(scan, choose_attention(runtime.attention, device, dtype, head_size))
