"""Train a config: a plain one, a distillation, or a plain one turned into a distillation (--distiller)."""

import sys

from kd_mm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
