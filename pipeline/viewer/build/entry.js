// What the pages use of Photo Sphere Viewer and three.js, as one script: `window.PanoramaViewer`.
import { Viewer } from "@photo-sphere-viewer/core";
import { MarkersPlugin } from "@photo-sphere-viewer/markers-plugin";
import { CanvasTexture, SRGBColorSpace } from "three";

/** A canvas of the panorama's proportions, shown on the sphere above the picture. */
class CanvasLayer {
  constructor(viewer, canvas) {
    this.viewer = viewer;
    const panoData = viewer.state.textureData.panoData;
    this.texture = new CanvasTexture(canvas);
    this.texture.colorSpace = SRGBColorSpace;
    this.mesh = viewer.adapter.createMesh(panoData);
    this.mesh.renderOrder = 100;
    viewer.adapter.setTexture(this.mesh, { texture: this.texture, panoData });
    this.mesh.material.transparent = true;
    viewer.renderer.addObject(this.mesh);
    this.update();
  }

  /** Show what was drawn on the canvas since the last call. */
  update() {
    this.texture.needsUpdate = true;
    this.viewer.needsUpdate();
  }

  remove() {
    this.viewer.renderer.removeObject(this.mesh);
    this.texture.dispose();
    this.viewer.needsUpdate();
  }
}

export { CanvasLayer, MarkersPlugin, Viewer };
