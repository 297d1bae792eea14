"""Print the stages of a config's networks, and which student stage learns from which teacher stage."""

import sys

from kd_mm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["stages", *sys.argv[1:]]))
