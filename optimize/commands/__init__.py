"""The commands of this package, each a function that returns its exit code.

    export      export and validate
    report      report
    versions    versions, promote, rollback, pull and gc
    init        a first budgets file
    doctor      what this machine can do
    options     what several of them take

No module imports a heavy library before one of its functions runs.
"""
