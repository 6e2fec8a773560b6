"""Everything that runs inside Blender: scenes, instances, viewpoints, the render.

This is the only package of the project that imports `bpy`. It runs in separate processes, one
for each scene and stage (`python -m pipeline.blender`), never in the driver or in a Ray worker.
Blender is licensed under the GNU GPL; what is distributed together with `bpy` falls under it too.
See README.md in this folder.
"""
