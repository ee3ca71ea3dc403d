"""Check a running service against its throughput budget: an open-loop load test.

    cli       arguments and exit codes
    run       the whole load test, in order
    service   what the service is asked before the load
    payloads  what the calls carry: real rows, or inputs made from the service's own description
    plan      the load generator's task, in a file
    user      the generator: Locust in its own process, since importing it patches the whole process
    results   the outcome of each call, in a file
    verdict   pure: (calls, budget) -> PASS, FAIL or INCONCLUSIVE, and whether the generator kept up
    report    pure: the same as a table, Markdown and JSON

Latency counts from the moment a call was due. A closed-loop client waits for an answer before it sends again, so it sends little while
the service is slow, and measures little of the slow phase: coordinated omission.
"""
