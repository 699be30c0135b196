"""The command ``raygen sample`` as a job.

``ray job submit --working-dir . -- python jobs/sample.py --config jobs/sample.yaml``
"""

import sys

from raygen.cli import main

if __name__ == "__main__":
    sys.exit(main(["sample", *sys.argv[1:]]))
