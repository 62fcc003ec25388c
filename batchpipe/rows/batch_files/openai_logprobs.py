"""The result column `logprobs` in the two forms that OpenAI's endpoints have for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from batchpipe.rows.batch import Record

BROKEN = "\ufffd"  # stands for bytes that are no character alone

Token = Mapping[str, Any]  # as the column has it


def chat_logprobs(tokens: Sequence[Token]) -> Record:
    """Of a chat completion: each token with its bytes, and the likeliest in its place."""
    content = [
        {**_told(token), "top_logprobs": [_told(each) for each in token["top"]]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def text_logprobs(tokens: Sequence[Token]) -> Record:
    """Of a text completion: four lists, beside one another."""
    texts = [token["token"] for token in tokens]
    return {
        "tokens": texts,
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [
            {each["token"]: each["logprob"] for each in token["top"]} for token in tokens
        ],
        "text_offset": list(accumulate(map(len, texts), initial=0))[: len(texts)],
    }


def _told(token: Token) -> Record:
    """The token; its bytes are null where they are only a part of a character."""
    text = token["token"]
    of_text = None if BROKEN in text else list(text.encode())
    return {"token": text, "logprob": token["logprob"], "bytes": of_text}
