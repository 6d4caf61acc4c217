"""One test or more for each must of docs/security.md that is not tested elsewhere."""
