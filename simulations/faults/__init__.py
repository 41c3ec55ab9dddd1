"""What goes wrong in a world: plans of faults as data, their kinds, and what each kind does."""
