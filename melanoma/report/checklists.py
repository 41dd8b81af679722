"""Stub."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CHECKLISTS: dict[str, str] = {}


@dataclass(frozen=True)
class Item:
    item: str
    section: str
    asks: str
    answer: str | None


def checklist(name: str, facts: Mapping[str, str]) -> list[Item]:
    return []


def facts_of(
    metrics: Mapping[str, Any], settings: Any, *, data: Mapping[str, str], environment: Mapping[str, str]
) -> dict[str, str]:
    return {}
