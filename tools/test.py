"""Evaluate a checkpoint: any one of a run, with the distillation config or the student's plain config."""

import sys

from kd_mm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["test", *sys.argv[1:]]))
