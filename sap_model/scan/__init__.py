"""The scan: where the views are and in which order, a panorama to views, and masks back."""
