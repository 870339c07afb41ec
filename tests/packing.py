"""A run that looks finished: a small world, its episodes, a policy and a report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch

from dreams import dream_folder
from lssvwm.agents.dreamer.actor_critic import ActorCritic, ActorCriticConfig
from lssvwm.worldmodel.checkpoint import load_checkpoint

COMMAND = "python train_agent.py --preset smoke --out '/somewhere/my run' --seed 3"


def finished_run(folder: Path) -> Path:
    dream_folder(folder)
    (folder / "model").rename(folder / "world_model")
    config = load_checkpoint(folder / "world_model").model.config
    networks = ActorCriticConfig(config.features, config.num_actions, hidden=8)
    (folder / "policy").mkdir()
    state = {"networks": asdict(networks), "agent": ActorCritic(networks).state_dict(), "optimizer": {}}
    torch.save(state, folder / "policy" / "policy.pt")
    (folder / "report").mkdir()
    (folder / "report" / "index.html").write_text("<p>A report.</p>\n")
    (folder / "stages").mkdir()
    for round_, mean in ((2, 0.25), (10, 0.75)):
        figures = {"return": {"mean": mean, "low": 0.0, "high": 1.0, "count": 20}, "success_rate": mean}
        (folder / "stages" / f"{round_}-evaluation.json").write_text(json.dumps(figures))
    (folder / "clocks.json").write_text(json.dumps({"0-collect": 30.0, "0-world-model": 90.0}))
    (folder / "commands.txt").write_text(f"{COMMAND}\n{COMMAND} --resume\n")
    return folder
