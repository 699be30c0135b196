"""Storage that fails: for a moment, which is waited for, or for good, which is an error at once."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

Result = TypeVar("Result")

WAITS = (0.2, 1.0, 5.0)
"""Seconds before the second try, and those after it."""

_FOR_GOOD = frozenset(
    getattr(errno, name)
    for name in (
        "EACCES", "EDQUOT", "EEXIST", "EFBIG", "EINVAL", "EISDIR", "ELOOP", "EMLINK", "ENAMETOOLONG", "ENOENT",
        "ENODEV", "ENOSPC", "ENOSYS", "ENOTDIR", "ENOTEMPTY", "ENOTSUP", "EPERM", "ENXIO", "EROFS", "EXDEV",
    )
)  # fmt: skip
"""What waiting cannot change: somebody has to make room, or give another folder or other rights."""

_SAID_FOR_GOOD = (
    "ACCESS_DENIED", "ACCESSDENIED", "FORBIDDEN", "INVALID_ACCESS_KEY_ID", "INVALIDACCESSKEYID", "NO_SUCH_BUCKET",
    "NOSUCHBUCKET", "NO_SUCH_KEY", "NO_SUCH_UPLOAD", "RESOURCE_NOT_FOUND", "SIGNATURE_DOES_NOT_MATCH",
    "UNRECOGNIZED_CLIENT", "MISSING_AUTHENTICATION_TOKEN", "INVALID_BUCKET", "PATH DOES NOT EXIST",
    "NOT A REGULAR FILE",
)  # fmt: skip
"""The same in the words of object stores, whose errors bear no number."""


def is_transient(error: OSError) -> bool:
    """Whether trying again may help: the network or the storage failed, and did not refuse."""
    if isinstance(
        error, FileNotFoundError | FileExistsError | PermissionError | NotADirectoryError | IsADirectoryError
    ):
        return False
    if error.errno is not None:
        return error.errno not in _FOR_GOOD
    said = str(error).upper()
    return not any(words in said for words in _SAID_FOR_GOOD)


def persist(attempt: Callable[[], Result], waits: Sequence[float] = WAITS) -> Result:
    """Return what ``attempt`` does; where the storage fails for a moment, it is called again after a wait.

    Args:
        attempt: may be called several times, whatever it had done before it failed.
        waits: seconds before each try but the first.

    Raises:
        OSError: the last one, if no wait is left or waiting cannot help.
    """
    for wait in waits:
        try:
            return attempt()
        except OSError as error:
            if not is_transient(error):
                raise
        time.sleep(wait)
    return attempt()
