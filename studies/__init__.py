"""Studies: paper reproductions as data (YAML) with the claims they check."""
