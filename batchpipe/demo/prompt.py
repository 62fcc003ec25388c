"""The demo's prompt, its answers and their scores.

Every prompt is the same long instruction with the ticket at its end, so that all rows share one
prefix: the case that batchpipe plans for. This file never sees a token or a tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CATEGORIES = (
    "billing",
    "delivery",
    "return",
    "defect",
    "account",
    "cancellation",
    "question",
    "feedback",
)
URGENCIES = ("low", "normal", "high")
NO_ORDER = "none"

DEMO_DIR = Path(__file__).parent
MODEL_DIR = DEMO_DIR / "model"
TICKETS_PATH = DEMO_DIR / "tickets.jsonl"

_ORDER_NUMBER = re.compile(r"[A-Z][0-9]{5}")


@dataclass(frozen=True, slots=True)
class Label:
    """What a ticket is about; ``order_number`` is `NO_ORDER` where the ticket names none."""

    category: str
    urgency: str
    order_number: str


@dataclass(frozen=True, slots=True)
class Ticket:
    """One support ticket and its true label."""

    request_id: str
    text: str
    label: Label


@dataclass(frozen=True, slots=True)
class Scores:
    """The share of tickets answered right, in [0, 1]; an invalid answer is wrong in every field.

    ``overall`` counts the tickets with all three fields right, ``invalid`` the answers that are no
    label at all.
    """

    tickets: int
    category: float
    urgency: float
    order_number: float
    overall: float
    invalid: int


INSTRUCTION = """\
You sort the mail of Larkfield, an online shop for home and office goods. Read the ticket at the \
end and answer with one line of JSON, nothing else:
{"category":CATEGORY,"urgency":URGENCY,"order":ORDER}

CATEGORY is what the customer asks us to do, one of:
- billing: a wrong charge, an invoice, a payment, a discount that is missing on the bill.
- delivery: a parcel that is late, lost or at the wrong place, tracking, a delivery date.
- return: sending goods back, an exchange, a return label, the refund of a return.
- defect: goods that are broken, incomplete or do not work as they should, repair, warranty claims.
- account: login, password, profile, email address, newsletter, security of the account.
- cancellation: stopping an order, a subscription, a plan or a membership.
- question: a question before buying, about features, stock, prices or compatibility.
- feedback: praise, criticism or an idea, without a case for us to solve.

URGENCY is what the customer says about time, one of:
- high: it must be solved within a day or so, a business stands still, or somebody is in danger.
- low: the customer says that it can wait.
- normal: everything else. A serious problem alone is normal.

ORDER is the order number: one letter and five digits, with a capital letter even if the customer \
wrote a small one. Phone numbers, prices, dates, customer numbers, invoices, serial numbers and \
tracking numbers are not order numbers. Without an order number, write "none".

Examples:
"""

EXAMPLES = (
    (
        "Hello, my card was debited $84.90 instead of $48.90. Order no. T50318. I have a deadline "
        "this afternoon. Thanks, Hannah",
        Label("billing", "high", "T50318"),
    ),
    (
        "Where is my kettle? Tracking has not moved since 3 May. You can call me on 555-0187. "
        "Order: #H27745",
        Label("delivery", "normal", "H27745"),
    ),
    (
        "Hi there, the office chair does not fit, I want to return it. Take your time.",
        Label("return", "low", NO_ORDER),
    ),
    (
        "the blender leaks water. my customer number is 66120. it is about order k90462. "
        "someone could get hurt, so act now",
        Label("defect", "high", "K90462"),
    ),
    (
        "Good morning, I can not log in any more. My shop can not open until this is "
        "fixed. Paul D.",
        Label("account", "high", NO_ORDER),
    ),
    (
        "I ordered the wall clock twice, plaese cancel one. You will find it under D13809. "
        "No rush at all. Cheers",
        Label("cancellation", "low", "D13809"),
    ),
    (
        "How many watts does the air fryer use? The model on the box says XR-420. Regards, Omar",
        Label("question", "normal", NO_ORDER),
    ),
    (
        "Great advice on the docking station from your team. The order was W66591. "
        "Just wanted to let you know.",
        Label("feedback", "normal", "W66591"),
    ),
)


def answer(label: Label) -> str:
    """Return the line of JSON that the model should write for ``label``."""
    fields = {
        "category": label.category,
        "urgency": label.urgency,
        "order": label.order_number,
    }
    return json.dumps(fields, separators=(",", ":"))


def system_text() -> str:
    """Return the part of the prompt that every ticket shares: the rules, then the examples."""
    examples = "\n\n".join(f"Ticket: {text}\nAnswer: {answer(label)}" for text, label in EXAMPLES)
    return INSTRUCTION + "\n" + examples


def messages(ticket_text: str) -> list[dict[str, str]]:
    """Return the chat that asks for the label of one ticket; the ticket comes last."""
    return [
        {"role": "system", "content": system_text()},
        {"role": "user", "content": ticket_text},
    ]


def parse_label(output: str) -> Label | None:
    """Return the label that the model wrote, or None where its text is no valid label."""
    try:
        fields = json.loads(output)
    except ValueError:
        return None
    if not isinstance(fields, dict) or fields.keys() != {"category", "urgency", "order"}:
        return None
    category, urgency, order = fields["category"], fields["urgency"], fields["order"]
    if category not in CATEGORIES or urgency not in URGENCIES or not isinstance(order, str):
        return None
    if order != NO_ORDER and _ORDER_NUMBER.fullmatch(order) is None:
        return None
    return Label(category, urgency, order)


def score(outputs: Sequence[str], references: Sequence[Label]) -> Scores:
    """Return how many of the ``outputs`` say what their ``references`` say, field by field."""
    if len(outputs) != len(references):
        raise ValueError(
            f"{len(outputs)} outputs but {len(references)} references; give one for each ticket"
        )
    if not outputs:
        raise ValueError("there is nothing to score; give at least one output")
    labels = [parse_label(output) for output in outputs]
    pairs = list(zip(labels, references, strict=True))

    def share(field: str) -> float:
        right = sum(
            label is not None and bool(getattr(label, field) == getattr(reference, field))
            for label, reference in pairs
        )
        return right / len(pairs)

    return Scores(
        tickets=len(pairs),
        category=share("category"),
        urgency=share("urgency"),
        order_number=share("order_number"),
        overall=sum(label == reference for label, reference in pairs) / len(pairs),
        invalid=labels.count(None),
    )


def load_tickets(path: Path = TICKETS_PATH) -> list[Ticket]:
    """Return the held-out tickets that ship with the package, in file order."""
    tickets = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            label = Label(row["category"], row["urgency"], row["order_number"])
            tickets.append(Ticket(row["request_id"], row["text"], label))
    return tickets
