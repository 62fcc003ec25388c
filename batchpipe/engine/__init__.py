"""Runs a plan on a model: packed batches through transformers' own code and our attention."""

import logging

# transformers imports torchao wherever it is installed. That it has no kernels for this machine's
# processor would be the first thing that a user reads, whether anything is quantised or not.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
