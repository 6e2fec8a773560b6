"""The scan: where the views are and in which order, a panorama to views, and masks back.

trajectory.py    the views of the paper's scan and their order
camera.py        one view: its rays and rotation
views.py         a panorama to views; torch_views.py does the same with torch
fusion.py        masks of views to a mask of the panorama
"""
