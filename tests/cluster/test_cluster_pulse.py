"""Servers that hang: they keep their connections and answer nothing. Busy ones, and those that refuse, are alive."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from waiting import wait_until

from raygen.cluster.pulse import GCS, RAYLET, Pulse

SERVER = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
import grpc
server = grpc.server(ThreadPoolExecutor(2))
print(server.add_insecure_port("127.0.0.1:" + sys.argv[1]), flush=True)
server.start()
sys.stdin.read()
"""
"""A server that knows none of Ray's methods, and says so."""

DEADLINE = 0.75


@contextmanager
def serving(port: int = 0) -> Iterator["tuple[subprocess.Popen[str], int]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


@pytest.fixture
def server() -> Iterator["tuple[subprocess.Popen[str], int]"]:
    with serving() as made:
        yield made


def look(pulse: Pulse, seconds: float) -> bool:
    """Look at it as the lifeline does; return whether it was alive all the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not pulse.is_alive():
            return False
        time.sleep(0.02)
    return True


@pytest.mark.parametrize("program", [GCS, RAYLET])
def test_a_server_that_answers_is_alive_and_one_that_hangs_is_not(
    program: str, server: "tuple[subprocess.Popen[str], int]"
) -> None:
    process, port = server
    pulse = Pulse("server", program, ("127.0.0.1", port), deadline=DEADLINE)
    assert look(pulse, 4 * DEADLINE)
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: not pulse.is_alive(), process)
    assert pulse.end == "hangs, it has answered nothing for 1.5 s"
    pulse.close()


def test_a_server_that_hangs_before_it_was_ever_asked_is_not_alive(
    server: "tuple[subprocess.Popen[str], int]",
) -> None:
    process, port = server
    os.kill(process.pid, signal.SIGSTOP)
    pulse = Pulse("server", GCS, ("127.0.0.1", port), deadline=DEADLINE)
    wait_until(lambda: not pulse.is_alive(), process)
    pulse.close()


def test_a_server_that_hangs_for_less_than_the_limit_is_alive_again_and_again(
    server: "tuple[subprocess.Popen[str], int]",
) -> None:
    process, port = server
    pulse = Pulse("server", GCS, ("127.0.0.1", port), deadline=DEADLINE)
    for _ in range(3):
        assert look(pulse, DEADLINE)
        os.kill(process.pid, signal.SIGSTOP)
        assert look(pulse, 1.2 * DEADLINE)
        os.kill(process.pid, signal.SIGCONT)
    pulse.close()


def test_a_head_that_may_be_restarted_has_as_long_as_ray_gives_it(server: "tuple[subprocess.Popen[str], int]") -> None:
    process, port = server
    pulse = Pulse("server", GCS, ("127.0.0.1", port), patience=5 * DEADLINE, deadline=DEADLINE)
    os.kill(process.pid, signal.SIGSTOP)
    assert look(pulse, 4 * DEADLINE)
    wait_until(lambda: not pulse.is_alive(), process)
    pulse.close()


def test_a_driver_that_was_asleep_itself_takes_nothing_for_dead(server: "tuple[subprocess.Popen[str], int]") -> None:
    _, port = server
    pulse = Pulse("server", GCS, ("127.0.0.1", port), deadline=DEADLINE)
    assert look(pulse, DEADLINE)
    time.sleep(4 * DEADLINE)  # it asks nothing meanwhile
    assert look(pulse, 4 * DEADLINE)
    pulse.close()


def test_a_head_that_is_restarted_in_time_is_alive_however_often(server: "tuple[subprocess.Popen[str], int]") -> None:
    process, port = server
    pulse = Pulse("server", GCS, ("127.0.0.1", port), patience=12 * DEADLINE, deadline=DEADLINE)
    assert look(pulse, DEADLINE)
    process.kill()
    assert look(pulse, 3 * DEADLINE), "as long as that it may be away"
    with serving(port) as (second, _):
        assert look(pulse, 4 * DEADLINE), "what it missed before is forgotten"
        second.kill()
        assert look(pulse, 10 * DEADLINE), "and it may be away as long once more"
    pulse.close()
