"""What stands for a connection or a call under way, of which there can't be two."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn, SupportsIndex


class Uncopied:
    """Can be neither pickled nor copied: says what to do instead."""

    __slots__ = ()

    instead: ClassVar[str] = "pass on what it was made of"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} can't be pickled or copied: {self.instead}")

    def __deepcopy__(self, memo: dict[int, Any]) -> NoReturn:
        self.__reduce_ex__(4)

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(4)
