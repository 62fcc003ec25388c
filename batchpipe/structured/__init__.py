"""Answers of a form: choices, JSON Schemas, regular expressions and grammars."""
