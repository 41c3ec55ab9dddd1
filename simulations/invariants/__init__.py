"""What must hold in a world while it goes on and when it ends: one class for each family."""
