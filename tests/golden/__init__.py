"""Results of small real runs, as ``make.py`` wrote them."""
