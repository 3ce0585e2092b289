"""Comparing world models: a matrix of runs under equal budgets, launched, continued, judged and reported.

matrix -> cells -> launcher -> results -> (worldlab.study.statistics, worldlab.study.report)
"""
