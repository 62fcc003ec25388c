"""The embedded demo: a tiny Llama-architecture model and 500 support tickets that it labels.

`batchpipe.demo.prompt` builds the prompts and scores the answers; `model/` loads with plain
`AutoModelForCausalLM.from_pretrained`. Both were written by ``jobs/demo/train.py``.
Nothing here imports torch or transformers.
"""
