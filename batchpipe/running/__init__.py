"""A planned job executed: begun or resumed, answered, recorded and written."""
