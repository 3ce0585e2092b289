"""Plays an environment and the dreams of trained models side by side, step by step.

controls.py   which keys and sliders an action space gets
noise.py      the random numbers of dreams: fixed, fresh or none, and their temperature
views.py      what one model makes of one moment: its filtered state, its dream, its predictions and pictures
session.py    the environment, the timeline of moments, and who drives
futures.py    several dreams from one moment
codes.py      the latent of a moment as numbers that can be changed
"""
