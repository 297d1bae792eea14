"""Train a teacher and students alone and distilled; print one table and draw one picture (a few minutes)."""

import sys

from kd_mm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["quickstart", *sys.argv[1:]]))
