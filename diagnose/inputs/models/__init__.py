"""Models by name, from files and from Python, before they have seen data."""
