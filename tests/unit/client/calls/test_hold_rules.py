from __future__ import annotations

import asyncio
from typing import Any

import pytest

from callstate_client import MemoryStore, SessionState
from callstate_client.calls.hold_rules import end_classes, end_reason, ended_by


class Hangup(Exception):  # noqa: N818 - a worker's own
    reason = "caller_left"


HANGUP = Hangup()


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (HANGUP, HANGUP),
        (ExceptionGroup("", [HANGUP]), HANGUP),
        (BaseExceptionGroup("", [asyncio.CancelledError(), HANGUP]), HANGUP),
        (ExceptionGroup("", [OSError(), ExceptionGroup("", [HANGUP])]), HANGUP),
        (OSError(), None),
        (ExceptionGroup("", [OSError()]), None),
        (asyncio.CancelledError(), None),
    ],
)
def test_exceptions_in_end_on_end_the_call(error: BaseException, cause: BaseException | None) -> None:
    assert ended_by(error, (Hangup,)) is cause


def test_a_group_that_is_named_itself() -> None:
    group = ExceptionGroup("", [OSError()])
    assert ended_by(group, (ExceptionGroup,)) is group
    assert end_reason(group) == "exception_group"


@pytest.mark.parametrize("end_on", [Hangup, (Hangup,), [Hangup], {Hangup}])
def test_one_class_or_several(end_on: Any) -> None:
    assert end_classes(end_on) == (Hangup,)


@pytest.mark.parametrize("end_on", [int, [int], ["Hangup"], [Hangup()]])
def test_end_on_takes_exception_classes_only(end_on: Any) -> None:
    with pytest.raises(TypeError, match="exception classes"):
        end_classes(end_on)


async def test_a_child_of_a_task_group_that_hangs_up_ends_the_call() -> None:
    async def listen() -> None:
        raise HANGUP

    async with MemoryStore() as store:
        with pytest.raises(ExceptionGroup):
            async with store.hold(SessionState("c1"), end_on=Hangup), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(3600))
                group.create_task(listen())
        assert (await store.get("c1")).ended_reason == "caller_left"
