"""Data sets that upstream lacks, or reads without the checks that training needs."""

from kd_mm.datasets.cifar import CIFAR10 as CIFAR10
from kd_mm.datasets.cifar import CIFAR100 as CIFAR100
from kd_mm.datasets.cifar_retrieval import CIFAR100Retrieval as CIFAR100Retrieval
from kd_mm.datasets.folder_datasets import CUB as CUB
from kd_mm.datasets.folder_datasets import ImageNet as ImageNet
from kd_mm.datasets.folder_datasets import TinyImageNet as TinyImageNet
from kd_mm.datasets.identity_sampler import IdentitySampler as IdentitySampler
from kd_mm.datasets.market1501 import Market1501 as Market1501
from kd_mm.datasets.scale_to_annotation import ScaleToAnnotation as ScaleToAnnotation
from kd_mm.datasets.voc import VOCDataset as VOCDataset
