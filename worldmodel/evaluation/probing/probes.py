"""Linear and non-linear probes: what can be read off vectors that nobody trained for it, on examples held out."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from lssvwm.worldmodel.common.errors import InputError
from lssvwm.worldmodel.common.rng import weights_from
from lssvwm.worldmodel.heads import mlp

ProbeKind = Literal["linear", "mlp"]
Measure = Literal["accuracy", "distance"]
CLASSES = 64
"""Values of an integer target that count as classes, at most."""
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Penalties of the linear probe to choose from, in units of the inputs' mean variance times their number."""


@dataclass(frozen=True)
class ProbeConfig:
    """How probes are trained. The linear one is solved; the MLP takes gradient steps and keeps its best weights."""

    components: int = 512
    """Principal components of the inputs that a probe sees."""
    hidden: int = 256
    """Width of the MLP."""
    layers: int = 2
    """Hidden layers of the MLP."""
    steps: int = 400
    """Optimiser steps of the MLP; every twentieth is tried on the validation examples."""
    batch: int = 256
    """Examples per step."""
    lr: float = 1e-3
    """Learning rate of AdamW."""
    seed: int = 0
    """Which first weights and which batches are drawn."""


class Examples(NamedTuple):
    """Inputs (n, size) and targets (n, ...): whole numbers or booleans to classify, floats to regress."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class ProbeResult:
    """How well a probe does on held-out examples, and what knowing the training targets alone gives there.

    `accuracy`: share of cells (entries of the target) classified right; its base says each cell's most frequent value.
    `distance`: mean Euclidean distance over the last axis of the target, in its units; its base says the mean.
    """

    kind: ProbeKind
    measure: Measure
    score: float
    base: float
    train_examples: int
    test_examples: int
    scores: tuple[float, ...] = ()
    """The score of every group of held-out examples, where groups were asked for."""
    bases: tuple[float, ...] = ()


def fit_probe(
    kind: ProbeKind,
    train: Examples,
    validation: Examples,
    test: Examples,
    config: ProbeConfig | None = None,
    *,
    groups: Sequence[Tensor] = (),
) -> ProbeResult:
    """Fit a probe on `train`, choose its penalty or its best step on `validation`, and judge it on `test`.

    The three should come from different episodes. `groups`: indices of examples of `test` that are judged by
    themselves too. An `InputError` says why targets cannot be probed for.
    """
    config = config or ProbeConfig()
    task = classes_of(train.targets) if not train.targets.is_floating_point() else Regression(train.targets)
    basis = fit_basis(train.inputs, config.components)
    inputs = [basis.apply(each.inputs) for each in (train, validation, test)]
    fit = fit_linear if kind == "linear" else fit_mlp
    outputs = fit(task, inputs, train.targets, validation.targets, config)
    return ProbeResult(
        kind,
        "distance" if isinstance(task, Regression) else "accuracy",
        task.score(outputs, test.targets),
        task.base(train.targets, test.targets),
        len(train.inputs),
        len(test.inputs),
        tuple(task.score(outputs[group], test.targets[group]) for group in groups),
        tuple(task.base(train.targets, test.targets[group]) for group in groups),
    )


class Basis(NamedTuple):
    """Mean and scale (size,) of every input, and the principal components (size, k), of unit variance on average."""

    mean: Tensor
    scale: Tensor
    components: Tensor

    def apply(self, inputs: Tensor) -> Tensor:
        """Inputs (n, size) -> (n, k)."""
        return (inputs - self.mean) / self.scale @ self.components


def fit_basis(inputs: Tensor, components: int) -> Basis:
    """Standardise every input, then turn to at most `components` principal components, which lose nothing where there
    are fewer examples or inputs than that. What a memory holds is spread over more inputs than there are examples.
    """
    mean, scale = inputs.mean(0), inputs.std(0) + 1e-6
    _, spread, directions = torch.linalg.svd((inputs - mean) / scale, full_matrices=False)
    kept = max(1, min(components, int((spread > 1e-5 * spread[0]).sum())))
    deviation = (spread[:kept].square().mean() / len(inputs)).sqrt().clamp(min=1e-6)
    return Basis(mean, scale, directions[:kept].T / deviation)


class Classification:
    """Every entry of the target is one of `values`; outputs (n, entries * values) are their logits."""

    def __init__(self, values: Tensor, entries: int) -> None:
        self.values, self.entries = values, entries
        self.outputs = entries * len(values)

    def encode(self, targets: Tensor) -> Tensor:
        """Index of each value, (n, entries); -1 where training never showed it."""
        flat = targets.reshape(len(targets), -1)
        index = torch.searchsorted(self.values, flat.contiguous()).clamp(max=len(self.values) - 1)
        return torch.where(self.values[index] == flat, index, -1)

    def wanted(self, targets: Tensor) -> Tensor:
        """What least squares aims at: one-hot, (n, outputs)."""
        return functional.one_hot(self.encode(targets).clamp(min=0), len(self.values)).flatten(1).float()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy."""
        logits = outputs.view(-1, len(self.values))
        return functional.cross_entropy(logits, self.encode(targets).flatten(), ignore_index=-1)

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """Share of entries told right."""
        told = outputs.view(-1, self.entries, len(self.values)).argmax(-1)
        return float((told == self.encode(targets)).double().mean())

    def base(self, train: Tensor, test: Tensor) -> float:
        """The same for each entry's most frequent value."""
        most = self.wanted(train).sum(0).view(1, self.entries, -1).argmax(-1)
        return float((most == self.encode(test)).double().mean())


