"""The command ``raygen tune`` as a job.

``ray job submit --working-dir . -- python jobs/tune.py --config jobs/tune.yaml``
"""

import sys

from raygen.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
