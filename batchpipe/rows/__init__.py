"""Job files in, result files out. This room never sees a model, a tokenizer or a tensor."""
