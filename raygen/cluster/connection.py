"""Joining a Ray cluster, or starting one of this machine alone."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private import node, ray_constants, utils, worker
from ray.job_config import JobConfig

from raygen.cluster.lifeline import Lifeline, head_part, own_parts, raylet_part
from raygen.errors import SettingsError
from raygen.text import without_secrets

_PATIENCE = 10.0
"""Seconds that a head has to take a connection."""

_SLICE = 100
"""Milliseconds that Ray waits at a time for its own head."""

_LOOPBACK = ("127.0.0.1", "localhost")


@contextmanager
def session(address: str | None = None) -> Iterator[None]:
    """Be connected to Ray within the block; a connection from before stays.

    Args:
        address: of a cluster; None joins the one in RAY_ADDRESS (as a submitted job finds it), or else starts a cluster
            of this machine alone that listens on loopback only and ends with the block.

    Raises:
        SettingsError: if there is no cluster at the address.
        UnfinishedError: if Ray dies within the block. (The process ends with it where the block hangs in Ray.)
    """
    if ray.is_initialized():
        with unwrapped():
            yield
        return
    # Ray reads these when it starts: it sends no usage statistics.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # With a dead head, its events for the dashboard would be waited for.
    os.environ.setdefault("RAY_task_events_shutdown_flush_timeout_ms", "1000")
    # Ray's own future default; set now, it does not warn.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    where = address or os.environ.get("RAY_ADDRESS") or "local"
    if where == "local" or _host(where) in _LOOPBACK:
        _keep_to_loopback()
    endpoint = _endpoint(where)
    if endpoint is not None:
        _check_answer(where, *endpoint)
    elif where.startswith("ray://"):  # Ray itself tries for half a minute
        raise SettingsError(f"{where} lacks host or port", where="address", right="give both, as in ray://head:10001")
    lifeline = Lifeline(own_parts() if where == "local" else [head_part(*endpoint)] if endpoint else [])
    try:
        with lifeline, _no_obituaries():
            _start(where)
            if where != "local":
                _watch_joined(lifeline, endpoint)
            with unwrapped():
                yield
    finally:
        lifeline.cut()
        ray.shutdown()
        lifeline.close()


def _start(where: str) -> None:
    try:
        with _own_sigterm(), _no_secrets(), _patient():
            ray.init(address=where, include_dashboard=False if where == "local" else None,
                     job_config=JobConfig() if where.startswith("ray://") else _Job(),
                     logging_level=logging.ERROR, log_to_driver=False)  # fmt: skip
    # Ray raises a plain Exception where its processes do not come up.
    except Exception as error:
        raise _failure(where, error) from None


def _watch_joined(lifeline: Lifeline, endpoint: tuple[str, int] | None) -> None:
    joined: Any = worker._global_node
    if joined is None:  # behind ray://, where Ray's other processes are none of this process's
        return
    if endpoint is None and (found := _endpoint(joined.gcs_address)) is not None:
        lifeline.add(head_part(*found))
    lifeline.add(raylet_part(joined.raylet_socket_name))


class _Job(JobConfig):
    """A job whose workers look for modules where they are installed.

    Ray would have them look first in the driver's working directory, and in the folder of its script. A user's own
    network brings its folder with it, see ``Network`` and ``TrainingTask``.
    """

    def _runtime_env_has_working_dir(self) -> bool:
        return True


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise what a signal's handler raises as it is: where Ray waits, compiled code wraps it in a SystemError."""
    try:
        yield
    except SystemError as error:
        if error.__cause__ is None or isinstance(error.__cause__, Exception):
            raise
        raise error.__cause__ from None


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM: Ray sets its own, in Python and below it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    # In another thread Ray leaves it alone itself, and it could not be set.
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _no_secrets() -> Iterator[None]:
    """Keep passwords of addresses from what Ray shows all users of a cluster: it notes the driver's command line."""
    original = utils.get_entrypoint_name
    utils.get_entrypoint_name = lambda: without_secrets(original())  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        utils.get_entrypoint_name = original


@contextmanager
def _patient() -> Iterator[None]:
    """Let this process's other threads and signals run while Ray waits for its own head, in compiled code."""
    original = node.wait_for_persisted_port  # type: ignore[attr-defined]

    def wait(folder: str, machine: str, port: str, timeout_ms: int = 30_000) -> int:
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            left = int(1000 * (deadline - time.monotonic()))
            try:
                return int(original(folder, machine, port, timeout_ms=max(min(left, _SLICE), 0)))
            except RuntimeError:
                if left <= _SLICE:
                    raise
                time.sleep(0.01)  # the original keeps Python's lock

    node.wait_for_persisted_port = wait  # type: ignore[attr-defined]
    try:
        yield
    finally:
        node.wait_for_persisted_port = original  # type: ignore[attr-defined]


@contextmanager
def _no_obituaries() -> Iterator[None]:
    """Keep the last lines of a raylet's log, which Ray shows to all drivers when one dies, from the output."""
    original = worker.print_to_stdstream

    def show(data: dict[str, Any], ignore_prefix: bool) -> None:
        if not any(str(line).startswith("Raylet is terminated") for line in data["lines"]):
            original(data, ignore_prefix)

    worker.print_to_stdstream = show
    try:
        yield
    finally:
        worker.print_to_stdstream = original


def _host(address: str) -> str:
    return address.removeprefix("ray://").rpartition(":")[0]


def _endpoint(address: str) -> tuple[str, int] | None:
    """Return an address's host and port; None where it has not both. IPv6 addresses stand in brackets."""
    host, port = _host(address).strip("[]"), address.rpartition(":")[2]
    return (host, int(port)) if host and port.isdecimal() else None


def _check_answer(address: str, host: str, port: int) -> None:
    # Ray itself tries for minutes.
    try:
        socket.create_connection((host, port), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise _failure(address, error) from None


def _failure(address: str, error: Exception) -> SettingsError:
    reason = f"{type(error).__name__}: {str(error)[:200]}"
    if address == "local":
        return SettingsError(f"Ray does not start on this machine ({reason})", where="address",
                             right="correct that, or give the address of a running cluster")  # fmt: skip
    return SettingsError(f"no Ray cluster answers at {address} ({reason})", where="address",
                         right="give a running head's, or none to use this machine")  # fmt: skip


def _keep_to_loopback() -> None:
    # Ray's own switch between all interfaces and loopback. The processes that Ray starts read it from the environment;
    # this process has read it already, when it imported Ray.
    ray_constants.ENABLE_RAY_CLUSTER = os.environ.setdefault(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "0") == "1"
