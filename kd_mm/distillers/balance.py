"""How strongly each loss of a recipe pulls at the student beside the student's own loss: measured, and set once."""

import math
from collections.abc import Mapping, Sequence

import torch
from mmengine.dist import all_reduce
from mmengine.logging import print_log
from torch import Tensor, nn

from kd_mm.losses import Loss
from kd_mm.utils.suggest import warn

#: Steps in force after which a loss is judged, and of which one in ``INTERVAL`` is measured.
STEPS, INTERVAL = 50, 10
#: Ratios to the student's own loss beyond which a loss is warned of.
LARGE, SMALL = 10.0, 0.01
#: Keeps gradients of float16 activations above their smallest number, as a loss scaler does; ratios do not change.
_FACTOR = 1024.0


class Balance(nn.Module):
    """Measures the gradient of each loss on the layers that it shares with the student's own loss.

    The measure is ``|g_k|_2 / |g_0|_2`` over the student's parameters that a gradient of both reaches, where ``g_k`` is
    that of the weighted loss k (at the end of its schedule) and ``g_0`` that of the student's own losses, whatever the
    recipe's ``student_loss_weight`` is. Its geometric mean over every tenth of a loss's first 50 steps is logged, with
    a warning above 10 and below 0.01. The very first steps say little: the small initial weights of a head let next to
    no gradient of the student's own loss through. A loss whose value is more than ten times that of the student's own
    in its first step is warned of at once.

    With ``shares`` (the recipe's ``balance="gradnorm"``) each named loss is then scaled, once, so that this mean
    becomes its share. The norms are those of GradNorm (Chen et al., ICML 2018, arXiv 1711.02257), which adapts weights
    in each step; setting them once is our reading.

    A measurement costs one more backward pass for each loss in force and one for the student's own, and a copy of the
    student's gradients in memory; there are five in a run. With several processes each takes the gradients of its own
    images, and their measures are averaged.

    Args:
        losses: By name; those without a gradient into the student are left out.
        shares: Wanted measure by loss. With any, what is measured is stored in checkpoints.

    Raises:
        ValueError: A share of a loss that is not there, or one that is not above 0.
    """

    sums: Tensor

    def __init__(self, losses: Mapping[str, Loss], shares: Mapping[str, float]) -> None:
        super().__init__()
        self.full_weights = {name: loss.loss_weight for name, loss in losses.items() if loss.trains_student}
        for name, share in shares.items():
            if name not in self.full_weights or not 0 < share < math.inf:
                raise ValueError(
                    f"recipe: shares.{name}={share}: give a number above 0 for losses of the recipe "
                    f"({', '.join(self.full_weights)})"
                )
        self.shares, self.measuring = dict(shares), False
        #: By loss: steps in force, measurements, sum of the logarithms of the measure.
        empty = torch.zeros(len(self.full_weights), 3, dtype=torch.float64)
        self.register_buffer("sums", empty, persistent=bool(shares))
        self._rows: dict[str, list[float]] = {}  # the same, where no step reads the device for it

    def start(self, resumed: bool) -> None:
        """Begin to measure; a run that is resumed goes on with its scales, without any it has logged its measures."""
        self._rows = dict(zip(self.full_weights, self.sums.tolist(), strict=True))
        self.measuring = bool(self.shares) or not resumed

    def scale(self, name: str) -> float:
        """Return the factor of a loss on top of its weight."""
        judged = name in self.shares and self._rows.get(name, [0, 0])[0] >= STEPS and self._rows[name][1] > 0
        return self.shares[name] / self._mean(name) if judged else 1.0

    def _mean(self, name: str) -> float:
        """Return the geometric mean of a loss's measures, NaN without any."""
        _, count, total = self._rows[name]
        return math.exp(total / count) if count else math.nan

    @torch.compiler.disable  # reads the device in some steps
    def measure(
        self, student: nn.Module, own: Mapping[str, Tensor], terms: Mapping[str, Tensor], weights: Mapping[str, float]
    ) -> None:
        """Count a step, and measure the losses in force if it is one of those; no gradient is accumulated anywhere.

        ``own`` are the student's own losses, ``terms`` hold ``loss_<name>`` of the losses in force, weighted by
        ``weights``.
        """
        if not self.measuring or not torch.is_grad_enabled():
            return
        waiting = [name for name in weights if name in self._rows and self._rows[name][0] < STEPS]
        if not waiting:
            return
        self._warn_of_values([name for name in waiting if self._rows[name][0] == 0], own, terms)
        for name in waiting:
            self._rows[name][0] += 1
        due = [name for name in waiting if self._rows[name][0] % INTERVAL == 0]
        if due:
            for name, ratio in zip(due, self._ratios(student, own, terms, due), strict=True):
                measure = ratio * self.full_weights[name] / weights[name]
                if 0 < measure < math.inf:
                    self._rows[name][1] += 1
                    self._rows[name][2] += math.log(measure)
        self.sums.copy_(torch.tensor(list(self._rows.values()), dtype=torch.float64))
        self._judge([name for name in due if self._rows[name][0] == STEPS])

    def _ratios(
        self, student: nn.Module, own: Mapping[str, Tensor], terms: Mapping[str, Tensor], names: Sequence[str]
    ) -> list[float]:
        """Return the measure of each weighted loss; NaN where no layer is shared."""
        parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]

        def gradients(loss: Tensor) -> list[Tensor | None]:
            if not (loss.requires_grad and parameters):
                return [None] * len(parameters)
            return list(torch.autograd.grad(_FACTOR * loss, parameters, retain_graph=True, allow_unused=True))

        reference, ratios = gradients(_total(own)), []
        for name in names:
            found = zip(gradients(terms[f"loss_{name}"]), reference, strict=True)
            shared = [(one, other) for one, other in found if one is not None and other is not None]
            norms = [torch.stack([one.float().norm() for one in side]).norm() for side in zip(*shared, strict=True)]
            ratios.append(norms[0] / norms[1] if norms else terms[f"loss_{name}"].new_tensor(math.nan))
        stacked = torch.stack(ratios)
        all_reduce(stacked, "mean")
        measured: list[float] = stacked.tolist()
        return measured

    def _warn_of_values(self, names: Sequence[str], own: Mapping[str, Tensor], terms: Mapping[str, Tensor]) -> None:
        if not names:
            return
        reference, *values = torch.stack([_total(own), *(terms[f"loss_{name}"] for name in names)]).tolist()
        for name, value in zip(names, values, strict=True):
            if reference > 0 and value > LARGE * reference:
                ratio = f"{value / reference:.3g} times the student's own loss in its first step"
                self._warn(name, f"is {ratio}; if that falls slowly, lower")

    def _judge(self, names: Sequence[str]) -> None:
        """Log the means of some losses, warn of those out of range that have no share, and log the scales of others."""
        if not names:
            return
        means = {name: self._mean(name) for name in names}
        start = f"first {STEPS} steps: gradient on the student's shared layers over that of its own loss"
        print_log(f"{start}: {_listed(means)}", "current")
        scales = {name: self.scale(name) for name in names if name in self.shares}
        if scales:
            print_log(f"balance: from now on each of these losses is scaled by: {_listed(scales)}", "current")
        for name, mean in means.items():
            ratio = f"{mean:.3g} times that of its own loss"
            if name not in self.shares and mean > LARGE:
                self._warn(name, f"has a gradient on the student of {ratio}; if that falls slowly, lower")
            elif name not in self.shares and mean < SMALL:
                self._warn(name, f"has a gradient on the student of {ratio}: leave it out, or raise")

    def _warn(self, name: str, problem: str) -> None:
        option = f"model.recipe.losses.{name}.loss_weight (now {self.full_weights[name]:g})"
        warn(f"loss {name!r} {problem} {option}")


def _total(losses: Mapping[str, Tensor | Sequence[Tensor]]) -> Tensor:
    found = [given for name, given in losses.items() if "loss" in name]
    values = [one for given in found for one in ([given] if isinstance(given, Tensor) else given)]
    return torch.stack([value.mean() for value in values]).sum()


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
