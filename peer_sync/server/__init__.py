"""The embedded read-only SFTP server: one outbox, the federation's keys, nothing else."""
