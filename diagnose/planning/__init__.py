"""What a run will take, and how it is kept within a budget."""
