from __future__ import annotations

from callstate_client.engine.verbs.table import VERBS
from callstate_sidecar.access.needs import NEEDS, Need


def test_every_verb_has_a_need() -> None:
    assert NEEDS.keys() == VERBS.keys()


def test_needs_name_params_that_the_verbs_have() -> None:
    named = {
        Need.SESSION: {"session_id"},
        Need.CLAIM: {"session_id", "worker_id", "steal"},
        Need.SESSIONS: {"session_ids"},
        Need.WORKER: {"worker_id"},
    }
    for method, need in NEEDS.items():
        assert named.get(need, set()) <= {*VERBS[method].usual.__struct_fields__}, method


def test_a_verb_that_names_a_session_needs_more_than_nothing() -> None:
    for method, verb in VERBS.items():
        if {"session_id", "session_ids", "session"} & {*verb.usual.__struct_fields__}:
            assert NEEDS[method] not in (Need.NOTHING, Need.FILTERED), method
