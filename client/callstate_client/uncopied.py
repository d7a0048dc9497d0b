"""A base for objects that represent a connection or a live call, and so can't be copied."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, SupportsIndex


class Uncopied:
    """Can be neither pickled nor copied; `instead` is what the TypeError tells callers to do."""

    __slots__ = ()

    instead: ClassVar[str] = "pass on what it was made of"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} can't be pickled or copied: {self.instead}")

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        self.__reduce_ex__(4)

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(4)
