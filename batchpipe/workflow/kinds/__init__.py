"""What each kind of step asks for a row, and what it makes of the answers."""
