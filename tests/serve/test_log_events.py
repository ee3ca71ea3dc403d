"""Every event that the log can hold, by a golden file of exact lines."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from serve import logs
from tests import golden
from tests.serve import log_lines
from tests.serve.test_docs import Event, logged

NOON = 1_767_268_800.0  # 2026-01-01T12:00:00Z
NO_DETAIL = {"time", "level", "event", "replica", "left_out"}
FAILING = "\n\n\ndef run(inputs):\n    raise ValueError('no such row')\n\n\nrun({})\n"


@pytest.fixture(autouse=True)
def at_noon() -> Iterator[None]:
    """Every record is made at noon."""

    class AtNoon(logging.LogRecord):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)
            self.created = NOON

    usual, level, propagate = logging.getLogRecordFactory(), logs.LOGGER.level, logs.LOGGER.propagate
    logging.setLogRecordFactory(AtNoon)
    yield
    logging.setLogRecordFactory(usual)
    logs.end()
    logs.LOGGER.setLevel(level)
    logs.LOGGER.propagate = propagate


def failure() -> ValueError:
    """An error whose trace names no file of this machine."""
    try:
        exec(compile(FAILING, "model.py", "exec"), {})
    except ValueError as error:
        return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    raise AssertionError


def command() -> None:
    """What `optimize serve` itself writes."""
    logs.event("ready", replicas=2, seconds=6.214)
    logs.event("ray", logging.WARNING, text="(raylet) A worker died or was killed")
    logs.event("haproxy", logging.WARNING, text="Server replicas/r1 is DOWN, reason: Layer4 connection problem")
    logs.event("haproxy_ended", logging.ERROR, code=-9)
    reason = "ray 2.61.0 has no ray._private.node:Node.start_monitor"
    logs.event("patch_skipped", logging.WARNING, target="ray._private.node:Node.start_monitor", reason=reason)
    logs.event("drain_failed", logging.WARNING, reason="The actor died unexpectedly before finishing this task.")


def replica() -> None:
    """What a replica writes while it starts, runs and ends."""
    reason = "grpcio 1.90.0 has no grpc._cython.cygrpc:AioServer"
    logs.event("patch_skipped", logging.WARNING, target="grpc._cython.cygrpc:AioServer", reason=reason)
    logs.event("replica_ready", seconds=2.5, resident_mb=311.4)
    logs.event(
        "replica_ready", logging.WARNING, seconds=2.5, resident_mb=311.4, measured_peak_mb=201.9, budget_mb=300.0
    )
    logs.event("start_failed", logging.ERROR, reason="digits: version 3 is damaged; export it again")
    logs.event("unhealthy", logging.ERROR, reason="model digits version 3: its executions fail")
    logs.event("replicas_silent", logging.WARNING, failure())
    logs.event("no_metrics", logging.WARNING, ports=[9100, 9101], reason="the ports are in use")
    logs.event("draining")
    logs.event("drained")


def versions() -> None:
    """What a replica writes about the versions that it opens."""
    opened = {"model": "digits", "version": 3, "digest": "6f1c2a"}
    logs.event("version_opened", **opened, measured="here", seconds=0.412)
    logs.event("version_opened", logging.WARNING, **opened, measured="elsewhere", seconds=0.412)
    logs.event("version_taken", model="digits", version=3, before=2)
    logs.event("version_lingers", logging.WARNING, model="digits", version=2)
    reason = "digits: version 3 is damaged"
    logs.event("update_refused", logging.WARNING, model="digits", version=3, answering=2, reason=reason)
    logs.event("update_refused", logging.WARNING, failure(), model="digits", answering=2, reason="no such row")


def calls() -> None:
    """What a replica writes about calls, and about what lets them in."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    named = {"method": "ModelInfer", "model": "digits"}
    logs.event("call_failed", logging.ERROR, failure(), **named, request_id="order-66", traceparent=trace)
    logs.event("call_failed", logging.ERROR, failure(), **named)
    reason = "preprocess.py: KeyError: 'age'"
    logs.event("preprocess_failed", logging.WARNING, model="digits", request_id="order-66", reason=reason)
    logs.event("preprocess_failed", logging.WARNING, model="digits", reason=reason)
    logs.event("tokens_changed", tokens=2)
    reason = "tokens.txt: line 1: has 2 fields"
    logs.event("tokens_refused", logging.ERROR, reason=reason, instead="those of before stay in force")
    logs.event("certificate_changed", file="cert.pem")
    reason = "key.pem: is not the key of cert.pem"
    logs.event("certificate_refused", logging.ERROR, reason=reason, instead="that of before stays in use")


def written(**constant: object) -> io.StringIO:
    """Where this process's lines go from now on; what comes in a flood is not left out."""
    logs.begin(None, **constant)
    (handler,) = logs.LOGGER.handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.filters.clear()
    handler.setStream(lines := io.StringIO())
    return lines


def flood() -> str:
    """The line that follows a flood."""
    now = 0.0
    lines = written(replica="o5z6kegc")
    logs.LOGGER.handlers[0].addFilter(logs.Throttle(lambda: now))
    for _ in range(logs.MAX_PER_SECOND + 3):
        logs.event("tokens_changed", tokens=2)
    now = 1.0
    logs.event("tokens_changed", tokens=2)
    return lines.getvalue().splitlines(keepends=True)[-1]


def all_lines() -> str:
    of_command = written()
    command()
    of_replica = written(replica="o5z6kegc")
    for part in (replica, versions, calls):
        part()
    return of_command.getvalue() + of_replica.getvalue() + flood()


def test_lines_of_the_log_equal_the_golden_ones() -> None:
    golden.check(log_lines.GOLDEN, all_lines())


def test_golden_lines_have_every_event_of_the_sources() -> None:
    held: dict[str, list[log_lines.Line]] = {}
    for line in map(json.loads, all_lines().splitlines()):
        held.setdefault(line["event"], []).append(line)
    assert {
        Event(name, frozenset(str(line["level"]) for line in lines), frozenset(set[str]().union(*lines) - NO_DETAIL))
        for name, lines in held.items()
    } == set(logged())


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"event": "awake", "level": "INFO"}, "no golden line has the event"),
        ({"event": "drained", "level": "ERROR", "time": ""}, "no golden line has the level"),
        ({"event": "tokens_changed", "level": "INFO", "time": "", "replica": ""}, "tokens is missing"),
        ({"event": "haproxy_ended", "level": "ERROR", "time": "", "code": "9"}, "code, str, is in no golden line"),
    ],
)
def test_a_line_unlike_the_golden_ones_is_found(line: log_lines.Line, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        log_lines.check([json.dumps(line)])
