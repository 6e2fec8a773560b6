"""A page on this machine on which a person clicks masks: `sap-panorama demo`."""
