"""The engine ``zenoh:…``: processes that find each other, without a broker.

Each process keeps its own log and shows its own instances; the others hear of them by publish and
subscribe, and ask for what they missed. The state has one owner at a time, and the others hold a
copy of it. All that is ours in Zenoh is below ``protoplane/<cluster>/``.
"""
