"""A workflow as its author writes it, in YAML or in Python; mistakes are told with their place."""
