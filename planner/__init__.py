"""Numbers in, plan out. The planner never sees a tensor, a model or a file of prompts."""
