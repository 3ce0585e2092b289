"""Evaluation: episodes in the real environment, dreams beside what happened, dreams as environments."""
