"""What the checker found: violations by code, and notes of what it could not look at."""

from __future__ import annotations

from dataclasses import dataclass, field

CODES: dict[str, str] = {
    "interface": "the attributes that every VectorEnv has, and `num_envs` as asked",
    "spaces": "`observation_space` and `action_space` are `batch_space` of the single spaces",
    "autoreset-mode": "`metadata['autoreset_mode']` is the AutoresetMode that was asked for",
    "metadata": "strict: `metadata` belongs to the instance, and `autoreset_mode` is an attribute too",
    "raises": "reset, step and close accept what the contract allows",
    "output": "arrays are of one kind: numpy, or tensors of one device without gradients",
    "observation": "observations lie in `observation_space`, with its shapes and dtypes",
    "reward": "rewards are (N,) floats, and finite",
    "flags": "terminated and truncated are (N,) bool",
    "info": "`info` holds arrays with a row each, and a mask `_key` bool (N,) for every key",
    "info-dtype": "strict: arrays in `info` are numbers",
    "seed": "the same seed gives the same trajectory, other seeds others, no seed goes on with the stream",
    "seed-rows": "rows do not all get the same random numbers",
    "seed-list": "strict: `reset(seed=[...])` seeds every row, and `seed=s` gives row i the seed s + i",
    "crosstalk": "a row depends on its own seed and actions, not on other rows",
    "single": "row i equals the single environment with the seed of that row",
    "agreement": "modes and outputs show the same episodes",
    "next-step": "NEXT_STEP: the step after the end resets, ignores the action, reward 0, flags False",
    "final-obs": "the observation that ended an episode is reported, not that of the next episode",
    "final-info": "SAME_STEP: `final_info` comes with `_final_info`",
    "finished-row": "strict: with DISABLED a finished row cannot be stepped before its reset",
    "partial-reset": "`reset(options={'reset_mask': mask})` resets the rows of the mask and touches no other",
    "options": "strict: `reset` leaves the caller's `options` as they were",
    "aliasing": "an array that was returned never changes, nor shares memory with a later one",
    "mutation": "writing into returned arrays does not change the environment",
    "read-only": "strict: returned numpy arrays can be written to",
    "actions": "`step` leaves the caller's actions as they were",
    "time-limit": "reaching `max_episode_steps` truncates; no episode is longer",
    "snapshot": "`set_state(get_state())` replays bit for bit, random numbers too",
    "masked-step": "`step(actions, mask=...)` leaves the other rows bit for bit as they were",
    "pickle": "a pickled or deep copied environment plays the same",
    "wrapper": "Gymnasium's vector wrappers work, and count what happened",
    "close": "`close()` can be called twice; strict: sets `closed`, and nothing can be stepped afterwards",
}
"""Every code that a violation can have, and the rule behind it."""


@dataclass(frozen=True)
class Violation:
    """One broken rule. `code` is a key of `CODES`; `setting` names the mode and output that were asked for."""

    code: str
    message: str
    setting: str = ""

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code

    def __str__(self) -> str:
        return f"[{self.code}] {self.message}" + (f" ({self.setting})" if self.setting else "")


@dataclass(frozen=True)
class Note:
    """Something that was not checked, with the reason, or that only `strict` calls a violation."""

    message: str
    setting: str = ""

    def __str__(self) -> str:
        return self.message + (f" ({self.setting})" if self.setting else "")


@dataclass
class Report:
    """Violations and notes in the order in which they were found."""

    violations: list[Violation] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    @property
    def codes(self) -> set[str]:
        """The codes of all violations."""
        return {violation.code for violation in self.violations}

    def __str__(self) -> str:
        lines = [f"{len(self.violations)} violations, {len(self.notes)} notes"]
        lines += [f"  violation {violation}" for violation in self.violations]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


class ConformanceError(AssertionError):
    """The environment breaks the contract. The message lists every violation; `report` holds them."""

    def __init__(self, report: Report) -> None:
        super().__init__("\n".join(str(violation) for violation in report.violations))
        self.report = report


class Findings:
    """Collects what one setting shows, each sentence once."""

    def __init__(self, report: Report, setting: str, strict: bool) -> None:
        self.report, self.setting, self.strict = report, setting, strict
        self._said: set[tuple[str, str]] = set()

    def add(self, code: str, message: str, example: str | None = None, strict: bool = False) -> None:
        """A violation, and one example of it; with `strict`, one of those that Gymnasium's contract leaves open."""
        if (code, message) in self._said:
            return
        self._said.add((code, message))
        text = message if example is None else f"{message} ({example})"
        if strict and not self.strict:
            self.note(f"beyond Gymnasium's contract [{code}]: {text}")
        else:
            self.report.violations.append(Violation(code, text, self.setting))

    def note(self, message: str) -> None:
        """Something that was not checked."""
        if (note := Note(message, self.setting)) not in self.report.notes:
            self.report.notes.append(note)

    def has(self, *codes: str) -> bool:
        """Whether this setting has shown a violation of one of `codes`; of any, without them."""
        found = {violation.code for violation in self.report.violations if violation.setting == self.setting}
        return bool(found & set(codes) if codes else found)
