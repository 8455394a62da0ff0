"""data2vec audio."""
