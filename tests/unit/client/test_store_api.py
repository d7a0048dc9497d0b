"""SidecarStore and MemoryStore are one API."""

from __future__ import annotations

import inspect

import pytest

from callstate_client import CallStore, HealthChecker, MemoryStore, Namer, SessionStore, SidecarStore

OWN = {SidecarStore: {"path", "open", "forked"}, MemoryStore: {"count", "worker", "kill_worker"}}


def public(cls: type) -> dict[str, object]:
    return {name: member for name, member in inspect.getmembers(cls) if not name.startswith("_")}


@pytest.mark.parametrize("cls", [SidecarStore, MemoryStore])
def test_no_store_has_a_public_method_of_its_own(cls: type) -> None:
    assert set(public(cls)) - set(public(CallStore)) == OWN[cls]


@pytest.mark.parametrize("cls", [SidecarStore, MemoryStore])
@pytest.mark.parametrize("name", [name for name, member in public(CallStore).items() if callable(member)])
def test_signatures_are_the_same(cls: type, name: str) -> None:
    theirs, common = inspect.signature(getattr(cls, name)), inspect.signature(getattr(CallStore, name))
    assert theirs.parameters == common.parameters


def test_nothing_is_left_abstract() -> None:
    assert not inspect.isabstract(SidecarStore)
    assert not inspect.isabstract(MemoryStore)


def test_memory_is_what_the_contracts_describe() -> None:
    store = MemoryStore()
    assert isinstance(store, SessionStore)
    assert isinstance(store, HealthChecker)
    assert isinstance(store, Namer)


@pytest.mark.parametrize("name", ["save", "load", "delete", "list_active", "update_heartbeat"])
def test_calls_in_the_form_of_the_contract_are_accepted(name: str) -> None:
    asked, given = (inspect.signature(getattr(cls, name)).parameters for cls in (SessionStore, CallStore))
    assert list(given)[: len(asked)] == list(asked)
    assert all(given[extra].default is not inspect.Parameter.empty for extra in given if extra not in asked)
