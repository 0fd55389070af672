"""Which software is installed here, as sites tell it one another."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("nnunet-gml", "nnunetv2", "torch")


def installed_versions() -> dict[str, str]:
    """Versions of the packages that decide what a training does, and of Python."""
    return {**{name: _version(name) for name in PACKAGES}, "python": platform.python_version()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
