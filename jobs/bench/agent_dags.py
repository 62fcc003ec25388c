"""Workflows in the manner of Halo's templates: seven to ten prompts, two models, tools between.

Tickets of the shipped demo are answered with what two SQLite tables and a slow host know of them.
Each prompt begins with a role of its own of 150 to 350 characters, or goes on from an earlier
prompt and its answer, as agents do. The DAGs are in the manner of `imdb_diamond`,
`finewiki_long_chain` and `tpch_trident` (arXiv 2509.02121).
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

from flow_cases import ASSISTANT, END, USER, FlowCase, Row

from batchpipe.demo.prompt import load_tickets

CUSTOMERS, PRODUCTS = 64, 48
MAX_TOKENS = 32
DATABASE = "shop.db"
TOWNS = ("Aarhus", "Bergen", "Cork", "Delft", "Evora", "Freiburg", "Graz", "Huesca")
KINDS = ("kettle", "lamp", "desk", "bicycle", "tent", "camera", "radio", "stove")

CUSTOMER = "SELECT name, town, since, orders, returns FROM customer WHERE id = :id"
PRODUCT = "SELECT name, kind, price, stock, faults FROM product WHERE id = :id"

READER = (
    "You are the first to read a ticket in the service office of a shop for household goods. You "
    "say in two sentences what has happened and what the writer wants, without judging either, and"
    " you name the order and the thing that it is about."
)
LISTENER = (
    "You listen for how a ticket is written rather than for what it says. You tell in one sentence"
    " whether its writer is calm, worried or angry, and quote the words that show it. You never "
    "guess at reasons, and you never advise."
)
PLANNER = (
    "You plan what the service office does about a ticket. You read what your colleagues found "
    "out, weigh cost against trust, and write at most three steps in the order in which they are "
    "to be taken, each with who takes it. You do not write to the customer yourself."
)
CRITIC = (
    "You read drafts before they are sent. You look for promises that the shop cannot keep, for "
    "facts that nobody has checked and for a tone that would annoy you. You name the worst fault "
    "and how to mend it, in two sentences, and nothing else."
)
CLERK = (
    "You are a clerk of the stock room and know products, not people. You are given a ticket and "
    "what the books say of the product, and you say which of the product's known faults fits the "
    "ticket, or that none does."
)
CARRIER = (
    "You speak for the carrier. You are given a ticket and the last scan of the parcel, and you "
    "say where the parcel is, whether it is late and what will happen to it next. You apologise "
    "for nothing and promise nothing that the scan does not show."
)
LEDGER = (
    "You keep the customers' ledger. You are given a ticket and a customer's line in the ledger, "
    "and you say how much the shop should do to keep this customer, from nothing to a new product "
    "at once, with the one figure that decides it."
)


class Talk:
    """Prompts that go on from one another: what was said so far, as a template."""

    def __init__(self, model: str, text: str) -> None:
        self.model, self.text = model, text

    @classmethod
    def begun(cls, model: str, role: str, question: str) -> Talk:
        """With a role and a first question."""
        return cls(model, f"<|im_start|>system\n{role}{END}{USER}{question}{END}{ASSISTANT}")

    def after(self, step: str, question: str) -> Talk:
        """The same with the step's answer and a further question."""
        return Talk(
            self.model, f"{self.text}{{{{ {step}.output }}}}{END}{USER}{question}{END}{ASSISTANT}"
        )

    @property
    def step(self) -> Row:
        """What asks it."""
        return {"llm": self.model, "template": self.text, "max_tokens": MAX_TOKENS}


TICKET = "Ticket:\n{{ ticket }}"
FOUND_CUSTOMER = "The ledger: {{ customer.rows | tojson }}"
FOUND_PRODUCT = "The books: {{ product.rows | tojson }}"
FOUND_PARCEL = "The last scan: {{ parcel.text }}"


def diamond(host: str) -> Row:
    """Eight prompts: one reading of the ticket, three views of it, and what is made of them."""
    read = Talk.begun("a", READER, TICKET)
    mood = Talk.begun("b", LISTENER, TICKET)
    views = "\n".join(f"{{{{ {name}.output }}}}" for name in ("goods", "person", "way", "risk"))
    plan = Talk.begun("a", PLANNER, f"{TICKET}\n{views}")
    return {
        **_tools(host),
        "read": read.step,
        "mood": mood.step,
        "goods": read.after("read", f"{FOUND_PRODUCT}\nWhat is wrong with it?").step,
        "person": read.after("read", f"{FOUND_CUSTOMER}\nWhat is this customer worth?").step,
        "way": read.after("read", f"{FOUND_PARCEL}\nWhat is delayed, and why?").step,
        "risk": mood.after("mood", f"{FOUND_CUSTOMER}\nWill this customer leave?").step,
        "plan": plan.step,
        "reply": plan.after("plan", "Write to the customer now.").step,
    }


