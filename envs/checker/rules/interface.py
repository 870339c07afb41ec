"""Rules of what an environment declares, and of every array that it returns."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from lssvwm.envs.checker.case import Case
from lssvwm.envs.checker.data import arrays, difference, frozen, leaves, overlap
from lssvwm.envs.checker.driver import CaseError, Result

_KEPT = 3  # results of the past that new ones are compared with: buffers go round in ones, twos or threes


def declared(case: Case) -> None:
    """Attributes, spaces and metadata; settles in which mode the environment is played."""
    env: Any = case.env
    found, rows = case.findings, case.settings.num_envs
    if not isinstance(env, VectorEnv):
        found.add("interface", f"{type(env).__name__} is no gymnasium.vector.VectorEnv: derive it from that class")
        return
    spaces = ("observation_space", "action_space", "single_observation_space", "single_action_space")
    for name in spaces:
        if not isinstance(getattr(env, name, None), gym.Space):
            found.add("interface", f"{name} is missing or no Space: set it in __init__")
    if getattr(env, "num_envs", None) != rows:
        found.add("interface", f"num_envs is {getattr(env, 'num_envs', None)} although {rows} rows were asked for")
    if found.has("interface"):
        return
    for kind in ("observation", "action"):
        batched, single = getattr(env, f"{kind}_space"), getattr(env, f"single_{kind}_space")
        if batched != batch_space(single, rows):
            wanted = f"gymnasium.vector.utils.batch_space(single_{kind}_space, num_envs)"
            found.add("spaces", f"{kind}_space is {batched}: set it to {wanted}")
    _mode(case)


def _mode(case: Case) -> None:
    env, found, asked = case.env, case.findings, case.asked_mode
    mode = env.metadata.get("autoreset_mode")
    if not isinstance(mode, AutoresetMode):
        found.add("autoreset-mode", f"metadata['autoreset_mode'] is {mode!r}: set a gymnasium.vector.AutoresetMode")
        known = [member for member in AutoresetMode if mode in (member.value, member.name)]
        mode = known[0] if known else AutoresetMode.NEXT_STEP
    elif asked is not None and mode is not asked:
        found.add("autoreset-mode", f"metadata['autoreset_mode'] is {mode} although {asked} was asked for")
    case.mode = mode if asked is None else asked
    unwrapped = env.unwrapped
    if getattr(unwrapped, "autoreset_mode", None) is not case.mode:
        found.add("metadata", "the attribute autoreset_mode is missing or another: TorchRL reads it", strict=True)
    if "autoreset_mode" not in vars(unwrapped).get("metadata", {}):
        found.add(
            "metadata",
            "metadata is the dictionary of the class: set self.metadata = {**self.metadata, ...} for each instance",
            strict=True,
        )


class Watcher:
    """Looks at everything that a run returns."""

    def __init__(self, case: Case) -> None:
        self.case, self.findings = case, case.findings
        self.space = batch_space(case.env.single_observation_space, case.settings.num_envs)
        sample = frozen(self.space.sample())
        self._dtypes = {path: leaf.dtype for path, leaf in leaves(sample) if isinstance(leaf, np.ndarray)}
        self._past: list[list[tuple[str, Any, Any]]] = []
        self._device: torch.device | None = None

    def __call__(self, result: Result) -> None:
        """Check one result of reset or step."""
        self._observation(result.observation)
        named: dict[str, Any] = {"observation": result.observation, "info": result.info}
        if result.reward is not None:
            named |= {"reward": result.reward, "terminated": result.terminated, "truncated": result.truncated}
            self._results(result)
        self._kind(named)
        if not isinstance(result.info, dict):
            raise CaseError(f"info is a {type(result.info).__name__}: return a dictionary of arrays", "info")
        self._info(result.info, top=True)
        self._memory(named)

    def _observation(self, observation: Any) -> None:
        plain = frozen(observation)
        if not self.space.contains(plain):
            self.findings.add("observation", f"the observation does not lie in {self.space}: {_describe(plain)}")
            return
        for path, leaf in leaves(plain):
            kind, wanted = np.asarray(leaf).dtype, self._dtypes.get(path)
            if wanted is not None and kind != wanted:
                self.findings.add("observation", f"observation{path} is {kind}, the space says {wanted}")

    def _results(self, result: Result) -> None:
        reward = np.asarray(frozen(result.reward))
        if not np.issubdtype(reward.dtype, np.floating):
            self.findings.add("reward", f"reward is {reward.dtype}: return floating point numbers (N,)")
        elif not np.isfinite(reward).all():
            self.findings.add("reward", f"reward {reward.tolist()} is not finite")
        for name in ("terminated", "truncated"):
            flag = np.asarray(frozen(getattr(result, name)))
            if flag.dtype != np.bool_:
                self.findings.add("flags", f"{name} is {flag.dtype}: return bool (N,)")

    def _kind(self, named: dict[str, Any]) -> None:
        asked = self.case.asked_output
        core = [(name + path, leaf) for name, value in named.items() if name != "info" for path, leaf in leaves(value)]
        for name, leaf in core:
            wanted = {"numpy": (np.ndarray,), "torch": (torch.Tensor,)}.get(asked or "", (np.ndarray, torch.Tensor))
            if not isinstance(leaf, wanted):
                kinds = " or ".join(kind.__name__ for kind in wanted)
                self.findings.add("output", f"{name} is a {type(leaf).__name__}: return {kinds}")
        if len({type(leaf) for _, leaf in core}) > 1 and asked is None:
            self.findings.add("output", "observation, reward and flags mix numpy arrays and tensors: return one kind")
        for path, leaf in leaves(named):
            if not isinstance(leaf, torch.Tensor):
                if isinstance(leaf, np.ndarray) and not leaf.flags.writeable:
                    self.findings.add("read-only", f"{path} cannot be written to: return a copy", strict=True)
                continue
            self._device = leaf.device if self._device is None else self._device
            if leaf.requires_grad:
                self.findings.add("output", f"{path} requires grad: step under torch.no_grad()")
            if leaf.device != self._device:
                self.findings.add("output", f"{path} is on {leaf.device}, others on {self._device}")

    def _info(self, info: dict[str, Any], top: bool, path: str = "info") -> None:
        rows = self.case.settings.num_envs
        for key, value in info.items():
            name, masked = f"{path}[{key!r}]", f"_{key}" in info
            if isinstance(key, str) and key.startswith("_") and key[1:] in info:
                mask = np.asarray(frozen(value))
                if mask.dtype != np.bool_ or mask.shape != (rows,):
                    self.findings.add("info", f"{name} is {mask.dtype} {mask.shape}: masks are bool ({rows},)")
                continue
            if top and not masked:
                self.findings.add(
                    "info", f"{name} has no mask: add info['_{key}'], bool ({rows},), True where it is set"
                )
            if key == "final_obs":
                continue  # the rules of the mode look at it
            if isinstance(value, dict):
                self._info(value, top=False, path=name)
            elif not isinstance(value, np.ndarray | torch.Tensor) or value.ndim == 0 or len(value) != rows:
                shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
                self.findings.add("info", f"{name} is a {type(value).__name__}{shape}: give an array with {rows} rows")
            elif (
                isinstance(value, np.ndarray) and not np.issubdtype(value.dtype, np.number) and value.dtype != np.bool_
            ):
                self.findings.add("info-dtype", f"{name} is {value.dtype}: put numbers alone into info", strict=True)

    def _memory(self, named: dict[str, Any]) -> None:
        fresh = [(name + path, leaf) for name, value in named.items() for path, leaf in arrays(value)]
        for past in self._past:
            for name, leaf, copied in past:
                if difference(frozen(leaf), copied) is not None:
                    self.findings.add("aliasing", f"{name} changed after it was returned: return fresh arrays")
                for later, new in fresh:
                    if overlap(leaf, new):
                        self.findings.add("aliasing", f"{later} shares memory with {name} of an earlier step: copy it")
        self._past = [*self._past[-_KEPT + 1 :], [(name, leaf, frozen(leaf)) for name, leaf in fresh]]


def _describe(value: Any) -> str:
    parts = []
    for path, leaf in leaves(value):
        array = np.asarray(leaf)
        limits = ""
        if array.size and np.issubdtype(array.dtype, np.number):
            low, high = float(array.min()), float(array.max())
            limits = (
                f" between {low:g} and {high:g}" if math.isfinite(low + high) else " with numbers that are not finite"
            )
        parts.append(f"{path or 'it'} is {array.dtype} {array.shape}{limits}")
    return "; ".join(parts)
