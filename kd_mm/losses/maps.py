"""Losses that compare one pair of feature maps a stage: FitNets, AT, CWD, PKD, SP, VID, MGD."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_mm.losses.base import ALL_TASKS, Loss, LossContext, choice
from kd_mm.losses.functional import full_precision, same_size, standardized_channels
from kd_mm.losses.observation import Observation
from kd_mm.registry import MODELS


class FeatureLoss(Loss):
    """Base of losses that compare the student's and the teacher's map of each stage in :meth:`compare`.

    The student's map is the adapted one where a subclass requires ``student.adapted``, else the stage's own.
    """

    requires = frozenset({"student.adapted", "teacher.features"})

    def terms(self, student: Observation, teacher: Observation) -> dict[str, Tensor]:
        """Return the distance of each stage."""
        maps = student.adapted if "student.adapted" in self.requires else student.features
        return {
            f"stage{i}": self.compare(full_precision(maps[i]), full_precision(teacher.features[i].detach()), i)
            for i in self.stage_numbers(max(maps))
        }

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the distance of two maps ``(B, C_s, H_s, W_s)`` and ``(B, C_t, H_t, W_t)``, a scalar.

        Args:
            student: The student's map, at least float32.
            teacher: The teacher's map, likewise; a constant.
            stage: Number of the stage, from 1. Default: 1.
        """
        raise NotImplementedError


@MODELS.register_module()
class FitNetsLoss(FeatureLoss):
    """Compare the student's connected map with the teacher's: FitNets (Romero et al. 2015, arXiv 1412.6550).

    ``L = sum_i mean_{b,c,h,w} (r(F_s^i) - F_t^i)^2``, ``r`` being the recipe's connector; of maps of different sizes
    the larger one is pooled (our reading). One phase beside the task's loss, as in mdistiller's ``FitNet`` and
    MMRazor's ``L2Loss``; the paper has two.
    """

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the mean squared distance of two maps ``(B, C, H, W)`` of equal C, a scalar."""
        return F.mse_loss(*same_size(student, teacher))


@MODELS.register_module()
class ATLoss(FeatureLoss):
    """Compare the spatial attention of student and teacher: AT (Zagoruyko & Komodakis 2017, arXiv 1612.03928).

    ``L = sum_i mean_{b,h,w} (Q(F_s^i) - Q(F_t^i))^2``, where ``Q`` is the map ``mean_c |F|^p`` divided by its L2 norm
    over all positions; of maps of different sizes the larger one is pooled. The widths need not agree. Public code:
    ``szagoruyko/attention-transfer``, RepDistiller, mdistiller, MMRazor (which refuses different sizes).

    Args:
        power: p > 0. Default: 2.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For a power that is not above 0.
    """

    requires = frozenset({"student.features", "teacher.features"})

    def __init__(self, power: float = 2.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if power <= 0:
            raise ValueError(f"ATLoss: power={power} must be above 0")
        self.power = power

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the distance of two maps ``(B, C_s, H, W)`` and ``(B, C_t, H, W)``, a scalar."""
        student, teacher = same_size(student, teacher)
        return F.mse_loss(self.attention(student), self.attention(teacher))

    def attention(self, feature: Tensor) -> Tensor:
        """Return the normalised attention ``(B, H W)`` of a map ``(B, C, H, W)``; zeros for a map of zeros."""
        # Powers of powers leave float32 soon; the result does not depend on the scale, so neither does its gradient.
        scale = feature.detach().abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(feature.dtype).tiny)
        return F.normalize((feature / scale).abs().pow(self.power).mean(dim=1).flatten(1), dim=1)


