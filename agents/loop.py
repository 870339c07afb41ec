"""The whole loop on disk: record, learn the world, dream, act; every stage can be interrupted and is done once.

RUN/settings.json     what the run was told, and RUN/commands.txt by which commands
RUN/episodes/         real episodes, one file each
RUN/world_model/      the world model: a checkpoint folder, and what it resumes from
RUN/policy/policy.pt  the policy, and what it resumes from
RUN/stages/           figures of every finished stage; one that is here is not done again
RUN/tensorboard/      learning curves, a folder for each part
RUN/report/           index.html and results.json
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from agents.dreamer import STATE as POLICY_STATE
from agents.dreamer import Dreamer, DreamerConfig
from agents.evaluation import evaluate, imagined_returns
from agents.policies import RandomPolicy
from agents.probe import Probe, probe
from agents.report.run import report_run
from agents.run import SEEDS_PER_RUN, Figures, Run, device
from agents.settings import LoopSettings, to_json
from agents.world_model_policy import WorldModelPolicy, load_agent
from envs.contexts import check_world, contexts_folder
from envs.policy import Policy
from worldmodel.checkpoint import Checkpoint, load_checkpoint
from worldmodel.episodes import EpisodeStore
from worldmodel.errors import InputError, require
from worldmodel.model import WorldModel
from worldmodel.training import processes

EVALUATION_SEEDS = 1_000_000_000
"""Seeds from here on are for evaluation, those below for recording; a run's own seed moves both."""


class Loop(Run):
    """Collect, learn the world, dream and act, repeated, then judged for real."""

    settings: LoopSettings

    def __init__(self, out: Path, settings: LoopSettings, *, progress: bool = True) -> None:
        super().__init__(out, settings, progress=progress)
        if processes().count > 1:
            raise InputError(
                "train_agent.py is one process: train the world model in several with train_wm.py, and give it as "
                "--world-model"
            )
        require("av", "video", "Videos in reports")
        require("matplotlib", "video", "Plots in reports")
        if settings.world_model is not None:
            self.world()
        elif settings.contexts is not None:
            raise InputError("--contexts is for --world-model: without it, dreams begin in the run's own episodes")
        else:
            self.first_collector()
            self.model_config()

    def run(self) -> dict[str, Figures]:
        """Every stage in order; returns the figures of all, by name."""
        figures: dict[str, Figures] = {}
        for round_ in range(self.settings.rounds):
            figures |= self.round(round_)
        return figures

    def run_to_report(self, command: str) -> Path:
        """Run every stage that is not done yet and write the report; returns its page."""
        stages = self.run()
        return report_run(self.out, stages, self.world().model, settings=to_json(self.settings), command=command)

    def round(self, round_: int) -> dict[str, Figures]:
        """One time through the loop."""
        figures = {}
        if self.settings.world_model is None:
            name = f"{round_}-collect"
            figures[name] = self.stage(name, lambda: self.collect(round_, self.collector(round_)))
            name = f"{round_}-world-model"
            figures[name] = self.stage(name, lambda: self.learn_world(round_))
        name = f"{round_}-policy"
        figures[name] = self.stage(name, lambda: self.dream(round_))
        if round_ == 0:
            figures["random"] = self.stage("random", lambda: self.judge("random", "random", self.random()))
        name = f"{round_}-evaluation"
        figures[name] = self.stage(name, lambda: self.judge_learned(name, round_))
        return figures

    def world(self) -> Checkpoint:
        """The world model that the policy lives in, checked against its contexts and the real environment."""
        checkpoint = load_checkpoint(self.settings.world_model or self.out / "world_model", device())
        check_world(checkpoint, self.contexts(checkpoint))
        config, real = checkpoint.model.config, probe(self.settings.env_config)
        if real != Probe((config.height, config.width), config.num_actions):
            raise InputError(
                f"{self.settings.env} has frames of {real.frame} and {real.num_actions} actions, {checkpoint.path} "
                f"models {(config.height, config.width)} and {config.num_actions}: change --size and "
                "--actions to match, or train a world model for this environment"
            )
        return checkpoint

    def contexts(self, checkpoint: Checkpoint) -> EpisodeStore:
        """Where dreams begin: the run's own episodes, or those of the world model that was given."""
        return EpisodeStore(self.settings.contexts or contexts_folder(checkpoint))

    def collector(self, round_: int) -> Policy:
        """The first round is recorded by a policy that needs no learning, later ones by what was learned."""
        if round_ == 0:
            return self.first_collector()
        return self.learned(self.world().model)

    def learned(self, model: WorldModel) -> WorldModelPolicy:
        """The policy as it stands."""
        return WorldModelPolicy(model, load_agent(self.out / "policy" / POLICY_STATE, model))

    def random(self) -> Policy:
        """The lower anchor."""
        return RandomPolicy(probe(self.settings.env_config).num_actions)

    def dream(self, round_: int) -> Figures:
        """Train the policy in dreams, from where it stands."""
        s = self.settings
        checkpoint = self.world()
        config = DreamerConfig(**{**asdict(s.dreamer), "seed": s.seed})
        dreamer = Dreamer(checkpoint.model, self.contexts(checkpoint), config, self.out / "policy")
        with self.writer("policy", dreamer.step) as dreamer.writer:
            means = dreamer.train((round_ + 1) * s.dreams, progress=self.progress)
        frames = dreamer.step * s.dreamer.rows * s.dreamer.horizon
        return {"batches": dreamer.step, "imagined_frames": frames, **means}

    def judge(self, stage: str, name: str, policy: Policy) -> Figures:
        """Play real episodes on the evaluation seeds, and keep one of them to look at."""
        s = self.settings
        seed = EVALUATION_SEEDS + s.seed * SEEDS_PER_RUN
        judged = evaluate(
            name,
            s.env_config,
            policy,
            episodes=s.eval_episodes,
            seed=seed,
            num_envs=s.num_envs,
            processes=s.processes,
            progress=self.progress,
        )
        EpisodeStore(self.out / "examples" / stage, create=True).append(judged.example)
        return judged.evaluation.to_dict()

    def judge_learned(self, stage: str, round_: int) -> Figures:
        """Play the learned policy for real, and its own dreams beside it."""
        s = self.settings
        checkpoint = self.world()
        policy = self.learned(checkpoint.model)
        figures = self.judge(stage, "trained in dreams", policy)
        imagined = imagined_returns(
            checkpoint.model,
            policy.agent,
            self.contexts(checkpoint),
            episodes=s.eval_episodes,
            horizon=max(figures["lengths"]),  # as long as the real episodes, or the two returns do not compare
            steps=s.dreamer.steps,
            seed=s.seed,
        )
        with self.writer("evaluation", round_ - 1) as writer:
            writer.add_scalar("evaluation/real_return", figures["return"]["mean"], round_)
        figures["imagined_returns"] = imagined
        return figures
