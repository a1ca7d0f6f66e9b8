"""The answer and what it rests on: pure functions of what was measured. Needs no torch.

Nothing is imported here: ``answers`` is the race's rule too, and the rest of this package reads the race.
"""
