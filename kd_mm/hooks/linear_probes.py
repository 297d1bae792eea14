"""Linear probes: how much of the classes a linear layer, or the nearest neighbour, finds in frozen features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pooled(feature: Tensor, kind: str) -> Tensor:
    """Return what a probe reads of a map ``(B, C, H, W)``: ``(B, D)``, float32.

    Args:
        feature: The map.
        kind: ``"gap"`` (mean over places), ``"pool4"`` (4 x 4 adaptive average, flattened) or ``"flat"``.
    """
    feature = feature.float()
    if kind == "gap":
        return feature.mean(dim=(2, 3))
    return (F.adaptive_avg_pool2d(feature, 4) if kind == "pool4" else feature).flatten(1)


def held_out_parts(labels: Tensor, share: float, folds: int | None, seed: int) -> list[Tensor]:
    """Return masks ``(N,)`` of the samples on which probes are rated, class-balanced.

    Args:
        labels: ``(N,)``.
        share: Of each class, at least one sample where it has two or more.
        folds: One mask a fold instead, each class spread over all evenly; ``None`` for one mask of ``share``.
        seed: Of the choice.

    Raises:
        ValueError: Nothing would be held out.
    """
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.zeros(len(labels), dtype=torch.bool) for _ in range(folds or 1)]
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        if folds:
            for fold, mask in enumerate(masks):
                mask[members[fold::folds]] = True
        elif len(members) > 1:
            masks[0][members[: max(1, round(share * len(members)))]] = True
    if not all(mask.any() and not mask.all() for mask in masks):
        raise ValueError(
            f"probes: {len(labels)} training images of {len(labels.unique())} classes leave nothing to hold out or to "
            "train on; give more images, or a smaller probes.folds"
        )
    return masks


def rate(
    features: Mapping[int, Tensor],
    labels: Tensor,
    num_classes: int,
    held_out: list[Tensor],
    options: Mapping[str, Any],
    device: torch.device,
    advance: Callable[[], None] = lambda: None,
) -> dict[int, float]:
    """Return the accuracy of a linear probe of each stage on what was held out, the mean over the parts.

    Probes are trained by Adam on the cross-entropy, from a random state that is the same whichever teacher the features
    come from. Their parameters are disjoint, so training them together is training each alone.

    Args:
        features: ``(N, D)`` of each stage.
        labels: ``(N,)``.
        num_classes: K.
        held_out: Masks ``(N,)``.
        options: ``epochs``, ``batch_size``, ``lr``, ``weight_decay``, ``seed``.
        device: Where to train.
        advance: Called after each epoch.
    """
    right = dict.fromkeys(features, 0.0)
    for part, mask in enumerate(held_out):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(options["seed"] + part)  # nothing is drawn on a GPU
            probes = _train(features, labels, num_classes, ~mask, options, device, advance)
        with torch.no_grad():
            for i, probe in probes.items():
                answers = [probe(chunk.to(device)).argmax(dim=1).cpu() for chunk in features[i][mask].split(4096)]
                right[i] += float((torch.cat(answers) == labels[mask]).float().mean()) / len(held_out)
    return right


def nearest_rate(features: Mapping[int, Tensor], labels: Tensor, held_out: list[Tensor]) -> dict[int, float]:
    """Return at which share of the held-out samples the nearest other one has their label, the mean over the parts.

    Rank-1 of retrieval by cosine among the samples that are not held out; nothing is trained.

    Args:
        features: ``(N, D)`` of each stage.
        labels: ``(N,)``.
        held_out: Masks ``(N,)``.
    """
    right = dict.fromkeys(features, 0.0)
    for mask in held_out:
        for i, feature in features.items():
            gallery = F.normalize(feature[~mask], dim=1)
            chunks = F.normalize(feature[mask], dim=1).split(1024)
            nearest = torch.cat([(chunk @ gallery.T).argmax(dim=1) for chunk in chunks])
            right[i] += float((labels[~mask][nearest] == labels[mask]).float().mean()) / len(held_out)
    return right


def _train(
    features: Mapping[int, Tensor],
    labels: Tensor,
    num_classes: int,
    chosen: Tensor,
    options: Mapping[str, Any],
    device: torch.device,
    advance: Callable[[], None],
) -> dict[int, nn.Linear]:
    probes = {i: nn.Linear(feature.shape[1], num_classes).to(device) for i, feature in features.items()}
    parameters = [parameter for probe in probes.values() for parameter in probe.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=options["lr"], weight_decay=options["weight_decay"])
    indices = chosen.nonzero().flatten()
    for _ in range(options["epochs"]):
        for batch in indices[torch.randperm(len(indices))].split(options["batch_size"]):
            targets = labels[batch].to(device)
            with torch.enable_grad():
                losses = [F.cross_entropy(probe(features[i][batch].to(device)), targets) for i, probe in probes.items()]
                optimizer.zero_grad()
                torch.stack(losses).sum().backward()
            optimizer.step()
        advance()
    return probes
