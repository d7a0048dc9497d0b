"""The options: one for each key, read from the annotations of schema.py.

The loader, `--help` and the reference file go through these instead of naming keys of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, get_args, get_type_hints

from msgspec import Meta, Struct

from callstate_sidecar.config.schema import Config


class Option(Struct, frozen=True, kw_only=True):
    """One key, as described by its annotation.

    Args:
        section: such as `store` or `limits.per_uid`.
        name: such as `flush_interval_s`.
        annotation: the annotated type, against which `msgspec.convert` checks a value.
        type: the bare type: str, int, float, or a Literal.
        default: the value if it is not configured.
        meta: range, unit and meaning.
    """

    section: str
    name: str
    annotation: Any
    type: Any
    default: str | float
    meta: Meta

    @property
    def key(self) -> str:
        """The key as in messages and `--set`: `store.flush_interval_s`."""
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable: `CALLSTATE_STORE_FLUSH_INTERVAL_S`."""
        return f"CALLSTATE_{self.section}_{self.name}".upper().replace(".", "_")

    @property
    def expected(self) -> str:
        """The permitted values in words: `seconds, 0.005 to 60`."""
        extra = self.meta.extra or {}
        if "unit" in extra:
            whole = "a whole number of " if self.type is int else ""
            return f"{whole}{extra['unit']}, {_number(self.meta.ge)} to {_number(self.meta.le)}"
        return str(extra.get("expected") or _alternatives(get_args(self.type)))


def _number(value: float | None) -> str:
    return "any" if value is None else f"{value:.15g}"


def _alternatives(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _section_options(section: str, struct: type[Struct]) -> Iterator[Option]:
    default = struct()
    for name, annotation in get_type_hints(struct, include_extras=True).items():
        if not get_args(annotation):  # a section within this one
            continue
        bare, meta = get_args(annotation)
        yield Option(
            section=section,
            name=name,
            annotation=annotation,
            type=bare,
            default=getattr(default, name),
            meta=meta,
        )


def _sections(struct: type[Struct], within: str = "") -> Iterator[tuple[str, type[Struct]]]:
    for name, kind in get_type_hints(struct).items():
        if isinstance(kind, type) and issubclass(kind, Struct):
            yield within + name, kind
            yield from _sections(kind, f"{within}{name}.")


SECTIONS: Final[dict[str, type[Struct]]] = dict(_sections(Config))
"""The structs of the sections by name, in the order of the reference file."""

OPTIONS: Final[dict[str, Option]] = {
    option.key: option for section, struct in SECTIONS.items() for option in _section_options(section, struct)
}
"""All options by key."""
