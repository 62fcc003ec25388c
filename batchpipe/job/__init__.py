"""What is asked: a model's language, rows become prompts, prompts a plan for this machine."""
