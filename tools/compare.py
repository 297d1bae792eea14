"""Train and test configs under the same seeds and print one table: mean and spread, last epoch first."""

import sys

from kd_mm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
