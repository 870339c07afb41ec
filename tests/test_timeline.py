"""One time-line from the real world to the loss, on a world where every number is known by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from corridor import GOAL, ExactModel, Script, agent_that_plays, follow, outcomes, play_corridor, read, show
from lssvwm.agents.dreamer.actor_critic import continuation_weights, lambda_returns
from lssvwm.agents.dreamer.dreamer import Dreamer, DreamerConfig
from lssvwm.worldmodel.episodes import NO_ACTION, Clips, Episode, EpisodeStore

DETOUR = (1, 0, 1, 0, 0, 1)
DETOUR_CELLS = [0, 1, 2, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def detour() -> Episode:
    (episode,) = play_corridor(Script(DETOUR), [0])
    return episode


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, detour: Episode) -> EpisodeStore:
    store = EpisodeStore(tmp_path_factory.mktemp("episodes"), create=True)
    store.append(detour)
    for episode in play_corridor(Script((1, 1)), [0, 1], rows=2):  # forwards and back until time is over
        store.append(episode)
    return store


def test_an_action_stands_with_the_frame_that_it_led_to(detour: Episode) -> None:
    ((cells, actions, rewards),) = outcomes([detour])
    assert cells == DETOUR_CELLS
    assert actions.tolist() == [NO_ACTION, *DETOUR]
    assert rewards.tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert detour.terminated.tolist() == [False] * 6 + [True]
    assert not detour.truncated.any()


def test_an_episode_that_runs_out_of_time_is_truncated_with_its_last_frame() -> None:
    (episode,) = play_corridor(Script((0,)), [0])
    assert read(torch.tensor(episode.image)).tolist() == [0] * 13
    assert episode.truncated.tolist() == [False] * 12 + [True]
    assert not episode.terminated.any()
    assert not episode.reward.any()


def test_a_termination_in_the_last_allowed_step_is_recorded_as_one() -> None:
    (episode,) = play_corridor(Script((0,) * 8 + (1, 0, 0, 1)), [0])
    assert len(episode.image) == 13
    assert episode.terminated[-1]
    assert episode.reward[-1] == 1


def test_rows_that_end_at_different_times_keep_their_own_time_line() -> None:
    class Uneven(Script):
        """Each episode waits as many steps in cell 0 as its seed says."""

        def __init__(self) -> None:
            super().__init__(())
            self.seeds: dict[int, int] = {}

        def reset(self, rows: Any, seeds: Any) -> None:
            super().reset(rows, seeds)
            self.seeds |= dict(zip(rows.tolist(), seeds.tolist(), strict=True))

        def act(self, frames: Any, info: Any) -> Any:
            chosen = []
            for row in range(len(frames)):
                chosen.append(((0,) * self.seeds[row] + (1, 0, 0, 1))[self.clock[row]])
                self.clock[row] += 1
            return np.array(chosen)

    episodes = play_corridor(Uneven(), [5, 0, 3, 1, 2], rows=2)
    assert sorted(int(e.extras["seed"]) for e in episodes) == [0, 1, 2, 3, 5]
    for episode, (cells, actions, rewards) in zip(episodes, outcomes(episodes), strict=True):
        wait = int(episode.extras["seed"])
        assert cells == [0] * (wait + 1) + [1, 2, 3, 4]
        assert actions.tolist() == [NO_ACTION] + [0] * wait + [1, 0, 0, 1]
        assert rewards.tolist() == [0] * (wait + 4) + [1]


def assert_on_the_line(clips: Clips) -> None:
    """Every frame follows from the one before and its own action; reward and termination stand at the goal."""
    cells, mask = read(clips.frames), clips.mask
    led = follow(cells[:, :-1].flatten(), clips.actions[:, 1:].flatten()).view(len(cells), -1)
    assert torch.equal(led[mask[:, 1:]], cells[:, 1:][mask[:, 1:]])
    arrived = (cells == GOAL) & mask
    assert torch.equal(clips.rewards, arrived.float())
    assert torch.equal(clips.terminated, arrived)


def test_clips_stay_on_the_line(store: EpisodeStore) -> None:
    data = np.random.default_rng(0)
    clips = store.sample(64, 5, data)
    assert_on_the_line(clips)
    assert clips.terminated.any()
    assert not clips.mask.all()
    assert torch.equal(clips.actions == NO_ACTION, (clips.actions == NO_ACTION) & (torch.arange(5) == 0))


def test_contexts_stay_on_the_line_and_never_hold_the_end(store: EpisodeStore) -> None:
    data = np.random.default_rng(0)
    anywhere = store.sample_contexts(256, 3, data)
    assert_on_the_line(anywhere)
    assert anywhere.mask.all()
    assert not anywhere.terminated.any()
    assert set(read(anywhere.frames[:, -1]).tolist()) == {0, 1, 2, 3}
    begun = store.sample_contexts(16, 3, data, start="episode")
    assert_on_the_line(begun)
    assert (begun.actions[:, 0] == NO_ACTION).all()
    assert (begun.actions[:, 1:] != NO_ACTION).all()


class Cells:
    """Contexts of one frame, in the given cells."""

    def __init__(self, *cells: int) -> None:
        self.cells, self.lengths = torch.tensor(cells), np.array([2])

    def sample_contexts(self, batch: int, length: int, generator: Any, *, start: Any = "any") -> Clips:
        assert (batch, length) == (len(self.cells), 1)
        flat = torch.zeros(batch, 1)
        return Clips(show(self.cells)[:, None], flat.long(), flat, flat.bool(), torch.ones(batch, 1).bool())


def dreamer(out: Path, source: Any, model: ExactModel, **changes: Any) -> Dreamer:
    settings = {"rows": 2, "horizon": 6, "context": 1, "discount": 0.5, "epochs": 1, "ended": 0.0} | changes
    if isinstance(source, Cells):
        settings["contexts"] = "window"
    return Dreamer(model, source, DreamerConfig(**settings), out)  # type: ignore[arg-type]


def test_a_dream_by_hand(tmp_path: Path) -> None:
    subject = dreamer(tmp_path, Cells(0, 3), ExactModel(beyond=7.0))
    subject.agent = agent_that_plays((1, 0, 0, 1, 0))
    dreams = subject.dream()
    assert dreams.features.argmax(-1).tolist() == [[0, 1, 2, 3, 4, 4, 4], [3, 4, 4, 4, 4, 4, 4]]
    assert dreams.actions.tolist() == [[1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
    assert dreams.rewards.tolist() == [[0, 0, 0, 1, 7, 7], [1, 7, 7, 7, 7, 7]]
    assert dreams.terminations.tolist() == [[0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
    torch.testing.assert_close(dreams.log_probs, torch.zeros(2, 6))

    continues = 0.5 * (1 - dreams.terminations)
    assert continuation_weights(continues).tolist() == [[1, 0.5, 0.25, 0.125, 0, 0], [1, 0, 0, 0, 0, 0]]
    for lam in (0.9, 1.0):
        returns = lambda_returns(dreams.rewards, continues, torch.zeros(2, 7), lam)
        step = 0.5 * lam
        torch.testing.assert_close(returns[0, :4], torch.tensor([step**3, step**2, step, 1.0]))
        assert returns[1, 0] == 1


def test_the_dream_follows_the_actions_that_were_drawn(tmp_path: Path, store: EpisodeStore) -> None:
    subject = dreamer(tmp_path, store, ExactModel(), rows=32, horizon=9, context=5)
    for _ in range(4):
        dreams = subject.dream()
        cells = dreams.features.argmax(-1)
        led = follow(cells[:, :-1].flatten(), dreams.actions.flatten()).view(32, 9)
        assert torch.equal(led, cells[:, 1:])
        arrived = (cells[:, 1:] == GOAL) & (cells[:, :-1] != GOAL)
        assert torch.equal(dreams.rewards, arrived.float())
        assert torch.equal(dreams.terminations, arrived.float())


def test_what_is_reported_of_a_dream_stops_at_its_end(tmp_path: Path) -> None:
    """Started one step before the goal, the return is 1, although 7 would follow at every further step."""
    subject = dreamer(tmp_path, Cells(3, 3), ExactModel(beyond=7.0))
    subject.agent = agent_that_plays((1, 0, 0, 1, 0))
    report = subject.learn(subject.dream())
    assert float(report["imagined_return"]) == 1
    assert float(report["lambda_return"]) == 1


def test_a_dream_that_is_cut_off_is_worth_what_comes_after(tmp_path: Path) -> None:
    """From cell 0 with horizon 2 nothing is earned: only the value of cell 2, where it is cut, can say what will be."""
    subject = dreamer(tmp_path, Cells(0, 0), ExactModel(), horizon=2)
    subject.agent = agent_that_plays((1, 0, 0, 1, 0))
    value_of_cell_2 = 3.0
    with torch.no_grad():
        last = subject.agent.slow_critic[-1]
        logits = torch.log(subject.agent.twohot.encode(torch.tensor([value_of_cell_2]))[0] + 1e-30)
        last.weight[:, 2] = logits
    report = subject.learn(subject.dream())
    assert float(report["imagined_return"]) == 0
    assert float(report["lambda_return"]) == pytest.approx(0.5 * 0.95 * 0.5 * value_of_cell_2, abs=1e-3)


@pytest.mark.parametrize("changed", ["rewards", "features", "actions"])
def test_what_comes_after_the_end_changes_nothing_that_is_learned(tmp_path: Path, changed: str) -> None:
    def gradients(nonsense: bool) -> dict[str, torch.Tensor]:
        subject = dreamer(tmp_path, Cells(0, 3), ExactModel(), clip=1e9)
        subject.agent = agent_that_plays((1, 0, 0, 1, 0), certainty=1.0)
        parameters = [*subject.agent.actor.parameters(), *subject.agent.critic.parameters()]
        subject.optimizer = torch.optim.SGD(parameters, lr=1.0)  # type: ignore[assignment]
        dreams = subject.dream()
        over = dreams.terminations.cumsum(1) > 0
        assert over[:, :-1].any()
        if nonsense:
            after = torch.cat([torch.zeros(2, 1, dtype=torch.bool), over[:, :-1]], 1)  # steps after the end
            if changed == "rewards":
                dreams.rewards[after] = 1.0
            elif changed == "actions":
                dreams.actions[after] = 1 - dreams.actions[after]
            else:
                dreams.features[:, 1:][over] = torch.eye(GOAL + 1)[1]
        before = {name: p.detach().clone() for name, p in subject.agent.named_parameters()}
        subject.learn(dreams)
        return {name: p.detach() - before[name] for name, p in subject.agent.named_parameters()}

    plain, other = gradients(False), gradients(True)
    assert any(step.any() for step in plain.values())
    for name, step in plain.items():
        torch.testing.assert_close(other[name], step, msg=name)
