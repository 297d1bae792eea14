"""Write the student of a run as a plain checkpoint, with its plain config beside it."""

import sys

from kd_mm.cli.export_student import main

if __name__ == "__main__":
    sys.exit(main())
