"""What can be known before a training begins: files, agreement with the other sites, memory, pace."""
