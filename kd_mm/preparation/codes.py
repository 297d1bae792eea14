"""Training of a teacher's codes for multi-granularity distillation (MAG, MAS)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, get_rank
from torch import Tensor

from kd_mm.losses.functional import full_precision, kl_divergence
from kd_mm.losses.mag import BRANCHES, Codes
from kd_mm.preparation.base import SCHEDULE, EpochTraining
from kd_mm.preparation.data import TrainingData, progress
from kd_mm.preparation.features import held_out_splits
from kd_mm.registry import PREPARATIONS
from kd_mm.utils.contexts import isolated_rng


@PREPARATIONS.register_module()
class CodeTraining(EpochTraining):
    """Trains encoders and decoders of a frozen teacher's feature: two codes, each decoded into logits.

    ``sum_j T_j^2 KL(softmax(z_t / T_j) || softmax(d_j / T_j)) + CE(d_j, y)``, ``d_j`` decoded from the code j of the
    teacher's feature, T 2 and 8, as the public code of Shao and Chen (arXiv 2108.06681) does; data and augmentation are
    the student's. The options come from ``preparation`` of the losses (:class:`kd_mm.losses.MAGLoss`): those of
    :class:`kd_mm.preparation.base.EpochTraining` (``fraction`` the public code's 60 of 240 epochs by default),
    ``separate_passes`` (a pass over the data for each code, as in the public code, instead of one for both, which gives
    equal gradients), ``held_out``: a share of each class of the training images that the codes are not trained on;
    then the best epoch there counts, for each code by itself, instead of the last (the public code chose one by test
    accuracy).

    Args:
        tap: Tap of the teacher's feature ``(B, D)``.
        width: D.
        dims: Numbers of the low- and the high-dimensional code.
        temperatures: T of each.

    Raises:
        ValueError: An unknown option, or ``held_out`` is no share.
    """

    kind = "codes"
    defaults = {
        **SCHEDULE,
        "fraction": 1 / 4,
        "min_epochs": 1,
        "lr": 0.01,
        "milestones": [0.5, 0.75],
        "separate_passes": False,
        "held_out": 0.0,
    }

    module: Codes
    held_out: tuple[Tensor, Tensor] | None = None

    def setup(self, tap: str, width: int, dims: Sequence[int], temperatures: Sequence[float]) -> None:
        if not 0 <= self.options["held_out"] < 1:
            raise ValueError(f"{self.source}.held_out={self.options['held_out']} is a share, from 0 to below 1")
        self.tap, self.shape = tap, [tap, width, list(dims)]
        self.temperatures = dict(zip(BRANCHES, temperatures, strict=True))
        self.device = next(self.teacher.model.parameters()).device
        with isolated_rng(f"teacher codes/{self.teacher.name}"):
            self.module = Codes(width, dims, self.distiller.class_counts[self.teacher.name]).to(self.device)

    def fingerprint(self, data: TrainingData) -> list[Any]:
        return [*super().fingerprint(data), self.shape, self.temperatures]

    def run(self, data: TrainingData, partial: Path) -> dict[str, Any]:
        metric, share = "accuracy of their decoders on ", self.options["held_out"]
        if not share:
            scores = self.train(data, partial)
            return {"state_dict": self.module.state_dict(), "scores": scores, "metric": f"{metric}the training data"}

        def read(inputs: Tensor) -> dict[str, Tensor]:
            return {"feature": full_precision(self.teacher.record(inputs)[self.tap])}

        found, labels = data.collect_over_dataset(read, f"features of teacher {self.teacher.name}")
        ((chosen, held_out),) = held_out_splits(labels, share, None, seed=0)
        self.held_out = found["feature"][held_out], labels[held_out]
        self.train(data, partial, chosen.tolist())
        state = {key: value for best in self.kept.values() for key, value in best["weights"].items()}
        scores = {name: best["score"] for name, best in self.kept.items()}
        return {"state_dict": state, "scores": scores, "metric": f"{metric}held-out training images"}

    def load(self, state: Mapping[str, Tensor], origin: str) -> Codes:
        self.module.load_state_dict(state)
        return self.module.requires_grad_(False).eval()

    def train_epoch(self, epoch: int, loader: Any, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """Train for one epoch; return the accuracy of each decoder along the way."""
        codes, task, accuracy = self.module, self.distiller.task, dict[str, float]()
        for branches in [(name,) for name in BRANCHES] if self.options["separate_passes"] else [BRANCHES]:
            # The same batches in each pass.
            with isolated_rng(f"epoch {epoch} of rank {get_rank()}"):
                counts = torch.zeros(1 + len(branches), dtype=torch.float64)
                for batch in progress(loader, f"codes of teacher {self.teacher.name}, epoch {epoch + 1}"):
                    inputs = self.distiller.data_preprocessor(batch, True)
                    records = self.teacher.record(inputs["inputs"])
                    logits = self.teacher.logits(inputs["inputs"], records)
                    feature, targets = full_precision(records[self.tap]), task.targets(inputs["data_samples"])
                    decoded = {name: codes.decoders[name](codes.encoders[name](feature)) for name in branches}
                    losses = [branch_loss(d, logits, targets, self.temperatures[n]) for n, d in decoded.items()]
                    self.step(torch.stack(losses).sum(), optimizer)
                    right = [float(task.correct(each.detach(), targets).sum()) for each in decoded.values()]
                    counts += torch.tensor([len(targets), *right], dtype=torch.float64)
            all_reduce(counts)
            accuracy |= dict(zip(branches, (counts[1:] / counts[0].clamp(min=1)).tolist(), strict=True))
        return accuracy

    @torch.no_grad()
    def after_epoch(self, epoch: int) -> None:
        """Keep each code that is better on the held-out images than before; of equal epochs the first counts."""
        if self.held_out is None:
            return
        features, labels = self.held_out
        chunks = [self.module.decode(self.module.encode(chunk.to(self.device))) for chunk in features.split(4096)]
        for name in BRANCHES:
            predictions = torch.cat([chunk[name].argmax(dim=1).cpu() for chunk in chunks])
            score = float((predictions == labels).float().mean())
            if name not in self.kept or score > self.kept[name]["score"]:
                state = self.module.state_dict()
                weights = {key: value.clone() for key, value in state.items() if key.split(".")[1] == name}
                self.kept[name] = {"score": score, "weights": weights}


def branch_loss(decoded: Tensor, logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return ``T^2 KL(softmax(z_t / T) || softmax(d / T)) + CE(d, y)``, a scalar."""
    return kl_divergence(decoded, logits, temperature) + F.cross_entropy(decoded, targets)
