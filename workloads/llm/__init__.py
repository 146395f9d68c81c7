"""Large language models as operator graphs."""
