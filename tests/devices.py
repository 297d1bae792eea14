"""Where tests run that must give the same on a GPU."""

import torch

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
