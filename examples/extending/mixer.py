"""A sequence mixer of your own, in place of the scan: what lets a layer remember. This one keeps fading averages.

python examples/extending/mixer.py
"""

import torch
from torch import Tensor, nn

from lssvwm.worldmodel import WorldModel, WorldModelConfig
from lssvwm.worldmodel.layers.mamba import Mixed, ScanMemory
from lssvwm.worldmodel.registry import MIXERS


class Averages(nn.Module):
    """At every place of the grid, an average of what its tokens wrote; each channel forgets at a rate of its own."""

    def __init__(self, config: WorldModelConfig, layer: int) -> None:
        super().__init__()
        self.tiles, self.inner, self.chunk = config.tokens, config.dim, config.chunk
        self.write, self.read = nn.Linear(config.dim, config.dim), nn.Linear(config.dim, config.dim)
        self.keep = nn.Parameter(torch.linspace(1, 6, config.dim))  # over 4 to 400 frames at first

    def empty(self, rows: int, like: Tensor) -> ScanMemory:
        """Averages (rows, S, D); there is no convolution whose last inputs would have to be kept."""
        return ScanMemory(like.new_zeros(rows, self.tiles, 0, 0), like.new_zeros(rows, self.tiles, self.inner))

    def forward(self, x: Tensor, memory: ScanMemory, *, advance=True, in_place=False, teacher_forcing=False) -> Mixed:
        """As `worldmodel.layers.mixer.Mixer` says; x is (B, T, S, D)."""
        share, state, averages = self.keep.sigmoid(), memory.state, []
        for number, chunk in enumerate(self.write(x).split(self.chunk, 1)):
            average = state
            for written in chunk.unbind(1):
                average = share * average + (1 - share) * written
                averages.append(average)
            if not (teacher_forcing and number % 2 == 0):  # a noised chunk reads, and leaves what is remembered alone
                state = average
        recall = torch.stack(averages, 1)
        return Mixed(self.read(recall), recall, ScanMemory(memory.conv, state) if advance else memory)


MIXERS["averages"] = Averages


if __name__ == "__main__":
    model = WorldModel(WorldModelConfig(scan="averages", height=28, width=28)).double()
    frames, actions = torch.randint(256, (2, 8, 28, 28, 3), dtype=torch.uint8), torch.randint(3, (2, 8))
    model.tokenizer.fit(frames.flatten(0, 1))
    whole, memory = model.observe(frames, actions)[1], model.empty(2)
    for t in range(8):
        memory = model.observe(frames[:, t : t + 1], actions[:, t : t + 1], memory)[1]
    parts = zip(whole.state_dict().values(), memory.state_dict().values(), strict=True)
    furthest = max(float((a - b).abs().max()) for a, b in parts if a.numel())
    print(f"frames seen at once and one by one: memories differ by {furthest:.1e} at most")
