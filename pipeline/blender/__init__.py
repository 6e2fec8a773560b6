"""Everything that runs inside Blender: scenes, instances, viewpoints, the render.

This is the only package that imports `bpy`, and it runs only as `python -m pipeline.blender` in a
process of its own, one scene and stage per process. Blender is licensed under the GNU GPL; what
is distributed together with `bpy` falls under it too. The rest of the project never imports it.
"""
