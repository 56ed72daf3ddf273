"""How good generated images are, and the card without which such a figure is not a result."""
