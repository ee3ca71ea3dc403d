import pytest
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

from serve.client.retry import FIRST_PAUSE_S, MAX_PAUSE_S, Attempts
from serve.metadata_keys import PUSHBACK_KEY


class Clock:
    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def attempts(timeout_s: float = 30.0, max_attempts: int = 100, draw: float = 1.0) -> Attempts:
    return Attempts(timeout_s, max_attempts, Clock(), lambda: draw)


def pushback(value: object) -> tuple[tuple[str, str], ...]:
    return (("other", "1"), (PUSHBACK_KEY, str(value)))


def test_unavailable_backs_off_up_to_a_ceiling_that_doubles() -> None:
    call = attempts()
    pauses = [call.pause_s(StatusCode.UNAVAILABLE, ()) for _ in range(7)]
    assert pauses == [FIRST_PAUSE_S, 0.2, 0.4, 0.8, 1.6, MAX_PAUSE_S, MAX_PAUSE_S]


def test_the_pause_is_random_so_that_callers_do_not_retry_together() -> None:
    assert attempts(draw=0.25).pause_s(StatusCode.UNAVAILABLE, None) == FIRST_PAUSE_S / 4


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED])
def test_a_push_back_is_obeyed_and_spread(code: StatusCode) -> None:
    assert attempts(draw=0.0).pause_s(code, pushback(700)) == 0.7
    assert attempts(draw=1.0).pause_s(code, pushback(700)) == pytest.approx(0.84)
    assert attempts().pause_s(code, pushback(0)) == 0.0


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED])
@pytest.mark.parametrize("value", [-1, "soon", ""])
def test_a_server_may_say_never(code: StatusCode, value: object) -> None:
    assert attempts().pause_s(code, pushback(value)) is None


def test_exhausted_without_a_time_to_retry_is_final() -> None:
    assert attempts().pause_s(StatusCode.RESOURCE_EXHAUSTED, ()) is None


@pytest.mark.parametrize("code", set(StatusCode) - {StatusCode.UNAVAILABLE, StatusCode.RESOURCE_EXHAUSTED})
def test_other_codes_are_final(code: StatusCode) -> None:
    assert attempts().pause_s(code, pushback(1)) is None


def test_attempts_are_counted() -> None:
    call = attempts(max_attempts=3)
    found = [call.pause_s(StatusCode.UNAVAILABLE, ()) is not None for _ in range(3)]
    assert found == [True, True, False]


def test_no_attempt_starts_after_the_deadline() -> None:
    assert attempts(timeout_s=0.5).pause_s(StatusCode.UNAVAILABLE, pushback(600)) is None
    assert attempts(timeout_s=0.05).pause_s(StatusCode.UNAVAILABLE, ()) is None
    clock = Clock()
    call = Attempts(1.0, 100, clock, lambda: 1.0)
    clock.now_s += 0.75
    assert call.remaining_s == 0.25
    assert call.pause_s(StatusCode.UNAVAILABLE, pushback(300)) is None
    assert call.pause_s(StatusCode.UNAVAILABLE, pushback(200)) == pytest.approx(0.24)


@given(
    st.floats(0.001, 100.0),
    st.lists(st.tuples(st.floats(0, 1), st.integers(-5, 10_000) | st.none(), st.floats(0, 2)), max_size=50),
)
def test_every_pause_ends_before_the_deadline(timeout_s: float, history: list) -> None:
    clock = Clock()
    drawn = 0.0
    call = Attempts(timeout_s, 10, clock, lambda: drawn)
    made = 0
    for drawn, asked_ms, took_s in history:  # noqa: B007 - drawn is read by the call
        clock.now_s += took_s
        pause_s = call.pause_s(StatusCode.UNAVAILABLE, () if asked_ms is None else pushback(asked_ms))
        if pause_s is None:
            continue
        made += 1
        assert 0 <= pause_s < call.remaining_s
        assert asked_ms is None or pause_s >= asked_ms / 1e3
        clock.now_s += pause_s
    assert made < 10
