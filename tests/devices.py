"""Where tests run that must give the same on a GPU."""

import torch

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
#: Where two processes can run: each needs a GPU of its own.
PAIRS = ["cpu", *(["cuda"] if torch.cuda.device_count() > 1 else [])]
