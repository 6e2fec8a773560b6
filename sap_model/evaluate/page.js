
// Cases in 360°. `panoramas`: pictures by name; `cases`: {panorama, title, masks, points, at}.

const {panoramas, cases} = JSON.parse(document.getElementById("cases").textContent);

/** Draw a case on a canvas: what was predicted in orange, what is true as a white outline. */
function drawCase({points, size}, {data, width, height}, context, across, down) {
  const image = new ImageData(width, height), out = new Uint32Array(image.data.buffer);
  const truth = i => data[4 * i + 1] > 127;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (data[4 * i] > 127) out[i] = 0x801478e6; // alpha, blue, green, red
      const right = x < width - 1 ? i + 1 : i - width + 1;
      const below = y < height - 1 ? i + width : i;
      if (truth(i) !== truth(right) || truth(i) !== truth(below)) out[i] = 0xffffffff;
    }
  }
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(small, 0, 0, across, down);
  for (const [x, y, label] of points) {
    for (const [style, radius] of [["#fff", 9], [label ? "#28c850" : "#e6283c", 6]]) {
      context.fillStyle = style;
      context.beginPath();
      context.arc((x + 0.5) / size[1] * across, (y + 0.5) / size[0] * down, radius, 0, 7);
      context.fill();
    }
  }
}

async function open(found) {
  const masks = new Image();
  masks.src = found.masks;
  await masks.decode();
  const {width, height} = masks;
  const context = new OffscreenCanvas(width, height)
    .getContext("2d", {colorSpace: "srgb", willReadFrequently: true});
  context.drawImage(masks, 0, 0);
  const pixels = context.getImageData(0, 0, width, height);
  lookAround({
    title: found.title, picture: panoramas[found.panorama], at: found.at,
    draw: (target, across, down) => drawCase(found, pixels, target, across, down),
  });
}

for (const button of document.querySelectorAll("button.around")) {
  button.addEventListener("click", () => open(cases[Number(button.dataset.case)]));
}
