"""The engine ``local:``: one folder that any number of processes of one machine share.

Durable events lie in an SQLite file, and all new events, also those that never see a disk, pass
through a ring in shared memory, from which readers in other processes take them when a bell rings.
"""
