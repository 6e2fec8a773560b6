"""Importers: other people's panoramas with instance masks, converted once into our shards.

    python -m sap_model.importers coco SOURCE OUT
    python -m sap_model.importers pavs SOURCE OUT
    python -m sap_model.importers hunyuan SOURCE OUT

OUT then opens with `pipeline.shards.reader.ShardReader` and is evaluated like our own validation
set, which needs no import. Each importer's docstring says which folders and files it expects;
what a row of an imported panorama holds stands in `sap_model.importers.annotated_row`.
"""