def chain(host: str) -> Row:
    """Nine prompts one after the other: an agent that looks things up, and a critic."""
    talk = Talk.begun("a", READER, TICKET)
    steps: Row = {**_tools(host), "turn1": talk.step}
    questions = (
        f"{FOUND_CUSTOMER}\nDoes that change your reading?",
        f"{FOUND_PRODUCT}\nWhich fault is it?",
        f"{FOUND_PARCEL}\nWho has the parcel?",
        "What shall be done first?",
        "Write to the customer.",
    )
    for number, question in enumerate(questions, start=1):
        talk = talk.after(f"turn{number}", question)
        steps[f"turn{number + 1}"] = talk.step
    critic = Talk.begun("b", CRITIC, "Draft:\n{{ turn6.output }}")
    steps["fault"] = critic.step
    steps["mended"] = critic.after("fault", "Say it in ten words.").step
    steps["last"] = talk.after("turn6", "A colleague says: {{ mended.output }}\nWrite again.").step
    return steps


def trident(host: str) -> Row:
    """Seven prompts: three experts, each with a tool and two questions, and who joins them."""
    goods = Talk.begun("a", CLERK, f"{TICKET}\n{FOUND_PRODUCT}")
    way = Talk.begun("a", CARRIER, f"{TICKET}\n{FOUND_PARCEL}")
    person = Talk.begun("b", LEDGER, f"{TICKET}\n{FOUND_CUSTOMER}")
    views = "\n".join(f"{{{{ {name}.output }}}}" for name in ("repair", "arrival", "offer"))
    return {
        **_tools(host),
        "goods": goods.step,
        "repair": goods.after("goods", "Can it be repaired, and by whom?").step,
        "way": way.step,
        "arrival": way.after("way", "On which day does it arrive, then?").step,
        "person": person.step,
        "offer": person.after("person", "What would you offer?").step,
        "plan": Talk.begun("a", PLANNER, f"{TICKET}\n{views}").step,
    }


DAGS: dict[str, Callable[[str], Row]] = {"diamond": diamond, "chain": chain, "trident": trident}
DAG_ROWS = 256


def dag_case(name: str, rows: int, host: str, folder: Path) -> FlowCase:
    """The DAG over so many tickets; the database lies in the folder."""
    _make_database(folder / DATABASE)
    steps = DAGS[name](host)
    draw = random.Random(7)
    table = [
        {
            "ticket": ticket.text,
            "order_id": f"{name}-{place}",
            "customer_id": draw.randrange(CUSTOMERS),
            "product_id": draw.randrange(PRODUCTS),
        }
        for place, ticket in enumerate(load_tickets()[:rows])
    ]
    asking = [step for step, each in steps.items() if "llm" in each]
    flow = {
        "databases": {"shop": f"sqlite:///{folder / DATABASE}"},
        "steps": steps,
        "output": {step: f"{step}.output" for step in asking},
    }
    facts = {"llm_steps": len(asking), "tools": len(steps) - len(asking)}
    return FlowCase(table, flow, single_rows=8, padded_rows=64, facts=facts)


def _tools(host: str) -> Row:
    return {
        "customer": {"sql": "shop", "query": CUSTOMER, "values": {"id": "customer_id"}},
        "product": {"sql": "shop", "query": PRODUCT, "values": {"id": "product_id"}},
        "parcel": {"http": f"GET {host}/parcels/{{{{ order_id }}}}"},
    }


def _make_database(path: Path) -> None:
    draw = random.Random(11)
    customers = [
        (
            n,
            f"customer {n}",
            draw.choice(TOWNS),
            draw.randint(2009, 2025),
            draw.randint(1, 90),
            n % 7,
        )
        for n in range(CUSTOMERS)
    ]
    products = [
        (n, f"{kind} no. {n}", kind, draw.randint(9, 400), draw.randint(0, 50), f"{kind} leaks")
        for n in range(PRODUCTS)
        for kind in [draw.choice(KINDS)]
    ]
    with sqlite3.connect(path) as database:
        database.execute(
            "CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, town TEXT, since INTEGER,"
            " orders INTEGER, returns INTEGER)"
        )
        database.execute(
            "CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT, kind TEXT, price INTEGER,"
            " stock INTEGER, faults TEXT)"
        )
        database.executemany("INSERT INTO customer VALUES (?, ?, ?, ?, ?, ?)", customers)
        database.executemany("INSERT INTO product VALUES (?, ?, ?, ?, ?, ?)", products)
    database.close()
