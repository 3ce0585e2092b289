"""What is said of generative families, measured on control tasks: claims with predictions, results from comparisons.

`roundup` reads what is asked (roundup.toml), `prediction_results` judges it, `conduct` runs the comparisons, `publish` writes what came of it.
"""
