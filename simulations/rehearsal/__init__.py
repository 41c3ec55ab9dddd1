"""The rehearsal over real processes and services; `mesh demo` is one."""
