"""Evaluation: real episodes, open-loop predictions, the dream-to-real gap, and dreams as environments."""
