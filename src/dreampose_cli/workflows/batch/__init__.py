"""`batch`: a catalogue of photos and dances to videos, idempotent, on processes of this machine or on Ray.

::

    jobs.py, job_options.py   what is asked: photos x dances, or a jobs file, checked whole
    digests.py                content of the inputs, remembered by size and time of change
    plan.py                   steps addressed by content: poses of a dance, a subject, a video; what is there is left out
    manifest.py               FOLDER/manifest.jsonl: what was done, where, and how long it took
    estimates.py              what a plan will take, from measured seconds
    schedule.py               which step is next, dependencies, failures
    driver.py                 the loop: engine, retries, time limits, manifest, events
    steps.py, failures.py     one step, in a worker; which failures may pass
    local.py, worker.py       engine "local": processes of this machine
    ray_engine.py             engine "ray": actors of a cluster

The driver imports no torch: it plans, waits and writes down.
"""
