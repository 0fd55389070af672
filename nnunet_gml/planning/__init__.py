"""One plan for all sites: what must agree, how sites come to it, and how names of labels are compared."""
