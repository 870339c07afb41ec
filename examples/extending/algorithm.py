"""An algorithm of your own: what learns to act. This one changes a policy at random; what earns more in dreams stays.

python examples/extending/algorithm.py runs/search
"""

import copy
import sys

import torch

import train_agent
from lssvwm.agents.dreamer.actor_critic import ActorCritic, networks_for
from lssvwm.agents.evaluation import imagined_returns
from lssvwm.agents.policies.world_model import WorldModelPolicy
from lssvwm.agents.running.settings import ALGORITHMS
from lssvwm.worldmodel.checkpoint import read_state
from lssvwm.worldmodel.common.atomic import replace
from lssvwm.worldmodel.common.rng import weights_from


class Search:
    """Hill climbing. It is made anew for every stage of a run, and goes on from what it has written.

    It is given the `LoopSettings` of the run, a folder of its own, the `Checkpoint`, and the `EpisodeStore` in which
    dreams begin.
    """

    def __init__(self, settings, out, checkpoint, contexts) -> None:
        self.model, self.contexts, self.path, self.writer = checkpoint.model, contexts, out / "search.pt", None
        with weights_from(settings.seed):
            self.agent = ActorCritic(networks_for(self.model, hidden=16, layers=1)).to(self.model.device)
        self.logged, self.best = 0, 0.0
        out.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            state = read_state(self.path, self.model.device, "agent", "step", "best")
            self.agent.load_state_dict(state["agent"])
            self.logged, self.best = state["step"], state["best"]

    def train(self, until: int, *, progress: bool = True) -> dict[str, float]:
        """Changes up to that of number `until`; what it returns is kept in RUN/stages."""
        while self.logged < until:
            tried, chance = copy.deepcopy(self.agent), torch.Generator().manual_seed(self.logged)
            for weight in tried.parameters():
                weight.data += 0.1 * torch.randn(weight.shape, generator=chance).to(weight)
            returns = imagined_returns(self.model, tried, self.contexts, episodes=16, horizon=12, steps=None, seed=0)
            if (earned := sum(returns) / 16) > self.best:
                self.agent, self.best = tried, earned
            self.logged += 1
            state = {"agent": self.agent.state_dict(), "step": self.logged, "best": self.best}
            replace(self.path, lambda path, state=state: torch.save(state, path))
            self.writer.add_scalar("search/earned", earned, self.logged)
        return {"best": self.best}

    def policy(self, *, greedy: bool = False) -> WorldModelPolicy:
        """Plays real worlds, watched by the world model."""
        return WorldModelPolicy(self.model, self.agent, greedy=greedy)


ALGORITHMS["search"] = Search

if __name__ == "__main__":
    train_agent.main(["--preset", "smoke", "--algo", "search", "--dreams", "20", "--out", *sys.argv[1:]])
