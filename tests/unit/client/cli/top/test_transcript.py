"""The transcript in the pane of one call: the end of it, as it grows and is amended."""

from __future__ import annotations

from callstate_client import MemoryStore, SessionState
from callstate_client.cli.top.transcript import NEW_TURNS, SHOWN_TURNS, Transcript


async def filled(turns: int) -> MemoryStore:
    store = MemoryStore()
    await store.save(SessionState("a", status="active"))
    for number in range(turns):
        await store.add_turn("a", "user", f"words {number}")
    return store


def said(transcript: Transcript) -> list[str]:
    return [turn.content for turn in transcript.turns.values()]


async def test_it_begins_with_the_last_turns_and_grows() -> None:
    store = await filled(3)
    transcript = Transcript("a")
    await transcript.read(store)
    assert said(transcript) == ["words 0", "words 1", "words 2"]
    await store.add_turn("a", "agent", "new")
    await transcript.read(store)
    assert said(transcript)[2:] == ["words 2", "new"]


async def test_amended_turns_are_shown_as_they_are_now() -> None:
    store = await filled(2)
    transcript = Transcript("a")
    await transcript.read(store)
    await store.amend_last_turn("a", content="corrected")
    await transcript.read(store)
    assert said(transcript) == ["words 0", "corrected"]


async def test_more_new_turns_than_are_asked_for_leave_no_gap() -> None:
    store = await filled(5)
    transcript = Transcript("a")
    await transcript.read(store)
    for number in range(5, 5 + 2 * NEW_TURNS):
        await store.add_turn("a", "user", f"words {number}")
    await transcript.read(store)
    assert said(transcript) == [f"words {number}" for number in range(5 + 2 * NEW_TURNS)]


async def test_only_the_end_of_a_long_one_is_kept() -> None:
    store = await filled(SHOWN_TURNS + 30)
    transcript = Transcript("a")
    await transcript.read(store)
    await store.add_turn("a", "agent", "new")
    await transcript.read(store)
    assert len(transcript.turns) == SHOWN_TURNS
    assert min(transcript.turns) == 31
    assert said(transcript)[-1] == "new"


async def test_a_deleted_call_is_said_to_be() -> None:
    store = await filled(1)
    transcript = Transcript("a")
    await transcript.read(store)
    await store.delete("a")
    await transcript.read(store)
    assert (transcript.record, transcript.problem) == (None, "there is no such call any more")
