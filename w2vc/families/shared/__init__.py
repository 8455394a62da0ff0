"""What several families share: the extractor, the projection, the positional convolution, the heads, and their keys."""
