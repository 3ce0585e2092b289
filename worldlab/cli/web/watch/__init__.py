"""The page of `worldlab watch`: the runs of a folder live, from their files alone.

runs.py     what is known of all runs, kept up to date
page.py     what each open page still lacks, and the site
"""
