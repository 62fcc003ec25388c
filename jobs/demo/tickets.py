"""Synthetic support tickets whose true labels are known, from the phrases in ``phrases.toml``.

The same seed gives the same tickets, byte for byte. This file knows nothing about models.
"""

from __future__ import annotations

import random
import string
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from batchpipe.demo.prompt import CATEGORIES, NO_ORDER, Label

PHRASES: dict[str, Any] = tomllib.loads(
    Path(__file__).with_name("phrases.toml").read_text(encoding="utf-8")
)
ORDER_LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"  # no I, O or Q: people read them as digits
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
# Share of tickets of each urgency: (high, low); the rest is normal.
URGENCY_SHARES = {"feedback": (0.04, 0.32), "question": (0.22, 0.32)}
USUAL_URGENCY_SHARES = (0.33, 0.27)
# Praise and questions seldom come with an order number.
ORDER_SHARES = {"feedback": 0.45, "question": 0.35, "account": 0.5}
USUAL_ORDER_SHARE = 0.82


def tickets(seed: int, excluded: frozenset[str] = frozenset()) -> Iterator[tuple[str, Label]]:
    """Yield (text, label) without end; no text comes twice and none of ``excluded`` comes."""
    draw = random.Random(seed)
    seen = set(excluded)
    while True:
        text, label = _ticket(draw)
        if text not in seen:
            seen.add(text)
            yield text, label


def _ticket(draw: random.Random) -> tuple[str, Label]:
    """Return one ticket: its label is drawn first, then the words that say it."""
    category = draw.choice(CATEGORIES)
    urgency = _urgency(draw, category)
    has_order = draw.random() < ORDER_SHARES.get(category, USUAL_ORDER_SHARE)
    code = draw.choice(ORDER_LETTERS) + _digits(draw, 5)
    text = " ".join(_sentences(draw, category, urgency, has_order))
    text = text.format_map(_slots(draw, code))
    opening, closing = _opening(draw), _closing(draw)
    break_line = draw.choice((" ", " ", "\n"))
    text = _typed_by_a_customer(draw, break_line.join(filter(None, (opening, text, closing))), code)
    return text, Label(category, urgency, code if has_order else NO_ORDER)


def _urgency(draw: random.Random, category: str) -> str:
    high, low = URGENCY_SHARES.get(category, USUAL_URGENCY_SHARES)
    point = draw.random()
    return "high" if point < high else "low" if point < high + low else "normal"


def _sentences(draw: random.Random, category: str, urgency: str, has_order: bool) -> list[str]:
    """Return the sentences of the body, in the order in which the customer writes them."""
    bank = PHRASES["category"][category]
    core = [draw.choice(bank["about"])]
    if draw.random() < 0.45:
        core.append(draw.choice(bank["ask"]))
    around = [draw.choice(PHRASES["remark"]) for _ in range(draw.choice((0, 1, 1, 2)))]
    if has_order:
        around.append(draw.choice(PHRASES["order"]))
    elif draw.random() < 0.3:
        around.append(draw.choice(PHRASES["no_order"]))
    if urgency == "high" and category == "defect" and draw.random() < 0.3:
        around.append(draw.choice(PHRASES["urgency"]["danger"]))
    elif urgency != "normal":
        around.append(draw.choice(PHRASES["urgency"][urgency]))
    draw.shuffle(around)
    core_at = 0 if draw.random() < 0.5 else draw.randint(0, len(around))
    return around[:core_at] + core + around[core_at:]


def _slots(draw: random.Random, code: str) -> dict[str, str]:
    """Return a value for every slot of ``phrases.toml``."""
    product, product2 = draw.sample(PHRASES["product"], 2)
    currency = draw.choice(("${}", "${}", "{} EUR", "£{}"))
    prices = [f"{draw.randint(5, 400)}.{draw.choice(('00', '50', '90', '95', '99'))}" for _ in "ab"]
    day, month = draw.randint(1, 28), draw.choice(MONTHS)
    user = draw.choice(PHRASES["name"]).split()[0].strip(".").lower()
    return {
        "product": product,
        "product2": product2,
        "price": currency.format(prices[0]),
        "price2": currency.format(prices[1]),
        "date": draw.choice(
            (f"{day} {month}", f"{month} {day}", f"{day:02}/{draw.randint(1, 12):02}")
        ),
        "days": str(draw.randint(2, 19)),
        "phone": draw.choice(
            (f"555-{_digits(draw, 4)}", f"0{_digits(draw, 3)} {_digits(draw, 6)}")
        ),
        "model": draw.choice(("XR-", "TK-", "M", "Pro ", "S")) + _digits(draw, 3),
        "digits": _digits(draw, 5),
        "four": _digits(draw, 4),
        "zip": _digits(draw, 5),
        "email": f"{user}{draw.randint(2, 99)}@{draw.choice(('mail.example', 'post.example'))}",
        "code": code,
    }


def _opening(draw: random.Random) -> str:
    return draw.choice(PHRASES["opening"]) if draw.random() < 0.6 else ""


def _closing(draw: random.Random) -> str:
    if draw.random() < 0.45:
        return ""
    closing: str = draw.choice(PHRASES["closing"])
    return f"{closing}, {draw.choice(PHRASES['name'])}" if draw.random() < 0.6 else closing


def _typed_by_a_customer(draw: random.Random, text: str, code: str) -> str:
    """Return ``text`` with a customer's haste: typos, no capitals, no full stops.

    The digits of the order number stay as they are; its letter may become small.
    """
    if draw.random() < 0.25:
        for _ in range(draw.randint(1, 2)):
            text = _with_typo(draw, text)
    if draw.random() < 0.2:
        text = text.lower()
        if draw.random() < 0.5:
            text = text.replace(code.lower(), code)
    if draw.random() < 0.1:
        text = text.replace(". ", " ").rstrip(".")
    return text


def _with_typo(draw: random.Random, text: str) -> str:
    """Return ``text`` with one long word mistyped: two letters swapped, one lost or one doubled."""
    words = text.split(" ")
    places = [at for at, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not places:
        return text
    at = draw.choice(places)
    word = words[at]
    cut = draw.randint(1, len(word) - 2)
    words[at] = draw.choice(
        (
            word[:cut] + word[cut + 1] + word[cut] + word[cut + 2 :],
            word[:cut] + word[cut + 1 :],
            word[:cut] + word[cut] + word[cut:],
        )
    )
    return " ".join(words)


def _digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choice(string.digits) for _ in range(count))
