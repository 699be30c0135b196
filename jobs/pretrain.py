"""The command ``raygen pretrain`` as a job.

``ray job submit --working-dir . -- python jobs/pretrain.py --config jobs/pretrain.yaml``
"""

import sys

from raygen.cli import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
