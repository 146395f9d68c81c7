"""Units that prepare data for training: what they are made of and which operators run where."""

from neardata.arch.preprocessor.preprocessor import Preprocessor, load_preprocessor, preprocessor_names

__all__ = ["Preprocessor", "load_preprocessor", "preprocessor_names"]
