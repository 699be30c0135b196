"""The command ``raygen look`` as a job.

``ray job submit --working-dir . -- python jobs/look.py --config jobs/look.yaml``
"""

import sys

from raygen.cli import main

if __name__ == "__main__":
    sys.exit(main(["look", *sys.argv[1:]]))
