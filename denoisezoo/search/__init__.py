"""Finding plans: a loss table, the exact front under it, and evolution with measured quality."""
