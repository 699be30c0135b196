"""``python -m raygen``."""

import sys

from raygen.cli import main

sys.exit(main())
