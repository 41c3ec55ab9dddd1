"""Who works in a world and keeps a record of it: writers, clients with a history, claimants."""
