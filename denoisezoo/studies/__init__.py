"""Studies of trained networks: each gives rows, and says which of them to plot."""
