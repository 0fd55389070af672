"""The courier between sites: files and facts. PROTOCOL.md is its specification."""
