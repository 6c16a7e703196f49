"""Sums that the server learns without learning a term (Bonawitz et al., 2017)."""
