"""Experience: the agent acts, the collector records, the replay stores and samples."""
