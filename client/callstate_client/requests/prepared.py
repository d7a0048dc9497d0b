"""What the functions of this package return: a request with the decoder of its reply; and names for mutations."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from itertools import count
from os import getpid
from typing import Generic, TypeVar

from msgspec import Struct

from callstate_client import protocol

__all__ = ["Ops", "Page", "PreparedRequest", "fenced"]

ResultT = TypeVar("ResultT")
ItemT = TypeVar("ItemT")


class PreparedRequest(Struct, Generic[ResultT], gc=False):
    """One request, and how its reply is decoded.

    Args:
        method: a verb of the protocol.
        params: of the verb's class.
        result: decodes the reply's line, or raises the error that it carries.
        op_of: for a mutation with an `op`, the session that remembers it: it may be sent twice.
    """

    method: str
    params: protocol.Params | None
    result: Callable[[bytes], ResultT]
    op_of: str | None = None


class Page(Struct, Generic[ItemT]):
    """A page of a listing.

    Args:
        items: decoded as they are iterated over.
        next_page: the request for the next page; None after the last one.
    """

    items: Iterable[ItemT]
    next_page: PreparedRequest[Page[ItemT]] | None


class Ops:
    """Names for mutations (`op`), unique among all processes.

    A fork copies prefix and count, so the child has to take another prefix. The pid is compared each time, since a
    fork in C, as in uWSGI, runs no hooks of Python.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._prefix = ""
        self._count = count(1)

    def new(self) -> str:
        """A new name."""
        if getpid() != self._pid:
            self._prefix = secrets.token_hex(8)
            self._pid = getpid()
        return f"{self._prefix}.{next(self._count):x}"


def with_epoch(params: protocol.Params | None, epoch: int) -> protocol.Params | None:
    """A mutation's params with a fencing token, unless they have one."""
    if isinstance(params, protocol.Written):
        *pieces, last = params.pieces
        return protocol.Written((*pieces, bytes(last)[:-1], b',"epoch":%d}' % epoch))
    if getattr(params, "epoch", epoch) is None:
        params.epoch = epoch  # type: ignore[union-attr]
    return params


def fenced(request: PreparedRequest[ResultT], epoch: int | None) -> PreparedRequest[ResultT]:
    """Add a fencing token to a mutation, unless it is None. Returns the same request."""
    if epoch is not None:
        request.params = with_epoch(request.params, epoch)
    return request
