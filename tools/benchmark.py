"""Time a distillation config beside its floor: the plain student's step and the teacher's forward, round by round."""

import sys

from kd_mm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
