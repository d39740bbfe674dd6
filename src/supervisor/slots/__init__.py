"""Slots: which may take work, how memory is proven back, where runners come from."""
