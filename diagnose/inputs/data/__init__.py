"""Data by name, from files and from Python, as tables, text and tensors."""
