"""What is said of generative families, measured on control tasks: claims with predictions, judged from comparisons.

`questions` reads what is asked (roundup.toml), `answers` judges it, `conduct` runs the comparisons, `publish` writes what came of it.
"""
