"""What must be decided once: state machines, exclusive claims, and the documents they write to.

    from workflows.machine import Machine, Rule     definitions, and the pure step
    from workflows.registry import register         machines, guards and actions by name
    from workflows.claims import EXCLUSIVE          claims with fencing tokens
    from workflows.publish import publish           a decision into a mesh document
    from workflows.state import AgentState          ready-made documents

`workflows.coordinator`, which a replica finds whose settings name a server, and `workflows.worker`
talk to Temporal. This file imports nothing: Temporal's sandbox would load it for every machine.
"""
