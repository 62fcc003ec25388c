"""Batch files of OpenAI, Anthropic and Mistral: their lines, and what a job makes of them."""
