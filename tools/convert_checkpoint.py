"""Rename a public checkpoint so that a plain config of kd_mm loads it."""

import sys

from kd_mm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
