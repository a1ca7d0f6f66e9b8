"""A diagnosis as it is stored."""
