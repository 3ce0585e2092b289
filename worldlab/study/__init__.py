"""Studies: comparisons of world models, their measures, statistics and reports, and the round-up of claims."""
