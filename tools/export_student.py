"""Write the student of a run as a plain checkpoint, with its plain config beside it."""

import sys

from kd_mm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
