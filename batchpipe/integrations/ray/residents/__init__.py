"""Workflows' models on workers: which worker has which, and which prompt goes to whom.

The driver knows rows, steps and the journal, and asks models. Workers have models in memory.
"""
