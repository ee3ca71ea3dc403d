"""Hold a running service to the throughput budget it was published under: an open-loop load test.

    arrivals    when each call is due, decided before the first is sent
    payloads    what the calls carry: real rows, or inputs made from the service's own description
    service     what is asked of the service before the load
    plan        what the load generator is to do, in a file
    user        the generator: Locust in a process of its own, since importing it patches the whole process
    results     what became of each call, in a file
    verdict     pure: (calls, budget) -> PASS, FAIL or INCONCLUSIVE, and whether the generator kept up
    report      pure: the same as a table, Markdown and JSON
    run         the story in order
    cli         arguments and exit codes

Latency counts from the moment a call was due. A closed-loop client waits for an answer before it sends again, and so sends little
while the service is slow, and measures little of it: coordinated omission. Here a call is due when it is due.
"""
