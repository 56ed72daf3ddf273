"""Layers that families share: blocks, embeddings, slimmable layers, solvers, ODE blocks."""
