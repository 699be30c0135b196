"""Entry points for ``ray job submit``: the same commands, run on a cluster's machine."""
