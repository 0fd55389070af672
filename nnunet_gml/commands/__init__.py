"""One module for each larger command of `nnunet-gml`."""
