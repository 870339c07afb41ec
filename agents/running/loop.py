"""The whole loop on disk: record, learn the world, dream, act; every stage can be interrupted and is done once.

RUN/settings.json     what the run was told, and RUN/commands.txt by which commands
RUN/episodes/         real episodes, one file each
RUN/demonstrations/   those of --demonstrator, which are cloned and which the world model never learns from
RUN/world_model/      the world model: a checkpoint folder, and what it resumes from
RUN/policy/           the policy, and what it resumes from
RUN/best/             policy and world model of the round that earned most for real, to be judged as a run
RUN/evaluations.npz   real returns by steps and seconds, as Stable-Baselines3 names them
RUN/clocks.json       seconds that each stage has taken
RUN/stages/           figures of every finished stage; one that is here is not done again
RUN/tensorboard/      learning curves and dreams beside what was, a folder for each part
RUN/wandb/, /mlflow/  the same, where asked
RUN/report/           index.html, which grows with the run, and in the end results.json
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lssvwm.agents.algorithm import Algorithm
from lssvwm.agents.dreamer.dreamer import Dreamer
from lssvwm.agents.evaluation import Evaluation, dreamt_returns, evaluate, imagined_returns, rows_for
from lssvwm.agents.evaluation.files import EVALUATIONS, append_evaluation, log_evaluation
from lssvwm.agents.evaluation.starts import starts
from lssvwm.agents.policies.baselines import RandomPolicy
from lssvwm.agents.policies.mixture import named_collector
from lssvwm.agents.policies.world_model import WorldModelPolicy
from lssvwm.agents.report.growing import Growing, Subject
from lssvwm.agents.report.run import report_run
from lssvwm.agents.running.algorithms import IN_ENVIRONMENTS, algorithm, check_algorithm, cloner_of, learned, until
from lssvwm.agents.running.best import best_round, keep
from lssvwm.agents.running.checks import check_dropout, check_rows, check_stages, check_steps, fitting
from lssvwm.agents.running.environment import Probe, probe
from lssvwm.agents.running.run import (
    DEMONSTRATIONS,
    EVALUATION_SEEDS,
    SEEDS_PER_RUN,
    Figures,
    Run,
    recorded_in,
    seeds_of,
)
from lssvwm.agents.running.settings import LoopSettings
from lssvwm.agents.running.settings_file import to_json
from lssvwm.envs.contexts import check_world, contexts_of
from lssvwm.envs.policy import Policy
from lssvwm.worldmodel.actions import actions_of
from lssvwm.worldmodel.checkpoint import Checkpoint, load_checkpoint, read_json
from lssvwm.worldmodel.common.errors import InputError, require
from lssvwm.worldmodel.episodes import EpisodeStore
from lssvwm.worldmodel.reporting.statistics import difference_within
from lssvwm.worldmodel.training import processes

LEARNED = {"clone": "cloned", "plan": "plans in dreams"}
PLACES = {"dream": "trained in dreams", "real": "trained in the real environment"}
"""What policies are called, by how they came about, else by where they learned."""


class Loop(Run):
    """Collect, learn the world, dream and act, repeated, then judged for real."""

    settings: LoopSettings

    def __init__(self, out: Path, settings: LoopSettings, *, progress: bool = True) -> None:
        super().__init__(out, settings, progress=progress)
        self.growing: Growing | None = None
        if processes().count > 1:
            raise InputError(
                "train_agent.py is one process: train the world model in several with train_wm.py, and give it as "
                "--world-model"
            )
        require("av", "video", "Videos in reports")
        require("matplotlib", "video", "Plots in reports")
        check_algorithm(settings)
        self.demonstrator()
        if settings.dream_ratio is not None and settings.world_model is not None:
            raise InputError(
                "--dream-ratio counts what the run records, which is nothing with --world-model: leave it out"
            )
        if settings.pose and not settings.model.dead_reckoning:
            raise InputError(
                f"--pose {' '.join(settings.pose)}: a world model that is told the pose is no environment, as nothing "
                "says where an action leads: let it find out (--model.dead-reckoning 3), or use train_wm.py alone"
            )
        if self.is_new:
            check_dropout(settings)
        if settings.tell and settings.place == "real":
            raise InputError(f"--tell {settings.tell[0]} is told to a world model, --in real has none: leave it out")
        if settings.train_ratio is not None and settings.training.decay:
            raise InputError("--training.decay has to know all steps, with --train-ratio nobody does: leave one out")
        if settings.place == "real":
            probe(settings.env_config)
        elif settings.world_model is not None:
            check_steps(settings, config := self.world().model.config)
        elif settings.contexts is not None:
            raise InputError("--contexts is for --world-model: without it, dreams begin in the run's own episodes")
        else:
            self.first_collector()
            check_steps(settings, config := self.model_config())
            if self.is_new and settings.train_ratio is None:
                check_stages(settings.training.stages, settings.all_world_steps)
        if self.is_new and settings.place == "dream" and settings.algo == "dreamer":
            check_rows(settings.dreamer, config, processes().device)

    def run(self) -> dict[str, Figures]:
        """Every stage in order; returns the figures of all, by name."""
        figures: dict[str, Figures] = {}
        for round_ in range(self.settings.rounds):
            figures |= self.round(round_)
        return figures

    def run_to_report(self, command: str) -> Path:
        """Run every stage that is not done yet, the report growing with them; returns its page."""
        self.growing = Growing(self.subject(command))
        with self.growing.watching():
            stages = self.run()
            model = None if self.settings.place == "real" else self.world().model
            return report_run(self.out, stages, model, settings=to_json(self.settings), command=command)

    def outcome(self) -> str:
        """What was earned for real in the last round, and by chance, in a line each."""
        lines = []
        for name in (f"{self.settings.rounds - 1}-evaluation", "random"):
            judged = Evaluation.from_dict(self.figures(name) or {})
            lines.append(
                f"{judged.name}: real return {judged.interval} in {len(judged.returns)} episodes, "
                f"success {judged.success_rate:.0%}"
            )
        return "\n".join(lines)

    def subject(self, command: str) -> Subject:
        """What a growing report is about."""
        s = self.settings
        world, episodes = s.world_model or self.out / "world_model", self.own_episodes
        if s.world_model is not None:
            episodes = self.contexts(self.world()).root
        return Subject(
            self.out,
            self.stage_names(),
            settings=to_json(s),
            command=command,
            world_model=None if s.place == "real" else world,
            device=processes().device,
            episodes=None if s.place == "real" else episodes,
            figures=self.figures,
            clocks=self.clocks,
        )

    def stage_names(self) -> list[str]:
        """All stages in order, as `round` does them."""
        learns_world = self.settings.world_model is None and self.settings.place == "dream"
        kinds = (*(("collect", "world-model") if learns_world else ()), "policy", "evaluation")
        names = [f"{round_}-{kind}" for round_ in range(self.settings.rounds) for kind in kinds]
        names.insert(len(kinds) - 1, "random")
        return ["demonstrations", *names] if self.settings.demonstrator else names

    def stage(self, name: str, work: Callable[[], Figures]) -> Figures:
        """Said on the growing report, unless it is done."""
        if self.growing is not None and self.figures(name) is None:
            self.growing.begin(name)
        return super().stage(name, work)

    def round(self, round_: int) -> dict[str, Figures]:
        """One time through the loop."""
        figures = {}
        if round_ == 0 and (demonstrator := self.demonstrator()) is not None:
            figures["demonstrations"] = self.stage("demonstrations", lambda: self.demonstrate(demonstrator))
        if self.settings.world_model is None and self.settings.place == "dream":
            name = f"{round_}-collect"
            figures[name] = self.stage(name, lambda: self.collect(round_, self.collector(round_)))
            name = f"{round_}-world-model"
            figures[name] = self.stage(name, lambda: self.learn_world(round_))
        name = f"{round_}-policy"
        figures[name] = self.stage(name, lambda: self.learn_policy(round_))
        if round_ == 0:
            figures["random"] = self.stage("random", lambda: self.judge("random", "random", self.random()))
        name = f"{round_}-evaluation"
        figures[name] = self.stage(name, lambda: self.judge_learned(name, round_))
        return figures

    def world(self) -> Checkpoint:
        """The world model that the policy lives in, checked against its contexts and the real environment."""
        checkpoint = load_checkpoint(self.settings.world_model or self.out / "world_model", processes().device)
        check_world(checkpoint, self.contexts(checkpoint))
        config, real = checkpoint.model.config, probe(self.settings.env_config)
        if real != (learned := Probe((config.height, config.width), actions_of(config))):
            raise InputError(
                f"{self.settings.env} has frames of {real.frame} and {real.actions}, {checkpoint.path} "
                f"models {learned.frame} and {learned.actions}: change --size and "
                "--actions to match, or train a world model for this environment"
            )
        return checkpoint

    def contexts(self, checkpoint: Checkpoint) -> EpisodeStore:
        """Where dreams begin: the run's own episodes, or those of the world model that was given."""
        return EpisodeStore(self.settings.contexts or contexts_of(checkpoint), told=checkpoint.model.config.told)

    def collector(self, round_: int) -> Policy:
        """The first round is recorded by a policy that needs no learning, later ones by what was learned."""
        if round_ == 0:
            return self.first_collector()
        return self.exploring(self.learned())

    def demonstrator(self) -> Policy | None:
        """Who plays what is cloned, where that is not what the world model learns from."""
        s = self.settings
        if s.demonstrator is None:
            return None
        return self.exploring(named_collector(s.demonstrator, s.env_config, "--demonstrator"))

    def demonstrate(self, policy: Policy) -> Figures:
        """Record what is cloned."""
        store, seeds = EpisodeStore(self.out / DEMONSTRATIONS, create=True), seeds_of(self.settings)[1]
        return self.record(store, policy, len(seeds), seeds.start)

    def algorithm(self) -> AbstractContextManager[Algorithm]:
        """What learns to act, as it stands."""
        checkpoint, contexts = self.where()
        return algorithm(self.settings, self.out / "policy", checkpoint=checkpoint, contexts=contexts)

    def learned(self) -> Policy:
        """The policy as it stands."""
        checkpoint, contexts = self.where()
        return learned(self.settings, self.out / "policy", checkpoint=checkpoint, contexts=contexts)

    def where(self) -> tuple[Checkpoint | None, EpisodeStore | None]:
        """The world model and the contexts in which it learns; neither in the real environment."""
        if self.settings.place == "real":
            return None, None
        checkpoint = self.world()
        return checkpoint, self.contexts(checkpoint)

    def random(self) -> Policy:
        """The lower anchor."""
        return RandomPolicy(probe(self.settings.env_config).actions)

    def world_steps(self, round_: int, store: EpisodeStore) -> int:
        """By `train_ratio` what follows from the frames recorded so far."""
        s = self.settings
        if s.train_ratio is None:
            return s.world_steps_until(round_)
        return max(1, s.training.stages.steps_for(store.frames * s.train_ratio / s.training.batch))

    def learn_policy(self, round_: int) -> Figures:
        """Train the policy, from where it stands."""
        s = self.settings
        frames = EpisodeStore(self.own_episodes).frames if s.dream_ratio is not None else 0
        goal = until(s, round_, frames)
        figures: Figures = {"until": goal}
        with self.algorithm() as learner:
            if s.clone and isinstance(learner, Dreamer) and learner.step == 0:
                self.clone(learner)
            with self.tracking.part("policy", learner.logged) as learner.writer:
                figures |= learner.train(goal, progress=self.progress)
        if s.algo == "dreamer":
            figures |= {"batches": goal, "imagined_frames": goal * s.dreamer.rows * s.dreamer.horizon}
        elif s.algo in IN_ENVIRONMENTS:
            figures |= {"imagined_frames" if s.place == "dream" else "real_steps": (round_ + 1) * s.env_steps}
        return figures

    def clone(self, dreamer: Dreamer) -> None:
        """Let `dreamer` begin with what is cloned."""
        episodes = dreamer.contexts.source
        assert isinstance(episodes, EpisodeStore)
        cloner = cloner_of(self.settings, self.out / "policy", dreamer.model, episodes)
        with self.tracking.part("cloning", cloner.logged) as cloner.writer:
            cloner.train(self.settings.cloning.steps, progress=self.progress)
        dreamer.start_from(cloner.chosen)

    def judge(self, stage: str, name: str, policy: Policy) -> Figures:
        """Play real episodes on the evaluation seeds, and keep one of them to look at."""
        s = self.settings
        seed = EVALUATION_SEEDS + s.seed * SEEDS_PER_RUN
        judged = evaluate(
            name,
            s.eval_config,
            policy,
            episodes=s.eval_episodes,
            seed=seed,
            num_envs=s.eval_envs or fitting(rows_for(s.processes, s.num_envs), policy),
            processes=s.processes,
            progress=self.progress,
        )
        EpisodeStore(self.out / "examples" / stage, create=True).append(judged.example)
        figures = judged.evaluation.to_dict()
        if (found := starts(s.eval_config, judged.evaluation.seeds, *recorded_in(self.out))) is not None:
            figures["starts"] = asdict(found)
        return figures

    def judge_learned(self, stage: str, round_: int) -> Figures:
        """Play the learned policy for real, and its own dreams beside it."""
        s, policy = self.settings, self.learned()
        figures = self.judge(stage, LEARNED.get(s.algo, PLACES[s.place]), policy)
        if s.place == "dream":
            figures["imagined_returns"] = self.imagined(policy, horizon=max(figures["lengths"]))
            gap = difference_within([figures["imagined_returns"]], [figures["returns"]])
            figures["imagined_minus_real"] = gap.to_dict()
        self.note(Evaluation.from_dict(figures), round_, figures.get("imagined_returns"))
        self.keep_best(round_, figures)
        return figures

    def keep_best(self, round_: int, figures: Figures) -> None:
        """Keep what has been learned as RUN/best if no round before has earned as much for real."""
        before = [done for r in range(round_) if (done := self.figures(f"{r}-evaluation")) is not None]
        if self.settings.algo != "plan" and best_round([each["returns"] for each in (*before, figures)]) == len(before):
            told = {"return": figures["return"], "success_rate": figures["success_rate"], "rounds": round_ + 1}
            keep(self.out, to_json(self.settings), round_, told)

    def note(self, evaluation: Evaluation, round_: int, imagined: Sequence[float] | None) -> None:
        """Add the evaluation to the run's curves: over real steps and seconds of learning, without those of judging."""
        mean = None if imagined is None else float(np.mean(imagined))
        steps, dreamt = self.real_steps(round_), math.nan if mean is None else mean
        if self.settings.world_model is not None:
            steps += round_  # nothing more is recorded there, and curves want their points apart
        seconds = sum(taken for name, taken in self.clocks().items() if name != "random" and "evaluation" not in name)
        append_evaluation(self.out / EVALUATIONS, evaluation, steps=steps, seconds=seconds, imagined=dreamt)
        with self.tracking.part("evaluation", steps - 1) as writer:
            log_evaluation(writer, evaluation, steps, imagined=mean)

    def real_steps(self, round_: int) -> int:
        """Steps of the real environment that the policy has learned from by the end of a round, as far as this run has
        recorded them."""
        if self.settings.place == "real":
            return (round_ + 1) * self.settings.env_steps
        names = [] if self.settings.world_model is not None else [f"{r}-collect" for r in range(round_ + 1)]
        if self.settings.demonstrator:
            names.append("demonstrations")
        stages = [read_json(self.out / "stages" / f"{name}.json", "the stages of a run") for name in names]
        # Earlier versions did not count the steps, nor cut episodes into pieces.
        return sum(int(figures.get("steps", figures["frames"] - figures["episodes"])) for figures in stages)

    def imagined(self, policy: Policy, *, horizon: int) -> tuple[float, ...]:
        """Returns of the policy in dreams that last as long as the real episodes, or the two do not compare."""
        s, checkpoint = self.settings, self.world()
        store, model = self.contexts(checkpoint), checkpoint.model
        how: dict[str, Any] = {"episodes": s.eval_episodes, "horizon": horizon, "steps": s.dreamer.steps}
        if isinstance(policy, WorldModelPolicy):
            return imagined_returns(model, policy.agent, store, **how, seed=s.seed)
        return dreamt_returns(model, policy, store, **how, seed=s.seed)
