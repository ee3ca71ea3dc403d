"""The load generator's process: ``python -m loadtest.user FOLDER`` reads the plan in FOLDER and leaves the calls there.

One Locust user offers the whole schedule. It sends each call at its time, whatever the outcome of earlier ones, and records answers as
they come: no call waits for another. Every call is also a `request` event of Locust, by which its results reach the file.

Importing Locust patches the standard library with gevent, so nothing but this process may import this module.
"""

import functools
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gevent
import grpc
import grpc.experimental.gevent
import msgspec
import numpy as np
from google.protobuf.message import DecodeError
from locust import User
from locust.env import Environment

from loadtest import plan, results, service
from protos import open_inference_pb2 as pb

CHANNELS = 4  # proxies limit the calls in flight on one connection, by default to 100
CONNECT_TIMEOUT_S = 10.0
_HEAD_START_S = 0.2
_GRACE_S = 2.0
_POLL_S = 0.01
_TEXT_CHARACTERS = 200


class FailedCall(Exception):  # noqa: N818 - the name in Locust's statistics of failed calls
    """A call without a good answer; its text is gRPC's name of the code."""


class Recorder:
    """Records the outcome of each call from Locust's `request` events."""

    def __init__(self, due_s: tuple[float, ...]) -> None:
        count = len(due_s)
        self.due_s = due_s
        self.sent_s = np.full(count, np.inf)
        self.latency_ms = np.full(count, np.inf)
        self.code = np.full(count, results.NO_ANSWER, np.int16)
        self.version = np.full(count, results.NO_VERSION, np.int16)
        self.versions: dict[str, int] = {}
        self.said: dict[str, str] = {}
        self.open = count

    def on_request(self, response_time: float, context: dict[str, Any], **_: object) -> None:
        """Locust's listener: one call has ended."""
        call = context["call"]
        self.latency_ms[call] = response_time
        self.code[call] = context["code"]
        if context["version"] is not None:
            self.version[call] = self.versions.setdefault(context["version"], len(self.versions))
        if context["text"]:
            self.said.setdefault(results.name_of(context["code"]), context["text"][:_TEXT_CHARACTERS])
        self.open -= 1

    def calls(self) -> results.Calls:
        """The outcomes so far; a call that has not ended has no answer."""
        return results.Calls(
            np.asarray(self.due_s),
            self.sent_s,
            self.latency_ms,
            self.code,
            self.version,
            np.array(list(self.versions), dtype=np.str_),
            np.array(list(self.said.items()), dtype=np.str_).reshape(-1, 2),
        )


class OpenLoop:
    """Sends every call of a plan at its time, and reports each outcome to `fire`."""

    def __init__(self, offered: plan.Plan, recorder: Recorder, fire: Callable[..., None]) -> None:
        self._plan = offered
        self._recorder = recorder
        self._fire = fire
        self._metadata = offered.connection.metadata
        self._channels = [offered.connection.channel(service.CHANNEL_OPTIONS) for _ in range(CHANNELS)]
        self._send = [channel.unary_unary(service.INFER).future for channel in self._channels]
        self._start = 0.0
        self.finished = False

    def connect(self) -> None:
        """Wait until every channel is connected.

        Raises:
            grpc.FutureTimeoutError: One is not connected in time.
        """
        for channel in self._channels:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_TIMEOUT_S)

    def run(self) -> None:
        """Offer the plan; returns once every call has ended or timed out."""
        self._start = time.perf_counter() + _HEAD_START_S
        for call, due_s in enumerate(self._plan.due_s):
            gevent.sleep(max(0.0, due_s - self._now_s()))
            self._begin(call)
        give_up_s = self._now_s() + self._plan.timeout_s + _GRACE_S
        while self._recorder.open and self._now_s() < give_up_s:
            gevent.sleep(_POLL_S)
        self.finished = True

    def _now_s(self) -> float:
        return time.perf_counter() - self._start

    def _begin(self, call: int) -> None:
        payload = self._plan.payloads[call % len(self._plan.payloads)]
        self._recorder.sent_s[call] = self._now_s()
        future = self._send[call % CHANNELS](payload, timeout=self._plan.timeout_s, metadata=self._metadata)
        future.add_done_callback(functools.partial(self._ended, call))

    def _ended(self, call: int, future: Any) -> None:
        latency_ms = (self._now_s() - self._plan.due_s[call]) * 1e3
        code, version, size = future.code().value[0], None, 0
        if code == results.OK:
            answer = future.result()
            size = len(answer)
            try:
                version = pb.ModelInferResponse.FromString(answer).model_version
            except DecodeError:
                code = results.UNREADABLE
        self._fire(
            request_type="grpc",
            name=service.INFER,
            response_time=latency_ms,
            response_length=size,
            exception=None if code == results.OK else FailedCall(results.name_of(code)),
            context={"call": call, "code": code, "version": version, "text": future.details()},
        )


def offer(user: "OpenLoopUser") -> None:
    """The user's one task: the whole schedule, and then the end of the test."""
    try:
        user.loop.run()
    finally:
        user.environment.runner.quit()


class OpenLoopUser(User):  # type: ignore[misc] # Locust ships no types that are followed here
    """One user that stands for all callers."""

    tasks: ClassVar[list[Callable[..., None]]] = [offer]
    loop: ClassVar[OpenLoop]


def _generate(offered: plan.Plan) -> results.Calls:
    recorder = Recorder(offered.due_s)
    environment = Environment(user_classes=[OpenLoopUser])
    environment.events.request.add_listener(recorder.on_request)
    loop = OpenLoopUser.loop = OpenLoop(offered, recorder, environment.events.request.fire)
    try:
        loop.connect()
    except grpc.FutureTimeoutError:
        sys.exit(f"no connection to {offered.connection.address} within {CONNECT_TIMEOUT_S:g} s")
    runner = environment.create_local_runner()
    # Nothing that is loaded so far becomes garbage: a search through it would only make calls late.
    gc.collect()
    gc.freeze()
    runner.start(1, spawn_rate=1)
    runner.greenlet.join()
    if not loop.finished:
        sys.exit("the schedule was not offered to its end")
    return recorder.calls()


def main(folder: Path, token: str) -> None:
    """Offer the plan in `folder` and write the calls there."""
    grpc.experimental.gevent.init_gevent()
    offered = plan.load(folder / plan.PLAN_FILE)
    connection = msgspec.structs.replace(offered.connection, token=token)
    calls = _generate(msgspec.structs.replace(offered, connection=connection))
    results.save(folder / plan.CALLS_FILE, calls)


if __name__ == "__main__":
    main(Path(sys.argv[1]), os.environ.get(plan.TOKEN_VARIABLE, ""))
