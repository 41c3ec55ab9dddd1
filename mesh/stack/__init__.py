"""Real servers for one machine: development, tests and rehearsals. Not for production."""

from mesh.stack.recipe import StackError
from mesh.stack.server import Server
from mesh.stack.stack import SERVICES, Stack

__all__ = ("SERVICES", "Server", "Stack", "StackError")
