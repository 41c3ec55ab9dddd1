"""How links are made: in memory, and over TCP with TLS. No protocol logic lives here."""
