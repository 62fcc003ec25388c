"""Machines and models in numbers, and what a step costs on them."""
