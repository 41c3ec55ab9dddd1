"""Hostile peers against a live replica: `python -m tests.mesh.fuzz`.

A child process (`worker`) runs an honest writer and the victim, and feeds the victim with what
`cases` makes of real material: frames, certificates, snapshots, words of every kind, bus entries
and handshakes, mutated, cut, replayed, reordered, forged, foreign. The bulk goes over links in
memory, a portion over TCP with TLS. A parent (`driver`) bounds memory and time, and starts another
child behind a case that took one down. In the end the victim must equal a twin that was given the
honest frames only.
"""
