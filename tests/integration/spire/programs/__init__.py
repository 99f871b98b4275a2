"""What runs as a workload: programs that say JSON lines."""