@MODELS.register_module()
class CWDLoss(FeatureLoss):
    """Compare each channel as a distribution over positions: CWD (Shu et al. 2021, arXiv 2011.13256).

    ``L_CWD = sum_i tau^2 / (B C) sum_{b,c} KL(softmax_hw(F_t^i / tau) || softmax_hw(F_s^i / tau))``: sum over
    positions, mean over batch and channels. Public code: MMRazor's ``ChannelWiseDivergence``, without a connector.

    Args:
        temperature: tau > 0, in units of the feature map. Default: 1.
        resize: Whether maps of different sizes are compared at the smaller one (adaptive average). Default: False.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For maps of different sizes, without ``resize``.
    """

    def __init__(self, temperature: float = 1.0, resize: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature, self.resize = temperature, resize

    def setup(self, context: LossContext) -> None:
        """Check before training that each pair of maps has one size."""
        for i in self.stage_numbers(len(context.pairs)):
            student, teacher = ((stage.height, stage.width) for stage in context.pairs[i - 1])
            if student != teacher and not self.resize:
                raise ValueError(_different_sizes(i, student, teacher))

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the divergence of two maps ``(B, C, H, W)`` of equal C, a scalar; see the class for errors."""
        if self.resize:
            student, teacher = same_size(student, teacher)
        if student.shape != teacher.shape:
            raise ValueError(_different_sizes(stage, tuple(student.shape), tuple(teacher.shape)))
        log_q = F.log_softmax(student.flatten(2) / self.temperature, dim=-1)
        log_p = F.log_softmax(teacher.flatten(2) / self.temperature, dim=-1)
        channels = student.shape[0] * student.shape[1]
        return F.kl_div(log_q, log_p, reduction="sum", log_target=True) * self.temperature**2 / channels


def _different_sizes(stage: int, student: tuple[int, ...], teacher: tuple[int, ...]) -> str:
    return (
        f"CWDLoss: stage {stage} has maps {student} (student) and {teacher} (teacher); pair stages of equal "
        "stride, e.g. levels of the necks, or set resize=True"
    )


@MODELS.register_module()
class PKDLoss(FeatureLoss):
    """Correlate each channel of the student with the teacher's: PKD (Cao et al. 2022, arXiv 2207.02039).

    ``L_PKD = sum_i mean_{b,c,h,w} (n(F_s^i) - n(F_t^i))^2 / 2``, where ``n`` brings every channel to mean 0 and
    standard deviation 1 over batch and space (unbiased, plus 1e-6). Up to the bias that is ``1 - r`` with Pearson's
    ``r``. Of maps of different sizes the student's is resized (bilinear). Public code: MMRazor's ``PKDLoss``, without
    a connector.

    Args:
        resize: Which map is brought to the other's size where they differ: ``"student"`` or ``"teacher"`` (bilinear),
            or the larger of the two to the ``"smaller"`` (adaptive average). MMRazor's default is the student; it
            compares heights only, here the widths count too. Default: ``"student"``.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For an unknown ``resize``.
    """

    def __init__(self, resize: str = "student", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.resize = choice("resize", resize, ("student", "teacher", "smaller"))

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the distance of two maps ``(B, C, H, W)`` of equal C, a scalar."""
        if student.shape[2:] != teacher.shape[2:]:
            if self.resize == "smaller":
                student, teacher = same_size(student, teacher)
            elif self.resize == "student":
                student = F.interpolate(student, teacher.shape[2:], mode="bilinear")
            else:
                teacher = F.interpolate(teacher, student.shape[2:], mode="bilinear")
        return F.mse_loss(standardized_channels(student)[0], standardized_channels(teacher)[0]) / 2


@MODELS.register_module()
class SPLoss(FeatureLoss):
    """Preserve the teacher's similarities between the samples of a batch: SP.

    SP (Tung and Mori, ICCV 2019, arXiv 1907.09682): ``L = sum_i ||G_s^i - G_t^i||_F^2 / B^2``, where ``G = f f^T`` of
    the flattened maps ``(B, C H W)``, each row divided by its length. Widths and grids may differ. Public code:
    RepDistiller's ``Similarity``.
    ``stages`` is the last one by default.
    """

    requires = frozenset({"student.features", "teacher.features"})
    reads_last_stage = True
    tasks = ALL_TASKS - {"detection"}
    instead = (
        "it compares the images of a batch with each other, and a detector gets a few at a time; take a loss on maps "
        "(recipes at, pkd, cwd, fgd)"
    )

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the distance of the similarities in two maps or embeddings ``(B, ...)``, a scalar."""
        return F.mse_loss(similarities(student), similarities(teacher))


def similarities(feature: Tensor) -> Tensor:
    """Return the inner products ``(B, B)`` of the samples of ``(B, ...)``, each row of length 1."""
    flat = feature.flatten(1)
    return F.normalize(flat @ flat.T, dim=1)


@MODELS.register_module()
class VIDLoss(FeatureLoss):
    """Predict the teacher's map from the student's with learned uncertainty: VID (Ahn et al. 2019, arXiv 1904.05835).

    ``L = sum_i mean_{b,c,h,w} 1/2 [ (mu(F_s^i) - F_t^i)^2 / v_c + log v_c ]``, ``v_c = softplus(a_c) + eps``: a bound
    of the mutual information in which channels that cannot be predicted count less. ``mu`` is three 1x1 convolutions
    without bias and with ReLU between them, of the teacher's width; it and ``a`` are learned. It can be negative.

    Public code: RepDistiller's ``VIDLoss``; in mdistiller's ``VID`` the variances are not trained.

    Args:
        initial_variance: Initial ``v_c``, in units of the feature map squared; above ``eps``. Default: 5.
        eps: Smallest variance, above 0. Default: 1e-5.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For an initial variance that is not above ``eps``, or an ``eps`` that is not above 0.
    """

    requires = frozenset({"student.features", "teacher.features"})

    def __init__(self, initial_variance: float = 5.0, eps: float = 1e-5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < eps < initial_variance:
            raise ValueError(f"VIDLoss: initial_variance={initial_variance} must be above eps={eps}, eps above 0")
        self.initial_variance, self.eps = initial_variance, eps
        self.regressors = nn.ModuleDict()
        self.scales = nn.ParameterDict()

    def setup(self, context: LossContext) -> None:
        """Create regressor and variances of each stage that is read, of the measured widths."""
        # The inverse of the softplus, exact where exp() would overflow.
        start = torch.tensor(self.initial_variance - self.eps, dtype=torch.float64)
        start = start + torch.log(-torch.expm1(-start))
        for i in self.stage_numbers(len(context.pairs)):
            width, out = (stage.channels for stage in context.pairs[i - 1])
            first, second, third = (nn.Conv2d(channels, out, 1, bias=False) for channels in (width, out, out))
            self.regressors[f"stage{i}"] = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
            self.scales[f"stage{i}"] = nn.Parameter(torch.full((out,), float(start)))

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the negative log-likelihood of a map ``(B, C_t, H, W)`` given ``(B, C_s, H, W)``, a scalar."""
        student, teacher = same_size(student, teacher)
        mean = self.regressors[f"stage{stage}"](student)
        variance = (F.softplus(self.scales[f"stage{stage}"]) + self.eps).view(1, -1, 1, 1)
        return 0.5 * ((mean - teacher).square() / variance + variance.log()).mean()


@MODELS.register_module()
class MGDLoss(FeatureLoss):
    """Generate the teacher's map from the student's masked map: MGD (Yang et al., ECCV 2022, arXiv 2205.01529).

    ``L_MGD = sum_i |F_t^i - G_i(M_i * F_s^i)|^2 / |F_t^i|^2``: ``M_i`` is one draw of 0 and 1 for each position of each
    image, all channels alike, ``G_i`` two learned 3x3 convolutions with bias and a ReLU between them. Where the widths
    differ, F_s goes through a learned 1x1 convolution with bias first; of maps of different sizes the larger one is
    pooled (our reading).

    Public code: ``yzd-v/MGD``, which sums over positions and channels and divides by B instead, ``reduction="sum"``,
    weight 2e-5 for dense heads (mask 0.65) and 5e-7 for two-stage detectors (0.45). These weights belong to maps of 256
    channels of images of 1333 x 800 pixels and to the size of their values; relative to the teacher's map nothing of
    that matters, which is our reading.

    Args:
        mask_ratio: Share of positions that are masked, 0 to 1. Default: 0.65.
        reduction: ``"relative"`` to the teacher's squares, or ``"sum"`` (divided by B). Default: ``"relative"``.
        **kwargs: See :class:`kd_mm.losses.base.Loss`.

    Raises:
        ValueError: For a ``mask_ratio`` outside of [0, 1) or an unknown ``reduction``.
    """

    requires = frozenset({"student.features", "teacher.features"})

    def __init__(self, mask_ratio: float = 0.65, reduction: str = "relative", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"MGDLoss: mask_ratio={mask_ratio} is no share of positions; choose 0 or more, below 1")
        self.mask_ratio, self.reduction = mask_ratio, choice("reduction", reduction, ("relative", "sum"))
        self.blocks = nn.ModuleDict()

    def setup(self, context: LossContext) -> None:
        """Create the learned parts of each stage that is read, of the measured widths."""
        for i in self.stage_numbers(len(context.pairs)):
            width, out = (stage.channels for stage in context.pairs[i - 1])
            generate = nn.Sequential(nn.Conv2d(out, out, 3, padding=1), nn.ReLU(), nn.Conv2d(out, out, 3, padding=1))
            align = nn.Identity() if width == out else nn.Conv2d(width, out, 1)
            self.blocks[f"stage{i}"] = nn.ModuleDict({"align": align, "generate": generate})

    def compare(self, student: Tensor, teacher: Tensor, stage: int = 1) -> Tensor:
        """Return the distance of two maps ``(B, C, H, W)``, a scalar; the masks are drawn anew in each call."""
        student, teacher = same_size(student, teacher)
        block: Any = self.blocks[f"stage{stage}"]
        kept = torch.rand(len(student), 1, *student.shape[2:], device=student.device) >= self.mask_ratio
        generated = block.generate(block.align(student) * kept)
        squares = F.mse_loss(generated, teacher, reduction="sum")
        if self.reduction == "sum":
            return squares / len(teacher)
        return squares / teacher.square().sum().clamp(min=torch.finfo(teacher.dtype).eps)
