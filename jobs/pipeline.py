"""The command ``raygen pipeline`` as a job.

``ray job submit --working-dir . -- python jobs/pipeline.py --config jobs/pipeline.yaml``
"""

import sys

from raygen.cli import main

if __name__ == "__main__":
    sys.exit(main(["pipeline", *sys.argv[1:]]))
