"""Ready scenarios, scenarios in files, and the corners that a swarm rarely meets."""
