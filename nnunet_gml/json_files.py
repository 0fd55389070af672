"""JSON files that nnU-Net or we wrote: an object, or an error that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peer_sync.errors import ConfigError
from peer_sync.tables import bytes_of


def read_json(path: Path, hint: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        hint: what to do where it is missing or broken.

    Raises:
        ConfigError: it cannot be read, or is no JSON object.
    """
    data = bytes_of(path, hint)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}", hint) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, but expected a JSON object", hint)
    return content
