// Painting a mask over a picture: white where it is painted anew, black elsewhere, of the same size.

import { h } from "./dom.js";

/** `{element, painted, file()}` for a picture's file. */
export async function maskPainter(file) {
  const picture = await createImageBitmap(file);
  const { width, height } = picture;
  const mask = new OffscreenCanvas(width, height);
  const paint = mask.getContext("2d");
  const canvas = h("canvas", { tabIndex: 0, "aria-label": "Paint what is drawn anew. Arrow keys move the brush, space paints." });
  canvas.width = width;
  canvas.height = height;
  const shown = canvas.getContext("2d");
  const brush = h("input", { type: "range", min: 1, max: 50, value: 12, "aria-label": "Size of the brush" });
  const state = { painted: false, x: width / 2, y: height / 2 };

  const draw = () => {
    shown.globalAlpha = 1;
    shown.drawImage(picture, 0, 0);
    shown.globalAlpha = 0.6;
    shown.drawImage(mask, 0, 0);
    if (document.activeElement === canvas) {
      shown.globalAlpha = 1;
      shown.lineWidth = Math.max(1, width / 256);
      shown.strokeStyle = "#b4470f";
      shown.beginPath();
      shown.arc(state.x, state.y, radius(), 0, 2 * Math.PI);
      shown.stroke();
    }
  };
  const radius = () => (Math.max(width, height) * brush.value) / 200;
  const dab = () => {
    paint.fillStyle = "white";
    paint.beginPath();
    paint.arc(state.x, state.y, radius(), 0, 2 * Math.PI);
    paint.fill();
    state.painted = true;
  };
  const to = (event) => {
    const box = canvas.getBoundingClientRect();
    state.x = ((event.clientX - box.left) / box.width) * width;
    state.y = ((event.clientY - box.top) / box.height) * height;
  };
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); to(event); dab(); draw(); });
  canvas.addEventListener("pointermove", (event) => { to(event); if (event.buttons) dab(); draw(); });
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (move) {
      state.x = Math.min(width, Math.max(0, state.x + (move[0] * radius()) / 2));
      state.y = Math.min(height, Math.max(0, state.y + (move[1] * radius()) / 2));
    } else if (event.key === " ") dab();
    else return;
    event.preventDefault();
    draw();
  });
  canvas.addEventListener("focus", draw);
  canvas.addEventListener("blur", draw);
  draw();
  return {
    element: h("div", { className: "mask" }, canvas, h("label", {}, "Brush ", brush)),
    get painted() { return state.painted; },
    async file() {
      const whole = new OffscreenCanvas(width, height);
      const context = whole.getContext("2d");
      context.fillStyle = "black";
      context.fillRect(0, 0, width, height);
      context.drawImage(mask, 0, 0);
      return new File([await whole.convertToBlob()], "mask.png", { type: "image/png" });
    },
  };
}
