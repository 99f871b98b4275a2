"""TK-11: the digest that binds a grant to its arguments is the same in another language, by another's JCS (RFC 8785).

Node reads numbers as doubles, sorts by UTF-16 and writes numbers as ECMAScript does, which is what RFC 8785 refers to.
"""

from __future__ import annotations

import json
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from stepgrant.errors import ArgumentsInvalidError
from stepgrant.intent import digest, parse_object

NODE = shutil.which("node")
JCS = Path(__file__).parent / "jcs.mjs"
RANDOM = 2_000

pytestmark = pytest.mark.skipif(NODE is None, reason="no node: install Node.js 18 or later to compare with its JCS")

NUMBERS = (
    "0", "-0", "1", "-1", "1.0", "1.00", "1e0", "10E-1", "0.1", "0.10", "1e-1", "-0.0", "4.5", "4.50", "2e-3",
    "0.000001", "1e-6", "0.0000001", "1e-7", "123e-20", "1e15", "1E+15", "999999999999999", "1000000000000000",
    "9007199254740991", "-9007199254740991", "9007199254740991.0", "333333333.3333333", "0.3333333333333333",
    "1.7976931348623157", "295147905179352.8", "5e-324", "2.2250738585072014e-308", "1e-323",
)  # fmt: skip
"""Spellings of a number that the parser takes. Those with one value have one digest."""

TEXTS = (
    "", "a", "A", "\u00e9", "e\u0301", "\u20ac", "\ufb33", "\U0001f600", "\u0080", "\u2028\u2029", "\u007f", "\ufeff",
    "\u0000\u0001\b\t\n\u000b\f\r\u001f", '"\\/', "</script>", "\u0131\u0130\u017f\u212a", "\u0435", "__proto__", "1", "-1", "10", "9",
)  # fmt: skip


def in_node(documents: list[str]) -> list[str]:
    """The digests that Node comes to."""
    assert NODE is not None
    lines = "".join(json.dumps(document) + "\n" for document in documents)
    done = subprocess.run([NODE, str(JCS)], input=lines, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


def here(documents: list[str]) -> list[str]:
    return [digest(parse_object(document)).hex() for document in documents]


def test_tk_11_every_spelling_of_a_number_has_one_digest_in_both_languages() -> None:
    documents = [f'{{"amount":{number}}}' for number in NUMBERS]
    ours = here(documents)
    assert ours == in_node(documents)
    values = {float(number) for number in NUMBERS}
    assert len(set(ours)) == len(values)


def test_tk_11_every_text_and_name_has_one_digest_in_both_languages() -> None:
    """Names are sorted by UTF-16 code units: U+1F600 comes before U+FB33, and "10" before "9"."""
    documents = [
        json.dumps({"v": text, text: [text]}, ensure_ascii=ascii_) for text in TEXTS for ascii_ in (True, False)
    ]
    documents.append(json.dumps({name: place for place, name in enumerate(TEXTS)}))
    ours = here(documents)
    assert ours == in_node(documents)
    assert ours[:-1:2] == ours[1::2]
    assert len(set(ours)) == len(TEXTS) + 1


def test_tk_11_random_documents_have_one_digest_in_both_languages() -> None:
    """Doubles of any bits, as Python writes them; the parser says which of them can be told apart, and those agree."""
    chance, documents = random.Random(11), []
    while len(documents) < RANDOM:
        text = json.dumps({"a": value(chance, 0), "b": value(chance, 0)}, ensure_ascii=chance.random() < 0.5)
        try:
            parse_object(text)
        except (ArgumentsInvalidError, UnicodeEncodeError):
            continue
        documents.append(text)
    assert here(documents) == in_node(documents)


def value(chance: random.Random, depth: int) -> object:
    """Any value of JSON, numbers mostly."""
    match chance.randrange(9 if depth < 4 else 7):
        case 0:
            return chance.choice([None, True, False])
        case 1:
            return "".join(chr(chance.choice([chance.randrange(32, 127), chance.randrange(0xD800)])) for _ in range(4))
        case 2:
            return chance.randrange(-(2**53) + 1, 2**53)
        case 3:
            return round(chance.uniform(-1e6, 1e6), chance.randrange(6))
        case 4 | 5 | 6:
            return struct.unpack("<d", struct.pack("<Q", chance.getrandbits(52) | chance.randrange(900, 1075) << 52))[0]
        case 7:
            return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
        case _:
            return {chance.choice(TEXTS) + str(place): value(chance, depth + 1) for place in range(chance.randrange(4))}
