"""One model over several devices: a process for each, of which this one decides and is followed.

Rank 0 is the process of the run. It alone has the plan, the scheduler and the answers; the other
ranks hold their slices of the weights and of the KV, and compute every token batch that they are
sent beside it. So nothing that is decided can differ between them.
"""
