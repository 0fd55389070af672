"""``python -m peer_sync.server SITE_TOML``: the embedded server as a process of its own."""

import sys

from peer_sync.server.running import main

if __name__ == "__main__":
    sys.exit(main())
