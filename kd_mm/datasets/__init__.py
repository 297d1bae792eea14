"""Data sets that upstream lacks, or reads without the checks that training needs."""

from kd_mm.datasets.cifar import CIFAR10, CIFAR100
from kd_mm.datasets.cifar_retrieval import CIFAR100Retrieval
from kd_mm.datasets.folder_datasets import CUB, ImageNet, TinyImageNet
from kd_mm.datasets.identity_sampler import IdentitySampler
from kd_mm.datasets.market1501 import Market1501
from kd_mm.datasets.scale_to_annotation import ScaleToAnnotation
from kd_mm.datasets.voc import VOCDataset

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "CIFAR100Retrieval",
    "CUB",
    "IdentitySampler",
    "ImageNet",
    "Market1501",
    "ScaleToAnnotation",
    "TinyImageNet",
    "VOCDataset",
]
