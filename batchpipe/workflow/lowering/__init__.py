"""From a workflow as written to the operators that the planner sees, and what they would cost."""
