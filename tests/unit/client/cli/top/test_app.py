"""`callstate top` in Textual's harness, with a store in memory: keys, dialogs, the pane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("textual", reason="Textual is in the extra `cli`")

from callstate_client import MemoryStore, NoDaemonError, SessionState
from callstate_client.cli.top.app import TopApp
from callstate_client.cli.top.feed import Feed
from callstate_client.model.times import now

WITHIN_S = 20.0

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])  # the one that the command runs on


def screen(app: TopApp) -> str:
    """What is on the screen, as text."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in strips)


async def until(pilot: Any, condition: Callable[[], bool]) -> None:
    """Return when the condition is met; what changes does so in the app's own tasks."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await pilot.pause(0.01)


async def some_calls() -> MemoryStore:
    """a: of twilio, 2 turns; b: of sip, on hold; c: ended."""
    store = MemoryStore(worker_id="worker-1")
    first = SessionState("a", provider="twilio", status="active", from_="+442079460123")
    first.add_turn("user", "the first words")
    first.add_turn("agent", "the second words")
    await store.save(first, labels={"app": "sales"})
    await store.save(SessionState("b", provider="sip", status="on_hold"))
    await store.save(SessionState("c", provider="sip", status="active"))
    await store.end("c", "caller_hangup")
    return store


@asynccontextmanager
async def shown(
    store: MemoryStore, *, size: tuple[int, int] = (120, 40), **options: Any
) -> AsyncIterator[tuple[TopApp, Any]]:
    app = TopApp(store.worker(), interval_s=0.05, **options)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: "2 calls: not ended" in screen(app))
        yield app, pilot


async def test_it_shows_the_calls_and_new_ones_as_they_come() -> None:
    store = await some_calls()
    async with shown(store) as (app, pilot):
        await until(pilot, lambda: "2 live  0 suspect  0 orphan  1 ended" in screen(app))
        await until(pilot, lambda: "***23" in screen(app))
        assert "+442079460123" not in screen(app)
        await store.save(SessionState("newcomer", status="active"))
        await until(pilot, lambda: "newcomer" in screen(app))
        store.kill_worker()
        await until(pilot, lambda: "3 suspect" in screen(app))


async def test_numbers_are_shown_if_they_are_asked_for() -> None:
    async with shown(await some_calls(), show_numbers=True) as (app, pilot):
        await until(pilot, lambda: "+442079460123" in screen(app))


@pytest.mark.parametrize("size", [(80, 24), (160, 40)])
async def test_the_pane_of_a_call_grows_with_its_transcript(size: tuple[int, int]) -> None:
    store = await some_calls()
    async with shown(store, size=size) as (app, pilot):
        await pilot.press("home", "enter")
        await until(pilot, lambda: "the second words" in screen(app))
        await store.add_turn("a", "user", "something new")
        await until(pilot, lambda: "something new" in screen(app))
        await pilot.press("down")
        await until(pilot, lambda: "the second words" not in screen(app))
        await pilot.press("escape")
        await until(pilot, lambda: "last sign" not in screen(app))


async def test_a_call_is_drawn_once_more_when_its_pane_is_gone() -> None:
    """As by the timer, while the application ends."""
    async with shown(await some_calls()) as (app, pilot):
        await pilot.press("home", "enter")
        await until(pilot, lambda: "the second words" in screen(app))
        await app._pane.remove_children("*")
        app._pane.draw(now())


async def test_a_long_transcript_is_scrolled_along_until_somebody_scrolls_back() -> None:
    store = await some_calls()
    for number in range(60):
        await store.add_turn("a", "user", f"words {number}")
    async with shown(store, size=(80, 24)) as (app, pilot):
        await pilot.press("home", "enter")
        await until(pilot, lambda: "words 59" in screen(app))
        for number in range(60, 70):
            await store.add_turn("a", "user", f"words {number}")
            await until(pilot, lambda number=number: f"words {number}" in screen(app))
        await pilot.press("tab", "home")
        await until(pilot, lambda: "the first words" in screen(app))
        await store.add_turn("a", "user", "words 70")
        await until(pilot, lambda: app.opened is not None and 72 in app.opened.turns)
        await until(pilot, lambda: "the first words" in screen(app))


async def test_the_pane_stays_with_a_call_that_ends() -> None:
    store = await some_calls()
    async with shown(store) as (app, pilot):
        await pilot.press("home", "enter")
        await until(pilot, lambda: "the second words" in screen(app))
        await store.end("a", "caller_hangup")
        await until(pilot, lambda: "1 calls: not ended" in screen(app) and "ended (caller_hangup)" in screen(app))
        assert app.opened is not None
        assert app.opened.session_id == "a"


async def test_a_filter_is_applied_as_it_is_typed_and_cleared_by_escape() -> None:
    async with shown(await some_calls()) as (app, pilot):
        await pilot.press("slash", *"app=sales")
        await until(pilot, lambda: "1 of 2 calls: not ended, by age, with “app=sales”" in screen(app))
        await pilot.press("enter", "escape")
        await until(pilot, lambda: "2 calls: not ended, by age" in screen(app))


async def test_which_calls_and_in_which_order() -> None:
    async with shown(await some_calls()) as (app, pilot):
        for which in ("0 calls: suspect", "0 calls: orphan", "1 calls: ended", "3 calls: all"):
            await pilot.press("f") if which != "0 calls: suspect" else await pilot.press("f", "f")
            await until(pilot, lambda which=which: which in screen(app))
        await until(pilot, lambda: "caller_hangup" in screen(app))
        await pilot.press("s", "r")
        await until(pilot, lambda: "all, by last sign reversed" in screen(app))


async def test_a_call_is_ended_only_after_a_yes() -> None:
    store = await some_calls()
    async with shown(store) as (app, pilot):
        await pilot.press("home", "e")
        await until(pilot, lambda: "End the call a?" in screen(app))
        await pilot.press("n")
        await until(pilot, lambda: "End the call" not in screen(app))
        assert (await store.get("a")).ended_reason is None
        await pilot.press("e")
        await until(pilot, lambda: "End the call a?" in screen(app))
        await pilot.press("y")
        await until(pilot, lambda: "1 calls: not ended" in screen(app))
        assert (await store.get("a")).ended_reason == "operator"


async def test_help_and_quit() -> None:
    async with shown(await some_calls()) as (app, pilot):
        await pilot.press("question_mark")
        await until(pilot, lambda: "silent for its timeout" in screen(app))
        await pilot.press("escape")
        await until(pilot, lambda: "silent for its timeout" not in screen(app))
        await pilot.press("q")
    assert app.return_code == 0
    async with shown(await some_calls()) as (app, pilot):
        await pilot.press("home", "e")
        await until(pilot, lambda: "End the call" in screen(app))
        await pilot.press("ctrl+c")
    assert app.return_code == 0


class Away(MemoryStore):
    """A store whose daemon can be away."""

    away = False

    async def request(self, *args: Any, **more: Any) -> bytes:
        if self.away:
            raise NoDaemonError("nobody listens")
        return await super().request(*args, **more)


async def test_a_daemon_that_is_gone_is_said_to_be_and_is_back_when_it_answers() -> None:
    store = Away()
    await store.save(SessionState("a", status="active"))
    app = TopApp(store, interval_s=0.05)
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: "1 calls" in screen(app))
        store.away = True
        await until(pilot, lambda: "no answer" in screen(app))
        assert "1 calls" in screen(app), "what was known stays"
        store.away = False
        await until(pilot, lambda: "no answer" not in screen(app))


async def test_a_long_list_is_read_a_page_at_each_interval() -> None:
    store = MemoryStore()
    for number in range(700):
        await store.save(SessionState(f"call-{number:03}", status="active"))
    feed = Feed(store.worker(), 1.0, asyncio.get_running_loop().time, lambda: None)
    known = []
    for _ in range(3):
        await feed.look()
        known.append(len(feed.calls.calls))
    assert known == [300, 600, 700]


async def test_a_list_that_nobody_has_seen_whole_is_read_faster() -> None:
    store = MemoryStore()
    for number in range(700):
        await store.save(SessionState(f"call-{number:03}", status="active"))
    whole = asyncio.Event()
    feed = Feed(
        store.worker(),
        3600.0,
        asyncio.get_running_loop().time,
        lambda: len(feed.calls.calls) == 700 and whole.set(),
    )
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(WITHIN_S):
        running = tasks.create_task(feed.run())
        await whole.wait()
        running.cancel()


async def test_calls_on_the_screen_are_asked_for_between_the_pages() -> None:
    now_s = 100.0
    store = MemoryStore()
    for number in range(400):
        await store.save(SessionState(f"call-{number:03}", status="active"))
    feed = Feed(store.worker(), 1.0, lambda: now_s, lambda: None)
    await feed.look()
    await store.add_turn("call-000", "user", "words")
    feed.shown = ["call-000"]
    now_s = 102.0
    await feed.look()  # the second page, which has others
    assert feed.calls.calls["call-000"].turns == 1
