"""Say what is installed, what is supported, which data sets are there, and what to do next."""

import importlib.util
import sys
from pathlib import Path


def main() -> int:
    """Run kd_mm/cli/check_env.py by its path: importing kd_mm would need everything that is to be checked."""
    here = Path(__file__).resolve().parent
    candidates = [here.parent / "kd_mm", here.parent.parent]  # a checkout, an installed kd_mm/.mim/tools
    package = next((folder for folder in candidates if (folder / "cli" / "check_env.py").is_file()), None)
    if package is None:
        sys.exit("error: kd_mm/cli/check_env.py was not found beside this tool; run it from a checkout of kd_mm")
    spec = importlib.util.spec_from_file_location("kd_mm_check_env", package / "cli" / "check_env.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.main()


if __name__ == "__main__":
    sys.exit(main())
