"""``ray job submit --working-dir . -- python jobs/sample.py --config jobs/sample.yaml``: the command ``raygen sample``."""

import sys

from raygen.cli import main

if __name__ == "__main__":
    sys.exit(main(["sample", *sys.argv[1:]]))
