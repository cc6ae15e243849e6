"""Search spaces: choices, their genes, sampling, restricting, products; needs nothing but numpy."""

from supernet.space.search_space import Gene, Genes, SearchSpace, Stage

__all__ = ["Gene", "Genes", "SearchSpace", "Stage"]
