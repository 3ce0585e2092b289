"""Comparisons of world models: a matrix of runs under equal budgets, which can be interrupted and resumed.

matrix -> cells -> launcher -> results -> (worldlab.study.statistics, worldlab.study.report)

A cell is one run of the comparison: one method on one environment with one seed.
"""
