"""The farm: which scene does what next, where it runs, and what became of every attempt.

A seed on its way from `make render` to a shard:

    commands/run.py            settings, then the driver, then packing and the preview page
    farm/driver.py             the loop: which attempt starts next, and what follows from its result
      run_lock.py              one driver for each OUT
      takeover.py              what an earlier driver left running
      scene.py                 what a scene still needs
      resource_requests.py     CPUs, GPU and memory of an attempt, after failures too
      scheduler.py             the node on which it runs; node_health.py: nodes that fail
    farm/executor.py           the attempt as a Ray task
    farm/worker.py             the attempt on its node: fetch, work, deliver, marker last
    farm/run_child.py          a Blender process within its limits
    blender/__main__.py        generate a scene, or render it
    annotations/stage.py       annotate it, in the worker itself
    farm/scene.py              finish: the record in done/
    farm/quarantine.py         or put a seed aside: the record in failed/
    shards/writer.py           pack
"""
