"""Importers: other people's panoramas with instance masks, converted once into our shards.

    sap-panorama import-coco SOURCE OUT
    sap-panorama import-pavs SOURCE OUT
    sap-panorama import-hunyuan SOURCE OUT

OUT then opens with `pipeline.shards.reader.ShardReader` and is evaluated like our own validation
set, which needs no import. Each importer's docstring says which folders and files it expects;
what a row of an imported panorama holds is described in `sap_model.importers.annotated_row`.
"""
