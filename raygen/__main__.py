"""``python -m raygen``."""

import os
import sys

# Python puts the working directory first, where a downloaded folder may hold a ray.py: raygen needs nothing from it.
if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:  # noqa: PTH109  (pathlib is not imported yet)
    del sys.path[0]

from raygen.cli import main

sys.exit(main())
