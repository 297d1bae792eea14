"""Show what a re-identification network finds: queries, the nearest gallery images, CMC curves."""

import sys

from kd_mm.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["retrieval", *sys.argv[1:]]))
