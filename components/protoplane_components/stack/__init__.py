"""A whole stack on one machine: what ``protoplane up`` starts and ``protoplane down`` ends.

One process, the supervisor, imports what the others need once, forks them, and starts again what
dies. Its lock in the state folder says that a stack is up; its record there says how it does.
"""
