"""The command line: ``raygen COMMAND``."""

from raygen.cli.main import main

__all__ = ["main"]
