"""The smoothness vector L of Assumption 3.3 and its bracket."""