class Regression:
    """The target is a number, or vectors along its last axis; outputs (n, entries) are standardised."""

    def __init__(self, train: Tensor) -> None:
        flat = train.reshape(len(train), -1).float()
        self.mean, self.scale = flat.mean(0), flat.std(0) + 1e-6
        self.outputs = flat.shape[1]

    def wanted(self, targets: Tensor) -> Tensor:
        """Standardised targets, (n, outputs)."""
        return (targets.reshape(len(targets), -1).float() - self.mean) / self.scale

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error."""
        return functional.mse_loss(outputs, self.wanted(targets))

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """Mean distance, in the units of the target."""
        told = (outputs * self.scale + self.mean).view(targets.shape)
        error = (told - targets.float()).double()
        return float((torch.linalg.vector_norm(error, dim=-1) if targets.ndim > 1 else error.abs()).mean())

    def base(self, train: Tensor, test: Tensor) -> float:
        """The same for the mean of the training targets."""
        return self.score(torch.zeros(len(test), self.outputs), test)


Task = Classification | Regression


def classes_of(train: Tensor) -> Classification:
    """The task of classifying whole numbers or booleans; too many values are an `InputError`."""
    values = train.unique()
    if len(values) > CLASSES:
        raise InputError(
            f"a target of whole numbers takes {len(values)} values: more than {CLASSES} are no classes to probe for, "
            "record it as floats to regress it"
        )
    return Classification(values, train[0].numel())


def fit_linear(task: Task, inputs: Sequence[Tensor], train: Tensor, validation: Tensor, config: ProbeConfig) -> Tensor:
    """Ridge regression on the targets, or on one-hot targets; outputs for the test inputs (n, outputs)."""
    fitted, tried, judged = (each.double() for each in inputs)
    wanted = task.wanted(train).double()
    mean, centre = wanted.mean(0), fitted.mean(0)
    left, spread, right = torch.linalg.svd(fitted - centre, full_matrices=False)
    found: list[tuple[float, Tensor]] = []
    for ridge in RIDGES:
        shrunk = spread / (spread.square() + ridge * len(fitted))
        weight = right.T @ (shrunk[:, None] * (left.T @ (wanted - mean)))
        aim = task.wanted(validation).double()
        loss = ((tried - centre) @ weight + mean - aim).square().mean()
        found.append((float(loss), ((judged - centre) @ weight + mean).float()))
    return min(found, key=lambda each: each[0])[1]


def fit_mlp(task: Task, inputs: Sequence[Tensor], train: Tensor, validation: Tensor, config: ProbeConfig) -> Tensor:
    """An MLP trained with AdamW; outputs of its best step on the validation examples for the test inputs."""
    fitted, tried, judged = (each.float() for each in inputs)
    with weights_from(config.seed):
        probe = mlp(fitted.shape[1], config.hidden, task.outputs, layers=config.layers)
    source = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=config.lr, weight_decay=0.01)
    best, kept = float("inf"), copy.deepcopy(probe)
    for step in range(1, config.steps + 1):
        batch = torch.randint(len(fitted), (min(config.batch, len(fitted)),), generator=source)
        loss = task.loss(probe(fitted[batch]), train[batch])
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        if step % 20 == 0 or step == config.steps:
            now = _loss(task, probe, tried, validation)
            if now < best:
                best, kept = now, copy.deepcopy(probe)
    with torch.no_grad():
        outputs: Tensor = kept(judged)
    return outputs


@torch.no_grad()
def _loss(task: Task, probe: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    return float(task.loss(probe(inputs), targets))
