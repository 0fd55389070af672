"""Trained models that leave a site or come to it: zips, model cards, starting points."""
