"""The feature hint of self-distillation (BYOT)."""

from torch import Tensor

from kd_mm.losses.base import Loss
from kd_mm.losses.functional import full_precision
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


@MODELS.register_module()
class BYOTHintLoss(Loss):
    """Compare the pooled features of each exit with those of the last stage: BYOT.

    BYOT (Zhang et al., ICCV 2019, arXiv 1905.08094): ``L = sum_{i<N} mean_b |f_i - f_N|^2``, where ``f_i`` is the input
    of exit i's classifier and ``f_N`` the spatial mean of the last stage, a constant. So the exits must end at the last
    stage's width: ``kd_mm.SepConvExit`` with ``hidden=None`` and ``kd_mm.MirrorExit`` do. Public code: MMRazor's
    ``byot``; ``luanyunteng/pytorch-be-your-own-teacher`` compares maps instead.
    ``stages`` are those whose exits learn.
    """

    requires = frozenset({"student.embeddings", "student.features"})

    def stage_numbers(self, num_stages: int) -> tuple[int, ...]:
        """Return the stages that are read: those whose exits learn, and the last; see the base class for errors."""
        return tuple(sorted({*super().stage_numbers(num_stages), num_stages}))

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the squared distance of each exit.

        Raises:
            ValueError: If an exit does not end at the last stage's width.
        """
        last = max(student.features)
        target = full_precision(student.features[last]).mean(dim=(2, 3)).detach()
        distances = {}
        for i in sorted(student.embeddings.keys() - {last}):
            embedding = full_precision(student.embeddings[i])
            if embedding.shape != target.shape:
                raise ValueError(
                    f"BYOTHintLoss: the exit of stage {i} ends with {embedding.shape[1]} channels, the last stage has "
                    f"{target.shape[1]}; use exits that end at its width, e.g. kd_mm.SepConvExit with hidden=None"
                )
            distances[f"stage{i}"] = (embedding - target).square().sum(dim=1).mean()
        return distances or {"none": student.features[last].sum() * 0.0}
