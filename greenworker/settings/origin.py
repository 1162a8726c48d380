"""Origin: who gave a setting its value, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OriginKind = Literal["default", "file", "environment", "override"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Who gave a value; ``where`` is ``FILE:LINE``, an environment variable's name, or ``command line``."""

    kind: OriginKind = "default"
    where: str = "default"

    @property
    def is_default(self) -> bool:
        """Nobody gave the value."""
        return self.kind == "default"

    def __str__(self) -> str:
        return f"environment: {self.where}" if self.kind == "environment" else self.where


DEFAULT_ORIGIN = Origin()
