"""Mutations that know the structure of JSON; seeded, so that a failure can be had again by its number."""

from __future__ import annotations

import json
import random
from typing import Any

DEPTHS = (3, 990, 5000, 30_000)
LONG = "A" * 60_000
TOKENS = (
    *("1e400", "-1e400", "1e-400", "NaN", "Infinity", "-Infinity", "-0", "-0.0", "00", "1.", ".5", "0x10"),
    *("1E+2", "9" * 300, "9" * 5000, "-1", "3.0", "0.1e1", "true", "false", "null", '""'),
    *map(str, (2**31, 2**53, 2**63, -(2**63), 2**64, 10**30)),
    *("[]", "{}", "[[]]", '{"":null}', "[1,1]", "[0,0]", f"[0,{2**62}]", f"[{2**63},{2**64}]"),
    *(
        r'"\ud800"',
        r'"\udfff\ud800"',
        r'"\u0000"',
        r'"\n"',
        r'"\u202e"',
        r'"\u001b[2J"',
        '"../../etc/passwd"',
    ),
    *(
        f'"{LONG}"',
        f'"{LONG[:200]}"',
        '"' + r"\ud83d\ude00" * 3000 + '"',
        '"' + "0" * 64 + '"',
        '"F16"',
        '"I8"',
    ),
    *('"0001-01-01T00:00:00Z"', '"9999-12-31T23:59:59Z"', '"2026-02-30T00:00:00Z"', '"2026-11-21T10:00:60Z"'),
    *('"2026-11-21T24:00:00Z"', '"99999-01-01T00:00:00Z"', r'"\uff12026-11-21T10:00:00Z"'),
)
"""What a hand-written parser might stumble over, as JSON text or nearly so."""


def nested(chance: random.Random) -> str:
    """Lists or objects within each other, deeper than a stack likes."""
    depth = chance.choice(DEPTHS)
    opening, inner, closing = chance.choice([("[", "", "]"), ('{"a":', "1", "}"), ("[", "", "")])
    return opening * depth + inner + closing * depth


def token(chance: random.Random) -> str:
    """Some value as JSON text."""
    return nested(chance) if chance.random() < 0.05 else chance.choice(TOKENS)


def mutated_object(chance: random.Random, content: dict[str, Any]) -> bytes:
    """The object's text with one to three values, keys or spellings changed; often still canonical."""
    texts = {
        name: json.dumps(value, sort_keys=True, separators=(",", ":")) for name, value in content.items()
    }
    for _ in range(chance.randint(1, 3)):
        name = chance.choice([*texts])
        change = chance.randrange(5)
        if change == 0:
            del texts[name]
        elif change == 1:
            texts[chance.choice(["extra", "", "\ud800", name.upper(), "a" * 5000])] = token(chance)
        else:
            texts[name] = token(chance)
        if not texts:
            break
    pairs = [f"{json.dumps(name)}:{text}" for name, text in sorted(texts.items())]
    if pairs and chance.random() < 0.1:
        pairs.insert(chance.randrange(len(pairs)), chance.choice(pairs))
    if chance.random() < 0.1:
        chance.shuffle(pairs)
    comma = chance.choice([",", ",", ",", ",", ", ", ",,", ",\n"])
    return ("{" + comma.join(pairs) + "}" + chance.choice(["\n", "\n", "\n", "", "\n\n", " "])).encode()


def mutated_bytes(chance: random.Random, data: bytes) -> bytes:
    """Bytes changed, removed, doubled, moved, or all of them random."""
    change = chance.randrange(7)
    start = chance.randrange(len(data) + 1)
    end = min(len(data), start + chance.choice([1, 2, 8, 100]))
    if change == 0:
        return chance.randbytes(chance.choice([0, 1, 7, 300, 5000]))
    if change == 1:
        return data[:start]
    if change == 2:
        return data[:start] + data[end:]
    if change == 3:
        return data[:end] + data[start:]
    if change == 4:
        return data[:start] + chance.randbytes(end - start) + data[end:]
    if change == 5:
        return data[:start] + token(chance).encode() + data[end:]
    return data.decode("latin-1").encode(chance.choice(["utf-16", "utf-8-sig", "utf-32"]))
